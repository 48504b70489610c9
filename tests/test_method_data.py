"""The slot for training rows: which rows are kept, at every scale, and that no others are used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from llm_runs import preference_rows, sft_rows, trainer, weights

from tradeoff.convex._chosen_rows import ProblemRows, trained_on
from tradeoff.convex.instances import random_log_linear, random_quadratic
from tradeoff.convex.simulate import trajectories
from tradeoff.errors import InputError
from tradeoff.llm._chosen_rows import TokenRows
from tradeoff.methods import Method
from tradeoff.methods.losses import SimPo
from tradeoff.methods.transforms import TrainingRows, Transform
from tradeoff.methods.transforms.lengths import BalancedLengths, Longest
from tradeoff.methods.transforms.likelihoods import ByMargin, LowestPerplexity
from tradeoff.methods.transforms.retrieved import InContext
from tradeoff.methods.transforms.subsample import Subsample
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask
from tradeoff.networks.train import grid, train
from tradeoff.schedules import Alright, Maxright, Mix

PROBLEM = random_log_linear(0, demonstrations=12, pairs=10)
SETTINGS = {"steps": 20, "step_size": 0.3, "replicas": 3}


@dataclass(frozen=True)
class Listed:
    """Rows of known lengths and log-probabilities."""

    objective: int
    lengths: Any
    known: Any = None

    def log_probs(self) -> Any:
        return self.known


@dataclass(frozen=True, kw_only=True)
class Nothing(Transform):
    """A transform of the user's own that leaves no demonstrations."""

    name: ClassVar[str] = "nothing"
    places: tuple[int, ...] = ()

    def kept(self, rows: TrainingRows) -> Any:
        return np.array(self.places, dtype=int)


def test_what_each_choice_keeps() -> None:
    lengths = np.array([[3], [9], [1], [4]])
    nats = np.array([[-3.0], [-18.0], [-0.1], [-2.0]])
    shown = Listed(0, lengths, nats)
    assert isinstance(shown, TrainingRows)
    assert Longest(share=0.5).kept(shown).tolist() == [1, 3]
    assert LowestPerplexity(share=0.5).kept(shown).tolist() == [2, 3]
    pairs = Listed(1, np.array([[4, 4], [2, 8], [6, 5]]), np.array([[-8, -4], [-1, -8], [-6, -9]]))
    assert BalancedLengths(share=0.67).kept(pairs).tolist() == [0, 2]
    # Margins per token are -1, 0.5 and 0.8.
    assert ByMargin(share=0.34).kept(pairs).tolist() == [2]
    assert ByMargin(share=0.67, keep="hard").kept(pairs).tolist() == [0, 1]
    for part in (Longest(), LowestPerplexity()):
        assert part.kept(pairs).tolist() == [0, 1, 2]
    for other in (BalancedLengths(), ByMargin()):
        assert other.kept(shown).tolist() == [0, 1, 2, 3]
    half = Subsample(sft=0.5, preference=0.1)
    assert len(set(half.kept(shown))) == 2
    assert len(half.kept(pairs)) == 1
    assert half.kept(shown).tolist() == half.kept(shown).tolist()


@pytest.mark.parametrize("more", [{}, {"preference": SimPo()}, {"gradients": "full"}])
def test_runs_on_chosen_rows_are_runs_on_the_problem_of_these_rows(more: Any) -> None:
    weighted = replace(
        PROBLEM,
        demonstration_weights=np.arange(1.0, 13.0),
        pair_weights=np.arange(10.0, 0.0, -1.0),
        reference=np.full(PROBLEM.dimension, 0.1),
    )
    settings = {**SETTINGS, "engine": "numpy"}
    settings |= {name: more[name] for name in more.keys() & {"gradients"}}
    losses = {name: more[name] for name in more.keys() & {"preference"}}
    for transform in (Subsample(seed=3), LowestPerplexity(), ByMargin()):
        start = np.linspace(-0.5, 0.5, PROBLEM.dimension)
        problem = trained_on(weighted, transform, start)
        assert len(problem.demonstrations) in (6, 12)
        methods = [Method(schedule, **losses) for schedule in (Mix(lam=0.3), Alright())]
        chosen = [replace(method, data=transform) for method in methods]
        found = trajectories(weighted, chosen, start=start, **settings)
        expected = trajectories(problem, methods, start=start, **settings)
        np.testing.assert_array_equal(found.last, expected.last)
        np.testing.assert_array_equal(found.average, expected.average)


def test_all_rows_are_todays_run_bit_for_bit() -> None:
    every = Method(Mix(), data=Subsample(sft=1.0, preference=1.0))
    found = trajectories(PROBLEM, [every, Mix()], engine="numpy", **SETTINGS)
    np.testing.assert_array_equal(found.last[0], found.last[1])


def test_the_policy_is_asked_where_training_starts() -> None:
    start = np.random.default_rng(0).normal(size=PROBLEM.dimension)
    every = PROBLEM.log_probs(start)
    rows = ProblemRows(PROBLEM, 0, start)
    np.testing.assert_array_equal(rows.log_probs()[:, 0], every[PROBLEM.demonstrations])
    best = LowestPerplexity(share=0.25).kept(rows)
    assert set(best) == set(np.argsort(-every[PROBLEM.demonstrations])[:3])


def test_networks_draw_chosen_rows_alone() -> None:
    data = policy_data(0, prompts=20, test_prompts=5, demonstrations=30, pairs=24)
    task = PolicyTask(data, PolicyConfig(width=6, depth=1, head_scale=1.0), dtype=torch.float64)
    settings: dict[str, Any] = {"steps": 6, "learning_rate": 0.1, "batch_size": 5}
    transform = Subsample(seed=1)
    kept = [transform.kept(Listed(o, np.ones((n, 1)))) for o, n in ((0, 30), (1, 24))]
    part = replace(data, demonstrations=data.demonstrations[kept[0]], pairs=data.pairs[kept[1]])
    runs = grid([Method(Mix(lam=0.4), data=transform), Method(Mix(lam=0.4))], [0, 2])
    found = train(task, runs, **settings)
    expected = train(replace(task, data=part), grid([Mix(lam=0.4)], [0, 2]), **settings)
    for name, value in expected.params.items():
        torch.testing.assert_close(found.params[name][:2], value, rtol=0, atol=1e-12)
    # Each run uses its own policy.
    own = [Method(Alright(lam=0.0), data=LowestPerplexity(share=0.1))]
    table = train(task, grid(own, [0, 1]), **settings).table
    assert np.isfinite(table.sft_loss).all()


def test_language_models_train_on_chosen_rows_alone() -> None:
    method = Method(Mix(lam=0.4), data=Longest(share=0.5))
    settings = {"holdout": 0.0, "steps": 3}
    run = trainer(method, **settings)
    places = list(run.data.sft.rows)
    assert len(places) == 10
    assert len(run.data.preference) == 20
    given = sft_rows()
    lengths = TokenRows(trainer(Mix(), **settings).data.sft, 0).lengths[:, 0]
    left_out = [lengths[i] for i in range(20) if i not in places]
    assert min(lengths[places]) >= max(left_out)
    other = trainer(Mix(lam=0.4), sft=tuple(given[i] for i in places), **settings)
    assert run.data.fingerprints() == other.data.fingerprints()
    for one in (run, other):
        one.train(progress=False)
    for name, value in weights(other).items():
        torch.testing.assert_close(weights(run)[name], value, rtol=0, atol=0)
    pairs = trainer(Method(Mix(), data=BalancedLengths(share=0.25)), **settings).data.preference
    assert len(pairs) == 5
    assert len(preference_rows()) == 20


def test_what_cannot_be_chosen_says_why() -> None:
    with pytest.raises(InputError, match="counts as one token"):
        trajectories(PROBLEM, Method(Mix(), data=Longest()), **SETTINGS)
    with pytest.raises(InputError, match="before it runs the policy"):
        trainer(Method(Mix(), data=ByMargin()))
    with pytest.raises(InputError, match="leaves no demonstrations"):
        trajectories(PROBLEM, Method(Mix(), data=Nothing()), **SETTINGS)
    with pytest.raises(InputError, match="not there"):
        trajectories(PROBLEM, Method(Mix(), data=Nothing(places=(99,))), **SETTINGS)
    with pytest.raises(InputError, match="log-linear"):
        trajectories(random_quadratic(0), Method(Mix(), data=Subsample()), **SETTINGS)
    with pytest.raises(InputError, match="not those trained"):
        trajectories(PROBLEM, Method(Maxright(), data=Subsample()), **SETTINGS)
    for make in (lambda: Longest(share=0.0), lambda: Subsample(sft=1.5)):
        with pytest.raises(InputError):
            make()


def test_language_models_read_demonstrations_before_the_row():
    plain = trainer(Mix())
    run = trainer(Method(Mix(), data=InContext(count=2)))
    longest = 64  # Of the tiny runs.
    starts = [item.tokens[: item.start] for item in plain.data.sft]
    assert run.data.sft.fingerprint != plain.data.sft.fingerprint
    some = 0
    for k, (item, own) in enumerate(zip(run.data.sft, plain.data.sft, strict=True)):
        assert len(item.tokens) <= longest
        assert item.scored == own.scored
        np.testing.assert_array_equal(item.tokens[-len(own.tokens) :], own.tokens)
        before = item.tokens[: -len(own.tokens)]
        places = InContext(count=2).shown(starts)[k]
        whole = [plain.data.sft[j].tokens for j in places]
        fits = [part for part in (whole, whole[1:], []) if len(before) == sum(map(len, part))]
        np.testing.assert_array_equal(before, np.concatenate([*fits[0], before[:0]]))
        some += len(fits[0])
    assert some > len(plain.data.sft)
    # What is scored stays as it is, and nothing shown is SFT.
    for name in ("preference", "sft_test", "preference_test"):
        prints = (each.data.fingerprints()[name] for each in (run, plain))
        assert len(set(prints)) == 1
    none = trainer(Method(Mix(), data=InContext(count=0)))
    assert none.data.fingerprints() == plain.data.fingerprints()
    run.train()
    assert np.isfinite([float(value.sum()) for value in weights(run).values()]).all()
