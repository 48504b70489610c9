"""Parts of a user's own that break their contract: one error each, and no run that is wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tradeoff import Method, Mix, Sequential, StepSize, random_log_linear, simulate, trajectories
from tradeoff.errors import InputError
from tradeoff.llm._joining import GradientJoin
from tradeoff.llm._losses import sft_sum
from tradeoff.methods.after import After
from tradeoff.methods.anchors import Anchor
from tradeoff.methods.gradients import GradientRule, Seen, VectorRule
from tradeoff.methods.losses import MarginLoss, SftLoss
from tradeoff.methods.merges import Merge
from tradeoff.schedules import Rule, Schedule

PROBLEM = random_log_linear(seed=0)


def own(base: Any, **members: Any) -> Any:
    """An instance of a new subclass with these members."""
    return dataclass(frozen=True, kw_only=True)(type("Own", (base,), {"name": "own", **members}))()


def run(method: Any, **settings: Any) -> Any:
    given: dict[str, Any] = {"steps": 12, "step_size": 0.05, "replicas": 2, "checkpoints": [12]}
    return simulate(PROBLEM, method, **{**given, **settings})


def plan(**settings: Any) -> Schedule:
    given: dict[str, Any] = {"rule": Rule.DRAW, "probability": 0.5, **settings}
    return own(Schedule, plan=lambda self, steps: self._plan(steps, **given))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"probability": 1.5}, "probability"),
        ({"probability": np.nan}, "probability"),
        ({"probability": np.zeros(5)}, "probability"),
        ({"weights": (np.nan, 1.0)}, "weights"),
        ({"clock": np.arange(12)}, "clock"),
        ({"clock": 2 * np.arange(12) + 1}, "clock"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        run(plan(**settings))
    assert caught.value.field == field


@pytest.mark.parametrize("engine", ["numba", "numpy"])
@pytest.mark.parametrize("by", [-5, 3])
def test_a_plan_of_another_length_never_reaches_an_engine(engine: str, by: int) -> None:
    other = own(
        Schedule, plan=lambda self, steps: self._plan(steps + by, Rule.DRAW, probability=0.5)
    )
    with pytest.raises(InputError, match=f"not a Plan of 12 updates \\(found '{12 + by} updates"):
        run(other, engine=engine)
    with pytest.raises(InputError, match="found 'NoneType'"):
        run(own(Schedule, plan=lambda self, steps: None))


def test_a_plan_takes_any_numbers() -> None:
    first = trajectories(PROBLEM, plan(probability=[0.5] * 12), steps=12, step_size=0.1, replicas=2)
    second = trajectories(PROBLEM, plan(), steps=12, step_size=0.1, replicas=2)
    np.testing.assert_array_equal(first.last, second.last)


@pytest.mark.parametrize(
    "of_margin",
    [
        lambda self, m: ((m - 1) ** 2).mean(),
        lambda self, m: ((m - 1) ** 2)[:-1],
        lambda self, m: ((m - 1) ** 2)[:, None],
        lambda self, m: m + 1j,
        lambda self, m: 1.0,
        lambda self, m: None,
    ],
)
def test_a_loss_is_one_number_for_each_pair(of_margin: Any) -> None:
    with pytest.raises(InputError, match="one real number for each of its rows") as caught:
        run(Method(Mix(lam=0.3), preference=own(MarginLoss, of_margin=of_margin)))
    assert caught.value.field == "preference"


def test_a_loss_of_tokens_is_one_number_for_each_token() -> None:
    import torch

    mean = own(SftLoss, losses=lambda self, tokens: -tokens.log_probs.mean())
    with pytest.raises(InputError, match="one real number for each of its rows, shape \\(3,\\)"):
        sft_sum(torch.zeros(3), mean)


def test_a_loss_without_a_slope_says_so() -> None:
    cut = own(MarginLoss, of_margin=lambda self, m: (m.detach() - 1) ** 2)
    with pytest.raises(InputError, match="does not depend on the log-probabilities"):
        run(Method(Mix(lam=0.3), preference=cut))


@pytest.mark.parametrize(
    "factors",
    [
        lambda self, seen, state: seen.weights,
        lambda self, seen, state: None,
        lambda self, seen, state: (1.0, state),
        lambda self, seen, state: (np.ones(seen.weights.shape[:-1]), state),
        lambda self, seen, state: (seen.weights, "memory"),
        lambda self, seen, state: (seen.weights, {"updates": 1}),
    ],
)
def test_a_rule_gives_one_factor_for_each_gradient(factors: Any) -> None:
    with pytest.raises(InputError, match=r"the rule own (must return|remembers)") as caught:
        run(Method(Mix(lam=0.3), gradient=own(GradientRule, factors=factors)))
    assert caught.value.field == "gradient"


@pytest.mark.parametrize(
    ("base", "members"),
    [
        (Anchor, {"direct": lambda self, g, w, s, m: g}),
        (Anchor, {"direct": lambda self, g, w, s, m: (g.mean(-1, keepdims=True), s)}),
        (Anchor, {"direct": lambda self, g, w, s, m: (g.mean(0), s)}),
        (After, {"begin": lambda self, w, s, m: (w[..., :1], s)}),
        (After, {"finish": lambda self, w, s, m: (w.sum(), s)}),
        (After, {"output": lambda self, w, s, m: w.mean(-1, keepdims=True)}),
        (After, {"output": lambda self, w, s, m: w.tolist()}),
        (After, {"rows": lambda self, m: (0, -1)}),
        (After, {"rows": lambda self, m: (2, 1)}),
        (Merge, {"merged": lambda self, base, sft, preference, m: None}),
    ],
)
def test_a_hook_keeps_the_shape(base: Any, members: dict[str, Any]) -> None:
    hook, name = own(base, **members), base.__name__.lower()
    with pytest.raises(InputError, match="of own must return") as caught:
        run(Method(Sequential(lam=0.3), **{name: hook}))
    assert caught.value.field == name


def test_what_is_recorded_does_not_change_the_run() -> None:
    def output(self: Any, weights: Any, state: Any, moment: Any) -> Any:
        weights *= 2.0
        return weights

    method = Method(Mix(lam=0.3), after=own(After, output=output))
    often = run(method, checkpoints=[3, 6, 9, 12])
    once = run(method)
    last = often[often.step == 12].reset_index(drop=True)
    np.testing.assert_allclose(last.sft_loss, once.sft_loss, rtol=1e-12)


class Bowls:
    """Two bowls on a line, about -1 and 1."""

    dimension = 1

    def losses(self, theta: Any) -> Any:
        return (np.asarray(theta) - np.array([-1.0, 1.0])) ** 2 / 2

    def project(self, theta: Any) -> Any:
        return np.clip(theta, -3.0, 3.0)

    def sample_gradients(self, objective: int, theta: Any, uniform: Any) -> Any:
        return theta - (-1.0, 1.0)[objective]


def bowls(members: dict[str, Any]) -> Any:
    return type("Bowls", (Bowls,), members)()


@pytest.mark.parametrize(
    ("members", "field", "settings"),
    [
        ({"losses": lambda self, theta: Bowls().losses(theta).T}, "losses", {}),
        ({"losses": lambda self, theta: Bowls().losses(theta)[..., 0]}, "losses", {}),
        ({"project": lambda self, theta: None}, "project", {}),
        ({"dimension": 0}, "dimension", {}),
        ({"dimension": "1"}, "dimension", {}),
        (
            {"gradients": lambda self, theta: np.concatenate([theta + 1, theta - 1], axis=1)},
            "gradients",
            {"gradients": "full"},
        ),
    ],
)
def test_a_problem_of_another_shape_is_refused(
    members: dict[str, Any], field: str, settings: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"steps": 5, "step_size": 0.1, "replicas": 4, **settings}
    with pytest.raises(InputError) as caught:
        simulate(bowls(members), Mix(lam=0.3), **given)
    assert caught.value.field == field


def test_a_problem_may_reuse_the_array_that_it_is_given() -> None:
    def in_place(self: Any, objective: int, theta: Any, uniform: Any) -> Any:
        theta -= (-1.0, 1.0)[objective]
        return theta

    found = [
        trajectories(problem, Mix(lam=0.3), steps=9, step_size=0.1, replicas=3).last
        for problem in (Bowls(), bowls({"sample_gradients": in_place}))
    ]
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("engine", ["numba", "numpy"])
def test_own_step_sizes_have_one_for_each_update(engine: str) -> None:
    @dataclass(frozen=True)
    class Short(StepSize):
        def of(self, plan: Any) -> Any:
            return np.full(3, self.scale)

    with pytest.raises(InputError, match=r"Short.of\(plan\) must return 12 finite numbers"):
        run(Mix(), step_size=Short(0.1), engine=engine)


@pytest.mark.parametrize(
    "members",
    [
        {"start": lambda self, w: {"updates": 0}},
        {"start": lambda self, w: None},
        {"finish": lambda self, w, s, m: (w, None)},
        {"finish": lambda self, w, s, m: (w, {"updates": 1.0})},
    ],
)
def test_what_a_hook_remembers_can_be_stored(members: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="what own remembers must be a dict of arrays"):
        run(Method(Mix(lam=0.3), after=own(After, **members)))


def test_a_rule_that_remembers_a_number_can_be_stored(tmp_path: Path) -> None:
    import torch

    def factors(self: Any, seen: Any, state: Any) -> Any:
        return seen.weights / (1 + state["updates"]), {"updates": state["updates"] + 1}

    rule = own(GradientRule, start=lambda self, runs: {"updates": 0}, factors=factors)
    method = Method(Mix(lam=0.3), gradient=rule)
    joining = GradientJoin(method, method.plan(4), torch.nn.Linear(2, 1))
    joining.memory = rule.factors(Seen(np.eye(2), np.ones(2), np.ones(2)), joining.memory)[1]
    stored = joining.state()
    assert stored == {"updates": [1.0]}
    joining.memory = {"updates": 0}
    joining.set_state(stored, tmp_path)
    assert joining.memory["updates"] == 1


def of_losses(self: Any, seen: Any, state: Any) -> Any:
    return seen.weights * (1 + seen.losses), state


def direction_by_losses(self: Any, first: Any, second: Any, about: Any, state: Any) -> Any:
    return first + about.losses[..., :1] * second, state


@pytest.mark.parametrize("engine", ["convex", "networks", "llm"])
@pytest.mark.parametrize(
    ("base", "members"),
    [(GradientRule, {"factors": of_losses}), (VectorRule, {"joined": direction_by_losses})],
)
def test_a_rule_reads_no_losses_that_it_does_not_name(
    engine: str, base: Any, members: dict[str, Any]
) -> None:
    """The convex engine would not compute them, and the rule would see zeros there alone."""
    members = {**members, "by_tensor": True} if base is VectorRule else members
    with pytest.raises(InputError, match="does not say that it uses them") as caught:
        joined(engine, own(base, **members))
    assert caught.value.field == "uses_losses"
    joined(engine, own(base, uses_losses=True, **members))


@pytest.mark.parametrize("engine", ["convex", "networks", "llm"])
@pytest.mark.parametrize(
    "found",
    [
        lambda first: first[..., :1],
        lambda first: first.sum(),
        lambda first: first[None],
        lambda first: first.tolist(),
    ],
)
def test_a_direction_has_the_shape_of_the_gradients(engine: str, found: Any) -> None:
    def joined_badly(self: Any, first: Any, second: Any, about: Any, state: Any) -> Any:
        return found(first), state

    with pytest.raises(InputError, match="must return a direction of the shape"):
        joined(engine, own(VectorRule, joined=joined_badly, by_tensor=True))


def joined(engine: str, rule: GradientRule) -> None:
    """Run some updates with a rule at one scale."""
    import torch

    from tradeoff.networks.policies import PolicyConfig, policy_data
    from tradeoff.networks.tasks import PolicyTask
    from tradeoff.networks.train import Run, train

    method = Method(Mix(lam=0.3), gradient=rule)
    if engine == "convex":
        run(method)
    elif engine == "networks":
        sizes = {"prompts": 8, "test_prompts": 4, "responses": 3, "dimension": 2}
        data = policy_data(0, **sizes, demonstrations=8, pairs=8)
        task = PolicyTask(data, PolicyConfig(width=4, depth=1, head_scale=1.0), beta=0.5)
        settings = {"learning_rate": 0.05, "batch_size": 4, "optima": [0.0, 0.0]}
        train(task, [Run(method, 0)], steps=3, **settings)
    else:
        policy = torch.nn.Linear(2, 1)
        joining = GradientJoin(method, method.plan(4), policy)
        for last in (False, True):
            policy(torch.ones(1, 2)).sum().backward()
            if not last:
                joining.keep()
        joining.join(np.array([0.7, 0.3]), np.array([1.0, 2.0]))
