"""Policies over finite sets: data with a set conflict, and the bridge to the convex laboratory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tradeoff.convex import StepSize, minimise, simulate
from tradeoff.errors import InputError
from tradeoff.networks import policies
from tradeoff.networks.policies import HEAD, PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask, one_run, over_runs
from tradeoff.networks.train import grid, train
from tradeoff.schedules import (
    PREFERENCE,
    SFT,
    Alright,
    Constrained,
    Maxright,
    Mix,
    Rounds,
    Sequential,
    SmoothMaxright,
)

SHAPES = [
    PolicyConfig(depth=0, head_scale=1.0),
    PolicyConfig(width=5, depth=1, head_scale=1.0),
    PolicyConfig(width=7, depth=3, head_scale=1.0),
]
SIZES = {"prompts": 12, "test_prompts": 9, "responses": 4, "dimension": 3}
ROWS = {"demonstrations": 30, "pairs": 25, "test_rows": 20}
DATA = policy_data(3, **SIZES, **ROWS)


def a_task(config: PolicyConfig, dtype: torch.dtype = torch.float64) -> PolicyTask:
    return PolicyTask(DATA, config, beta=0.7, dtype=dtype)


# ---------------------------------------------------------------------- data


def test_data_depend_on_the_seed_alone_and_split_by_prompt() -> None:
    again = policy_data(3, **SIZES, **ROWS)
    for name in ("prompts", "demonstrations", "pairs", "test_demonstrations", "test_pairs"):
        assert_array_equal(getattr(DATA, name), getattr(again, name))
    assert not np.array_equal(DATA.prompts, policy_data(4, **SIZES, **ROWS).prompts)
    for rows in (DATA.demonstrations, DATA.pairs):
        assert rows[:, 0].max() < DATA.training_prompts
    for rows in (DATA.test_demonstrations, DATA.test_pairs):
        assert DATA.training_prompts <= rows[:, 0].min() < rows[:, 0].max() < len(DATA.prompts)
    assert np.all(DATA.pairs[:, 1] != DATA.pairs[:, 2])


def test_conflict_sets_how_often_preferences_contradict_the_demonstrations() -> None:
    def agreement(conflict: float) -> float:
        """Rank correlation between how often a response is shown and how often it is preferred."""
        data = policy_data(0, prompts=20, pairs=20_000, demonstrations=20_000, conflict=conflict)
        shown, score = np.zeros((2, 20, 8))
        np.add.at(shown, tuple(data.demonstrations.T), 1)
        np.add.at(score, tuple(data.pairs[:, :2].T), 1)
        np.add.at(score, tuple(data.pairs[:, [0, 2]].T), -1)
        ranks = [a.argsort(1).argsort(1).ravel() for a in (shown, score)]
        return float(np.corrcoef(*ranks)[0, 1])

    levels = [agreement(c) for c in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert np.all(np.diff(levels) < -0.1)
    assert levels[0] > 0.9
    assert levels[-1] < -0.9
    assert abs(levels[2]) < 0.35


@pytest.mark.parametrize("field", ["width", "depth", "head_scale"])
def test_impossible_shapes_name_the_field(field: str) -> None:
    with pytest.raises(InputError, match=field):
        PolicyConfig(**{field: -1})


def test_a_policy_starts_uniform_by_default_and_its_features_are_of_unit_size() -> None:
    for width in (8, 512):
        task = PolicyTask(DATA, PolicyConfig(width=width))
        base = task.initial([0])
        measures = task.evaluate(base, task.reference(base))
        assert_allclose(measures["sft_loss"], np.log(4), rtol=1e-6)
        assert_allclose(measures["preference_loss"], np.log(2), rtol=1e-6)
        assert measures["preference_accuracy"].tolist() == [0.5]
        h = policies.features(one_run(base, 0), torch.from_numpy(DATA.prompts).float())
        assert 0.4 < float(h.norm(dim=1).mean()) < 1


# ---------------------------------------------------------------------- losses and the bridge


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"depth{c.depth}")
def test_losses_and_gradients_of_the_last_layer_are_those_of_the_convex_problem(
    config: PolicyConfig,
) -> None:
    task = a_task(config)
    params, other = task.initial([1, 2]), task.initial([8, 9])
    reference = task.reference(other)
    measures = task.evaluate(params, reference)
    for run in (0, 1):
        one, anchor = one_run(params, run), one_run(other, run)
        theta = one[HEAD].flatten().numpy()
        for held_out, end in ((False, "_train"), (True, "")):
            problem = task.last_layer(one, 10.0, reference=anchor, held_out=held_out)
            losses = problem.losses(theta)
            assert_allclose(measures[f"sft_loss{end}"][run], losses[SFT], atol=1e-8)
            assert_allclose(measures[f"preference_loss{end}"][run], losses[PREFERENCE], atol=1e-8)
        accuracies = problem.accuracies(theta)
        assert_allclose(measures["exact_match"][run], accuracies[SFT])
        assert_allclose(measures["preference_accuracy"][run], accuracies[PREFERENCE])
        problem = task.last_layer(one, 10.0, reference=anchor)
        for objective in (SFT, PREFERENCE):
            head = one[HEAD].clone().requires_grad_()
            every = torch.arange(task.sizes[objective])
            shift = reference.train[run] if objective == PREFERENCE else None
            loss = task.losses(one | {HEAD: head}, objective, every, shift)
            (slope,) = torch.autograd.grad(loss, head)
            expected = problem.gradients(theta)[objective]
            assert_allclose(slope.flatten().numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("objective", [SFT, PREFERENCE])
def test_gradients_of_all_layers_against_finite_differences(objective: int) -> None:
    task = a_task(SHAPES[2])
    params = one_run(task.initial([0]), 0)
    shift = task.reference(task.initial([5])).train[0]
    names = list(params)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        index = torch.tensor([0, 3, 3, 7])
        return task.losses(given, objective, index, shift[index])

    assert torch.autograd.gradcheck(loss, [p.requires_grad_() for p in params.values()])


def test_losses_are_vmapped_over_runs() -> None:
    task = a_task(SHAPES[1])
    params = task.initial([0, 1, 2])
    index = torch.tensor([[0, 1], [5, 5], [7, 2]])
    shift = task.reference(task.initial([4])).expand(3).train.gather(1, index)
    for objective in (SFT, PREFERENCE):
        one = lambda given, *rows, objective=objective: task.losses(given, objective, *rows)  # noqa: E731
        together = over_runs(one, task.batched)(params, index, shift)
        for run in range(3):
            alone = task.losses(one_run(params, run), objective, index[run], shift[run])
            assert_allclose(together[run].numpy(), alone.numpy(), rtol=1e-12)


SCHEDULES = [
    Sequential(),
    Sequential(first="preference", share=0.3, replay=0.3),
    Mix(lam=0.3),
    Alright(lam=0.7),
    Maxright(lam=0.5, refresh=1),
    Maxright(lam=0.6, refresh=1, weighted=False),
    SmoothMaxright(lam=0.4, refresh=1),
    Rounds(rounds=3),
    Rounds(rounds=2, first="preference", restart=True),
    Constrained(limit=0.05),
    Constrained(limit=0.6, relative=True),
]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.label)
@pytest.mark.parametrize("decay", [0.0, "linear"])
def test_training_the_last_layer_takes_the_steps_of_the_convex_laboratory(schedule, decay) -> None:
    size = StepSize(0.2, decay)
    task, steps = a_task(PolicyConfig(width=5, depth=1)), 40
    base = task.initial([0])
    problem = task.last_layer(one_run(base, 0), 1e3)
    table = simulate(
        problem, schedule, steps=steps, step_size=size, replicas=3, checkpoints=[0, 7, steps]
    )
    optima = [minimise(problem, lam).value for lam in (0.0, 1.0)]
    done = train(
        task,
        grid([schedule], range(3)),
        steps=steps,
        learning_rate=0.2,
        decay=decay,
        optimizer="sgd",
        batch_size=1,
        start=base,
        reference=base,
        optima=optima,
        last_layer_only=True,
        evaluate_every=1,
    )
    expected = table[table["iterate"] == "last"].sort_values(["replica", "step"])
    found = done.table[done.table["step"].isin([0, 7, steps])]
    for name in ("sft_loss", "preference_loss"):
        assert_allclose(found[f"{name}_train"], expected[name], atol=1e-8)
    for name in ("sft_updates", "preference_updates"):
        assert found[name].tolist() == expected[name].tolist()
    for name in base:
        moved = not torch.equal(done.params[name], base[name].expand_as(done.params[name]))
        assert moved == (name == HEAD)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 9), depth=st.integers(0, 3))
def test_initial_weights_depend_on_the_seed_alone_at_every_precision(seed, width, depth) -> None:
    config = PolicyConfig(width=width, depth=depth, head_scale=1.0)
    both = a_task(config).initial([seed, seed + 1])
    alone = PolicyTask(DATA, config, dtype=torch.float32).initial([seed])
    for name, value in both.items():
        assert_array_equal(alone[name][0].numpy(), value[0].float().numpy())
        assert not torch.equal(value[0], value[1])
