"""Training of many runs as one ensemble with stacked parameters.

The parameters of run r are row r of one matrix. At each update the runs are grouped by the
objective that they follow. The gradients of a group are computed in one batched call. If the task
gains nothing by that, they are computed run by run, on as many threads as torch has. Runs never
mix. Run by run, the result of a run does not depend on the others, bit for bit. In batched calls it
depends on them by the rounding of batched products: in the tests' 25 updates, parameters agree to
1e-10 in float64 and to 2e-4 in float32. Small batches run on one thread, see
`tradeoff.networks.threads`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from tradeoff.display import as_html
from tradeoff.errors import InputError
from tradeoff.methods import Method, told_apart
from tradeoff.methods.after import Resa
from tradeoff.methods.losses import Grouped, TokenWeighted
from tradeoff.methods.parameters import Added
from tradeoff.methods.transforms import Retrieved, Written
from tradeoff.networks import optimizers
from tradeoff.networks._chosen_rows import chosen_rows
from tradeoff.networks.followed import Choices, Run
from tradeoff.networks.loop import Loop
from tradeoff.networks.optimizers import Optimizer
from tradeoff.networks.tasks import Params, Task
from tradeoff.networks.threads import SMALL, one_thread, spread
from tradeoff.networks.trained_losses import (
    AddedTask,
    CarryingTask,
    FeatureTask,
    FiniteTask,
    JudgedTask,
    LookedUpTask,
    RecordsTask,
    RewritingTask,
    ThinkingTask,
    TokenTask,
    ViewTask,
    WeightedTask,
    WritingTask,
)
from tradeoff.progress import tqdm
from tradeoff.schedules import Decay, Rule, Schedule
from tradeoff.settings import BelowOne, Count, Updates, Within, checked

__all__ = ["Ensemble", "Run", "grid", "train"]

ADDED = 1
"""Tells the draws of what a method adds to a network from other draws of the seed."""


@dataclass(frozen=True, repr=False)
class Ensemble:
    """The result of R runs.

    Attributes
    ----------
    runs
        The runs as they were given.
    table
        A table with one row per run and evaluation, see `train`.
    params
        Final parameters, each tensor with the run as first axis. A run that diverged has its last
        finite parameters. For a method with averages or merges, these are applied.
    diverged_at
        (R,) number of updates done when a loss or gradient was first not finite; NaN: never.
    """

    runs: tuple[Run, ...]
    table: pd.DataFrame
    params: Params
    diverged_at: Float[np.ndarray, " R"]

    def __repr__(self) -> str:
        diverged = int(np.isfinite(self.diverged_at).sum())
        steps = self.table["step"].max()
        return f"Ensemble({len(self.runs)} runs of {steps} updates, {diverged} diverged)"

    def _repr_html_(self) -> str:
        return as_html(repr(self), self.table)


def grid(methods: Sequence[Method | Schedule], seeds: Sequence[int]) -> tuple[Run, ...]:
    """One run of every method with every seed; the seed varies fastest."""
    return tuple(Run(method, seed) for method in methods for seed in seeds)


@checked
def train(
    task: Task,
    runs: Sequence[Run],
    *,
    steps: Updates,
    learning_rate: float | Sequence[float] | Sequence[Sequence[float]],
    optimizer: Optimizer = "adamw",
    batch_size: Count = 32,
    decay: Decay = 0.0,
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.95),
    weight_decay: Annotated[float, Within(0, 1e3)] = 0.0,
    clip: Annotated[float, Within(0, 1e6, "(]")] | None = None,
    evaluate_every: Updates | None = None,
    start: Params | None = None,
    reference: Params | Literal["base"] = "base",
    optima: ArrayLike | None = None,
    recent: Annotated[float, Within(0, 1, "(]")] = 0.1,
    last_layer_only: bool = False,
    at_once: Count | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Ensemble:
    """Train an ensemble.

    Parameters
    ----------
    task
        Model and data.
    runs
        The runs to train. Runs of one seed share initial weights and draws, so that schedules are
        compared on the same draws.
    steps
        Updates per run.
    learning_rate, decay
        Step size ``learning_rate / clock**decay``, where the clock counts updates of the stage from
        1. Give one rate, or one for each run, or (R, S): S rates for each run, one for each stage
        in turn. With ``decay="linear"`` the rate falls linearly to zero over the stage, as usual in
        trainers. The optimiser's state restarts with the clock.
    optimizer, betas, weight_decay, clip
        "adamw" or "sgd"; the moments of Adam; decoupled weight decay; largest norm of a run's
        gradient (``None``: any).
    batch_size
        Rows per gradient, drawn with replacement. An update that follows both objectives takes
        that many of each.
    evaluate_every
        Updates between evaluations; ``None`` gives about a dozen evaluations, evenly spaced in log.
        The first is before any update, the last after all.
    start
        Stacked initial parameters, of R runs or of one run for all; the task's base models by
        default.
    reference
        "base" is each run's base model. Otherwise stacked parameters of R policies or of one, such
        as an SFT optimum, found by training ``Alright(lam=0)``.
    optima
        (2,) or (R, 2) minimal training losses of (SFT, preference). MAXRIGHT needs both; lower
        bounds such as zeros are allowed, but they shift its choice. Constrained needs the first.
        Without it, its limit is measured from the least SFT loss seen so far, with a warning.
    recent
        Weight of the newest minibatch loss in a running average. Between two evaluations of their
        probe set, these rules use that average as the value of the chosen objective.
    last_layer_only
        Train the last layer only.
    at_once
        Runs per batched call, all by default; fewer need less memory. It has no effect for a task
        that is not batched.
    device
        Device of the computation, "cpu" or "cuda". The returned parameters stay there.
    progress
        Show a progress bar.

    Returns
    -------
    Ensemble
        Its table has columns run (place in `runs`), schedule (label of the method), lam, seed,
        step, the measures of `Task.evaluate`, sft_updates and preference_updates (used so
        far), probe_rows (data rows evaluated to compare gaps), seconds (of training, all runs
        together) and diverged_at. Losses are those of the task, also if a method trains other
        losses. A run that diverged keeps its last finite parameters in all later rows.

    Raises
    ------
    InputError
        If a setting is out of range, gaps are compared without `optima`, or a method cannot run.

    Warns
    -----
    UserWarning
        If `optima` are absent, so that a Constrained run measures its limit from the least SFT loss
        seen.

    Examples
    --------
    >>> from tradeoff.networks.policies import PolicyConfig, policy_data
    >>> from tradeoff.networks.tasks import PolicyTask
    >>> from tradeoff.schedules import Mix, Sequential
    >>> task = PolicyTask(policy_data(0), PolicyConfig(width=16, depth=1))
    >>> done = train(task, grid([Mix(), Sequential()], [0, 1]), steps=10, learning_rate=0.01)
    >>> done.params["head.weight"].shape
    torch.Size([4, 8, 16])
    """
    if not isinstance(runs, Sequence) or not all(isinstance(run, Run) for run in runs) or not runs:
        remedy = "Give at least one, as tradeoff.networks.train.grid makes them."
        raise InputError("not a list of runs", field="runs", value=runs, remedy=remedy)
    _check_methods(task, runs)
    parts = [_apart_by(run) for run in runs]
    if len(set(parts)) > 1:
        # Runs with other tensors or rows are other ensembles.
        given = {
            "steps": steps, "optimizer": optimizer, "batch_size": batch_size, "decay": decay,
            "betas": betas, "weight_decay": weight_decay, "clip": clip, "recent": recent,
            "evaluate_every": evaluate_every, "last_layer_only": last_layer_only,
            "at_once": at_once, "device": device, "progress": progress,
        }  # fmt: skip
        own = {
            "learning_rate": _rates(learning_rate, len(runs)).tolist(),
            "optima": _optima(runs, steps, optima),
            "start": start,
            "reference": reference,
        }
        return _apart(task, runs, parts, given, own)
    added, written = parts[0]
    task = scored = task.to(device)
    if isinstance(written, Retrieved):
        assert isinstance(task, LookedUpTask), "checked before"
        task = task.looked_up(written)
    elif written is not None:
        assert isinstance(task, RewritingTask), "checked before"
        task = task.rewritten(written)
    base = task.initial([run.seed for run in runs])
    held = _stacked("start", base if start is None else start, len(runs), device)
    names = [_last_layer(task)] if last_layer_only else list(held)
    if added is not None:
        names, more = _with_added(added, task, runs, held, last_layer_only)
        held |= more
    trained = {name: held.pop(name) for name in names}
    anchor = (
        base if isinstance(reference, str) else _stacked("reference", reference, len(runs), device)
    )
    least = _optima(runs, steps, optima)
    members: dict[Method, list[int]] = {}
    for place, run in enumerate(runs):
        members.setdefault(Method.of(run.method), []).append(place)
    kept = chosen_rows(task, members, base if start is None else _on(start, device))
    choices = Choices(runs, steps, batch_size, task.sizes, least, recent, kept)
    rates = _rates(learning_rate, len(runs))
    records, marks = {}, _marks(evaluate_every, steps)
    stacked = sum(value.numel() for value in (*trained.values(), *held.values()))
    threads = torch.get_num_threads()
    apart = not task.batched and (len(runs) >= threads or stacked <= SMALL * len(runs))
    at_once = (at_once or len(runs)) if task.batched else 1
    with (
        one_thread(when=apart or stacked <= SMALL),
        spread(min(threads, len(runs)) if apart else 1) as each,
    ):
        shift = known = task.reference(anchor).expand(len(runs))
        if task is not scored:
            known = scored.reference(anchor).expand(len(runs))
        anchors = {
            name: value.expand(len(runs), *value.shape[1:]) for name, value in anchor.items()
        }
        loop = Loop(
            task, choices, trained, held, shift.train, clip, at_once, each, anchors, added, scored
        )
        descend = optimizers.make(optimizer, loop.theta, betas, weight_decay)
        for t in tqdm(range(steps + 1), desc="updates", disable=not progress, leave=False):
            if t in marks:
                records[t] = loop.record(known)
            if t < steps:
                loop.update(t, descend, rates, decay)
    final = loop.params(loop.shown())
    diverged_at = loop.diverged_at.double().cpu().numpy()
    return Ensemble(tuple(runs), _table(runs, records, diverged_at), final, diverged_at)


Kind = tuple[Added | None, Retrieved | Written | None]


def _apart_by(run: Run) -> Kind:
    """What a run adds to its network, and what it looks up or writes for its rows."""
    method = Method.of(run.method)
    return (
        method.parameters if isinstance(method.parameters, Added) else None,
        method.data if isinstance(method.data, Retrieved | Written) else None,
    )


def _with_added(
    added: Added, task: Task, runs: Sequence[Run], held: Params, last_layer_only: bool
) -> tuple[list[str], Params]:
    """Names of the tensors that are trained, and stacked first values of all that are added."""
    if last_layer_only:
        raise InputError(
            f"{added.label} trains what it adds to the network",
            field="last_layer_only",
            value=True,
            remedy="Leave it out, or use another method.",
        )
    shapes = {name: tuple(value.shape[1:]) for name, value in held.items()}
    like = next(iter(held.values()))
    drawn = [added.trained(shapes, np.random.default_rng((run.seed, ADDED))) for run in runs]
    own = {name: np.stack([each[name] for each in drawn]) for name in drawn[0]}
    fixed = {name: np.stack([value] * len(runs)) for name, value in added.fixed(shapes).items()}
    head = added.with_head and task.last_layer_name is not None
    also = list(shapes) if added.with_network else [_last_layer(task)] if head else []
    names = [*also, *own]
    return names, {name: torch.from_numpy(value).to(like) for name, value in (own | fixed).items()}


def _apart(
    task: Task,
    runs: Sequence[Run],
    parts: Sequence[Kind],
    given: dict[str, Any],
    each: dict[str, Any],
) -> Ensemble:
    """Ensembles of the runs of one kind each, put together.

    What other runs add is zero in the parameters of a run. ``each`` has a row for each run.
    """
    done, places = [], []
    for part in dict.fromkeys(parts):
        rows = np.flatnonzero([other == part for other in parts])
        own = {name: _some(value, rows) for name, value in each.items()}
        done.append(train(task, [runs[row] for row in rows.tolist()], **given, **own))
        places.append(rows)
    order = np.concatenate(places)
    table = pd.concat(
        [
            one.table.assign(run=rows[one.table["run"]]).astype({"schedule": object})
            for one, rows in zip(done, places, strict=True)
        ]
    )
    table = table.sort_values("run", kind="stable", ignore_index=True)
    table["schedule"] = pd.Categorical(table["schedule"])
    params: Params = {}
    for one, rows in zip(done, places, strict=True):
        for name, value in one.params.items():
            if name not in params:
                params[name] = value.new_zeros(len(runs), *value.shape[1:])
            params[name][torch.from_numpy(rows).to(value.device)] = value
    diverged = np.concatenate([one.diverged_at for one in done])[np.argsort(order)]
    return Ensemble(tuple(runs), table, params, diverged)


def _some(value: Any, rows: NDArray[np.int64]) -> Any:
    """What is given for some runs, of what is given for all of them."""
    if isinstance(value, list | np.ndarray):
        return [value[row] for row in rows.tolist()]
    if isinstance(value, dict):
        return {name: v if len(v) == 1 else v[rows] for name, v in value.items()}
    return value


def _last_layer(task: Task) -> str:
    if task.last_layer_name is None:
        raise InputError(
            "the last layer is also the embedding",
            field="last_layer_only",
            value=True,
            remedy="Use a model with tied=False.",
        )
    return task.last_layer_name


def _stacked(name: str, params: Params, runs: int, device: str) -> Params:
    """Parameters of `runs` runs, from as many runs or from one run for all."""
    wrong = {len(value) for value in params.values()} - {1, runs}
    if runs > 1 and wrong:
        raise InputError(
            f"there are {runs} runs",
            field=name,
            value=wrong.pop(),
            remedy="Stack parameters for as many runs, or for one to share, along the first axis.",
        )
    moved = {key: value.detach().to(device) for key, value in params.items()}
    return {key: value.expand(runs, *value.shape[1:]) for key, value in moved.items()}


def _on(params: Params, device: str) -> Params:
    return {name: value.detach().to(device) for name, value in params.items()}


def _rates(rate: ArrayLike, runs: int) -> Float[np.ndarray, "R S"]:
    """Learning rates of each run, stage by stage, from one rate for all or one for each run."""
    try:
        given = np.asarray(rate)
    except ValueError:  # rows of different lengths
        given = np.asarray(None)
    if given.dtype.kind not in "fiu" or not np.all((given >= 0) & (given <= 1e38)):
        remedy = "Give numbers in [0, 1e38], in rows of one length."
        raise InputError("not rates", field="learning_rate", value=rate, remedy=remedy)
    table = given[:, None] if given.ndim == 1 else np.atleast_2d(given)
    if given.ndim > 2 or len(table) not in {1, runs} or not table.size:
        raise InputError(
            f"there are {runs} runs",
            field="learning_rate",
            value=given.shape,
            remedy="Give one rate, one for each run, or a row of rates for each run.",
        )
    return np.broadcast_to(table.astype(float), (runs, table.shape[1]))


def _optima(runs: Sequence[Run], steps: int, optima: ArrayLike | None) -> NDArray[np.float64]:
    rules = {run.schedule.plan(steps).rule for run in runs}
    if optima is None and rules & {Rule.LARGER_GAP, Rule.SMOOTH_GAP}:
        remedy = "Give the minimal training losses, or (0, 0) as lower bounds."
        raise InputError(
            "a run compares gaps, which need the optima", field="optima", remedy=remedy
        )
    if optima is None and Rule.WITHIN_LIMIT in rules:
        warnings.warn(
            "optima are not given: the limit of Constrained counts from the least SFT loss seen "
            "so far, which at the start is that of the base model",
            stacklevel=3,
        )
    return np.broadcast_to(np.asarray(np.nan if optima is None else optima, float), (len(runs), 2))


def _marks(every: int | None, steps: int) -> set[int]:
    """Update counts at which to evaluate."""
    if every is None:
        spaced = np.geomspace(1, steps, 12).round().astype(int)
        return {0, *spaced.tolist()}
    return {*range(0, steps, every), steps}


def _table(
    runs: Sequence[Run],
    records: dict[int, dict[str, NDArray[np.float64]]],
    diverged_at: NDArray[np.float64],
) -> pd.DataFrame:
    """Rows by run, then by step."""
    times = len(records)
    about: dict[str, Any] = {
        "run": np.arange(len(runs)),
        "schedule": pd.Categorical(told_apart([Method.of(run.method) for run in runs])),
        "lam": np.array([run.schedule.lam for run in runs]),
        "seed": np.array([run.seed for run in runs]),
    }
    columns = {name: values.repeat(times) for name, values in about.items()}
    columns["step"] = np.tile(list(records), len(runs))
    for name in next(iter(records.values())):
        columns[name] = np.stack([record[name] for record in records.values()], axis=1).ravel()
    return pd.DataFrame(columns | {"diverged_at": diverged_at.repeat(times)})


@dataclass(frozen=True)
class _Need:
    """What methods of a kind ask of a task, and what is missing where it lacks these members.

    Of several kinds of members any one will do.
    """

    asks: Callable[[Method], bool]
    members: type | tuple[type, ...]
    lack: str

    @property
    def named(self) -> str:
        """Names of what would do."""
        kinds = self.members if isinstance(self.members, tuple) else (self.members,)
        return " or ".join(kind.__name__ for kind in kinds)


def _compares(method: Method) -> bool:
    return method.sft.compares not in (None, "entropy") or method.preference.compares is not None


def _written(method: Method) -> bool:
    """Whether responses can be drawn for its loss of pairs."""
    return isinstance(method.preference, Grouped) and bool(method.preference.writers)


_NEEDS = (
    _Need(
        lambda method: not method.plain_losses, RecordsTask,
        "the task does not give log-probabilities of its responses",
    ),
    _Need(
        lambda method: method.by_token, TokenTask,
        "the method looks at the tokens of responses, and the task has one for each",
    ),
    _Need(
        lambda method: isinstance(method.sft, TokenWeighted), WeightedTask,
        "the method weighs demonstrations by what they are, which the task does not tell",
    ),
    _Need(
        _compares, FiniteTask,
        "the loss compares all responses of a prompt, which the task does not give",
    ),
    _Need(
        lambda method: method.sft.compares == "entropy", (FiniteTask, TokenTask),
        "the loss asks for entropies of the policy, which the task does not give",
    ),
    _Need(
        lambda method: method.preference.grouped and not _written(method), FiniteTask,
        "the loss compares all responses of a prompt, which the task does not give",
    ),
    _Need(
        _written, (FiniteTask, WritingTask),
        "the loss asks for responses to prompts, which the task neither lists nor writes",
    ),
    _Need(
        lambda method: "rewards" in method.preference.asks, (JudgedTask, WritingTask),
        "the loss asks for rewards of all responses, which the task does not give",
    ),
    _Need(
        lambda method: "likeness" in method.preference.asks, WritingTask,
        "the loss asks for features of responses, which the task does not have",
    ),
    _Need(
        lambda method: isinstance(method.data, Retrieved), LookedUpTask,
        "the demonstrations of the task cannot be looked up",
    ),
    _Need(
        lambda method: isinstance(method.data, Written), RewritingTask,
        "no responses are written in place of those of the task",
    ),
    _Need(
        lambda method: _written(method) and isinstance(method.data, Written) and method.data.pairs,
        FiniteTask, "responses are judged by what pairs are about, and these pairs are replaced",
    ),
    _Need(
        lambda method: bool(method.parameters.adds) and not method.parameters.by_token, AddedTask,
        "the networks of the task take nothing that is added to them",
    ),
    _Need(
        lambda method: bool(method.parameters.adds) and method.parameters.by_token, ThinkingTask,
        "the networks of the task read no latent vectors",
    ),
    _Need(
        lambda method: isinstance(method.after, Resa), CarryingTask,
        "no autoencoder is trained on the layers of the task's networks",
    ),
    _Need(
        lambda method: method.anchor.sees == "responses", (FiniteTask, ViewTask),
        "the anchor compares all responses of a prompt, which the task does not give",
    ),
    _Need(
        lambda method: method.anchor.sees == "features", FeatureTask,
        "the anchor asks for features of prompts, which the task does not give",
    ),
    _Need(
        lambda method: method.anchor.sees == "views", ViewTask,
        "the anchor changes the numbers of a prompt, which the task does not give",
    ),
)  # fmt: skip


def _check_methods(task: Task, runs: Sequence[Run]) -> None:
    """An `InputError` for the first method that asks for what the task does not have."""
    for run in runs:
        method = Method.of(run.method)
        method.check("networks")
        for need in _NEEDS:
            if need.asks(method) and not isinstance(task, need.members):
                raise InputError(
                    need.lack,
                    field="runs",
                    value=method.label,
                    remedy="Use another method, or a task with the members of "
                    f"tradeoff.networks.trained_losses.{need.named}.",
                )
