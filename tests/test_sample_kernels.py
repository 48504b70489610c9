"""Compiled evaluation of single data points: equal to numpy for every method."""

import numpy as np
import pytest

from tradeoff.convex import LogLinear, random_log_linear, trajectories
from tradeoff.convex.setting import alike, places
from tradeoff.errors import InputError
from tradeoff.methods import Method, find, names

PROBLEM = random_log_linear(3, prompts=5, responses=4, dimension=6, conflict=0.5, beta=0.7)
SETTINGS = {"steps": 16, "step_size": [0.1, 0.4], "replicas": 3, "checkpoints": [5, 16]}


def able() -> list[Method]:
    """Every method of the catalogue that runs on convex problems."""
    found = [find(name).at(0.3) for name in names()]
    return [method for method in found if method.unsupported("convex") is None]


def planned(method: Method) -> bool:
    try:
        method.plan(16)
    except ValueError:
        return False
    return True


@pytest.mark.slow
def test_every_method_ends_where_numpy_ends() -> None:
    methods = [method for method in able() if planned(method)]
    assert len(methods) > 70
    settings = {**SETTINGS, "step_size": 0.4}
    plain = trajectories(PROBLEM, methods, engine="numpy", **settings)
    fast = trajectories(PROBLEM, methods, **settings)
    np.testing.assert_allclose(fast.last, plain.last, atol=1e-9)
    np.testing.assert_allclose(fast.average, plain.average, atol=1e-9)
    np.testing.assert_array_equal(fast.counts, plain.counts)


@pytest.mark.parametrize("name", ["pcgrad", "famo", "graddrop", "kto", "ipo", "ewc", "dare", "hft"])
def test_a_run_depends_on_no_other(name: str) -> None:
    method, others = find(name), [find(n) for n in ("mix", "dft", "cagrad", "ema", "simpo", "ties")]
    together = trajectories(PROBLEM, [*others, method, method.at(0.2)], **SETTINGS)
    alone = trajectories(PROBLEM, method, **{**SETTINGS, "replicas": 2})
    np.testing.assert_array_equal(together.last[12:14, :2], alone.last)


def test_prompts_of_unequal_size_and_weights_and_references() -> None:
    rng = np.random.default_rng(0)
    problem = LogLinear.from_prompts(
        [rng.normal(size=(size, 3)) for size in (2, 5, 3)],
        demonstrations=[(0, 1), (1, 4), (2, 0)],
        preferences=[(1, 0, 3), (2, 2, 1), (0, 0, 1)],
        radius=2.0, beta=0.5, label_smoothing=0.1, reference=rng.normal(size=3),
        demonstration_weights=np.array([1.0, 2.0, 0.5]), pair_weights=np.array([3.0, 1.0, 1.0]),
    )  # fmt: skip
    methods = [find(name) for name in ("pcgrad", "famo", "asft", "kto", "ipo", "cpo", "l2_sp")]
    plain, fast = (trajectories(problem, methods, engine=e, **SETTINGS) for e in ("numpy", "auto"))
    np.testing.assert_allclose(fast.last, plain.last, atol=1e-11)


def test_alike_keeps_the_order_and_places_are_slices_where_they_can_be() -> None:
    found = alike([{"a": 1}, {"a": 2}, {"a": 1}])
    assert [(key["a"], members.tolist()) for key, members in found] == [(1, [0, 2]), (2, [1])]
    assert places(np.array([2, 3, 4])) == slice(2, 5)
    np.testing.assert_array_equal(places(np.array([0, 2])), [0, 2])


def test_a_step_size_for_each_method() -> None:
    methods, settings = [find("pcgrad"), find("ema")], {**SETTINGS}
    sizes = settings.pop("step_size")
    every = trajectories(PROBLEM, methods, step_size=sizes, **settings)
    pairs = trajectories(PROBLEM, methods, step_size=sizes, paired=True, **settings)
    np.testing.assert_allclose(pairs.last, every.last[[0, 3]], atol=1e-13)
    with pytest.raises(InputError, match="there are 2 methods"):
        trajectories(PROBLEM, methods, step_size=[0.1], paired=True, **settings)
