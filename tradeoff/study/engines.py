"""Engines that make calls: this process, its threads, worker processes, or Dask or Ray workers.

Every engine yields each outcome when it is ready, in any order. It limits the numerical libraries
of all workers to the same number of threads, so that rounding does not depend on the number of
cores. If a worker process, or a worker of Dask, dies, the others continue.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

import joblib
from threadpoolctl import threadpool_limits

from tradeoff.errors import InputError
from tradeoff.study import processes
from tradeoff.study.processes import Died

Backend = Literal["loky", "sequential", "threading", "dask", "ray"]
BACKENDS: tuple[str, ...] = ("loky", "sequential", "threading", "dask", "ray")
"""Names of the engines."""


def stream(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    *,
    backend: str,
    jobs: int,
    threads: int,
    client: Any = None,
) -> Generator[Any, None, None]:
    """Call a function with each tuple of arguments; yield each result when it is ready.

    For a call whose worker process of "loky" or "dask" died twice, a
    ``tradeoff.study.processes.Died`` is yielded.

    Parameters
    ----------
    function, arguments
        A function that workers can import, and the arguments of each call.
    backend
        One of :data:`BACKENDS`.
    jobs
        Number of calls at a time; -1 uses all cores, ``threads`` of them for each call. All workers
        of a client are used, and with -1 all workers of a Ray cluster.
    threads
        Threads of the numerical libraries within a call.
    client
        For "dask": a ``distributed.Client``. Without one, the scheduler at
        ``DASK_SCHEDULER_ADDRESS`` is used, or a cluster on this machine is started.
    """
    check(backend, jobs, threads, client)
    if not arguments:
        return
    with threadpool_limits(threads):
        if backend == "sequential":
            yield from (function(*a) for a in arguments)
            return
        workers = max(1, joblib.cpu_count() // threads) if jobs == -1 else jobs
        if backend == "loky":
            yield from processes.stream(function, arguments, workers, threads)
        elif backend == "dask":
            with _dask(workers, client) as cluster:
                yield from _through(cluster, function, arguments)
        else:
            with _parallel(backend, jobs, workers) as parallel:
                results = parallel(joblib.delayed(function)(*a) for a in arguments)
                try:
                    for result in results:  # noqa: UP028  `yield from` would close it unfiltered
                        yield result
                finally:
                    _cancel(results)


def _cancel(results: Generator[Any, None, None]) -> None:
    """Cancel the running calls, without the warning of joblib about an early stop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ tasks (which were|have been)", UserWarning)
        results.close()


@contextmanager
def few_threads(threads: int, *, kernels: bool = True) -> Iterator[None]:
    """Limit the threads of BLAS, torch and, with `kernels`, numba and OpenMP, where loaded."""
    numba, torch = sys.modules.get("numba"), sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0, numba.get_num_threads() if numba else 0
    try:
        if numba and kernels:
            numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        if torch:
            torch.set_num_threads(threads)
        with threadpool_limits(threads, None if kernels else "blas"):
            yield
    finally:
        if numba and kernels:
            numba.set_num_threads(before[1])
        if torch:
            torch.set_num_threads(before[0])


def check(backend: str, jobs: int, threads: int = 1, client: Any = None) -> None:
    """Raise an `InputError` if no workers can be started so; arguments as for :func:`stream`."""
    if backend not in BACKENDS:
        raise InputError(
            "unknown backend", field="backend", value=backend, remedy=f"Use one of {BACKENDS}."
        )
    if client is not None and backend != "dask":
        raise InputError(
            "only Dask has a client", field="backend", value=backend, remedy='Use backend="dask".'
        )
    for field, value in (("jobs", jobs), ("threads", threads)):
        if value < 1 and (field, value) != ("jobs", -1):
            raise InputError(
                "not a number of workers",
                field=field,
                value=value,
                remedy=f"Use 1 or more{', or -1 for all cores' if field == 'jobs' else ''}.",
            )


@contextmanager
def _parallel(backend: str, jobs: int, workers: int) -> Iterator[joblib.Parallel]:
    """A joblib.Parallel of threads or of Ray that yields results as they are ready.

    Each task is one call. Otherwise joblib would join short calls and delay the first results.
    """
    settings = {"return_as": "generator_unordered", "batch_size": 1}
    if backend == "ray":
        with _ray() as chosen:
            yield joblib.Parallel(backend=chosen, n_jobs=jobs, **settings)
    else:
        yield joblib.Parallel(backend=backend, n_jobs=workers, **settings)


@contextmanager
def _dask(workers: int, client: Any) -> Iterator[Any]:
    """The given client, one of the scheduler in Dask's settings, or one of a new cluster here."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise _not_installed("dask") from error
    if client is not None:
        yield client
        return
    if address := dask.config.get("scheduler-address", None):
        with Client(address, set_as_default=False) as own:
            yield own
        return
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as own,
    ):
        yield own


def _through(
    client: Any, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> Generator[Any, None, None]:
    """Make calls on the workers of a client.

    Dask gives up a call whose workers died several times, and also calls that waited for the same
    workers. So each of these calls is made once more, alone.
    """
    for one in (yield from _submitted(client, function, arguments)):
        if len(arguments) == 1:
            yield one
        else:
            yield from _through(client, function, [one.arguments])


def _submitted(
    client: Any, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> Generator[Any, None, list[Died]]:
    """Yield results as they arrive; return the calls that Dask has given up."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    died = []
    calls = {client.submit(function, *given, pure=False): given for given in arguments}
    try:
        for future in as_completed(list(calls), loop=client.loop):
            given = calls.pop(future)
            try:
                result = future.result()
            except KilledWorker as error:
                died.append(Died(given, str(error)))
            else:
                yield result
    finally:
        client.cancel(list(calls))
    return died


@contextmanager
def _ray() -> Iterator[Any]:
    try:
        ray = import_module("ray")
        base: Any = import_module("ray.util.joblib.ray_backend").RayBackend
    except ImportError as error:
        raise _not_installed("ray") from error

    class Streaming(base):
        """Ray's backend, which can return results one by one although its inherited flag is off."""

        supports_return_generator = True

    started = not ray.is_initialized()
    if started:
        ray.init()
    try:
        yield Streaming()
    finally:
        if started:
            ray.shutdown()


def _not_installed(backend: str) -> InputError:
    return InputError(
        f"the package of backend {backend!r} is not installed",
        field="backend",
        value=backend,
        remedy="Install it with `pip install 'tradeoff[cluster]'`, or use backend=\"loky\".",
    )
