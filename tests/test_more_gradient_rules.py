"""Identities of gradient rules that learn, draw, remember gradients or move to a ray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from test_gradient_rules import angles, direction, lams, random_gradients, seen, sizes, two

from tradeoff.convex.instances import random_log_linear
from tradeoff.convex.simulate import simulate, trajectories
from tradeoff.convex.solve import minimise
from tradeoff.errors import InputError
from tradeoff.methods.gradients import (
    GRADIENT_RULES,
    Agem,
    ConstraintDual,
    DbMtl,
    DynamicAverage,
    Epo,
    ExcessMtl,
    FairGrad,
    Famo,
    Ferero,
    Gate,
    Gem,
    GeometricLoss,
    GradientRule,
    GradNorm,
    GradVac,
    ImtlG,
    ImtlL,
    LearnedMix,
    Mgda,
    MoCo,
    MoDo,
    NashMtl,
    ParetoMtl,
    PcGrad,
    RandomWeights,
    SdmGrad,
    Seen,
    Uncertainty,
    Update,
    WeightedSum,
)
from tradeoff.methods.method import Method
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask
from tradeoff.networks.train import grid, train
from tradeoff.schedules import Mix

# Two quadratics of different steepness around their optima, and the gradients of both losses.
STEEP = np.array([[1.0, 3.0], [2.0, 0.5]])
CENTRES = np.array([[-1.0, 0.5], [1.0, -0.5]])
LAM = 0.3
FLOOR = 0.5
"""Least losses."""


def bowls(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses (2,) and gradients (2, 2)."""
    apart = theta - CENTRES
    return FLOOR + (STEEP * apart**2).sum(axis=1) / 2, STEEP * apart


def ended(rule: GradientRule, start: Any, steps: int = 1500, step: float = 0.02) -> np.ndarray:
    """End point of full gradients, with losses above zero."""
    theta, state = np.array(start, dtype=float), rule.start(())
    for _ in range(steps):
        losses, gradients = bowls(theta)
        known = losses - FLOOR if rule.above_optima else losses
        factors, state = rule.factors(seen(gradients, LAM, known), state)
        theta = theta - step * factors @ gradients
    return theta


def weight_of(theta: np.ndarray) -> float:
    """The weight whose weighted sum of losses has its minimum nearest to a point."""
    first, second = bowls(theta)[1]
    apart = first - second
    return float(np.clip(first @ apart / (apart @ apart), 0, 1))


@given(angle=angles, first=sizes, second=sizes, alpha=st.sampled_from([0.3, 1.0, 2.0, 8.0]))
def test_fair_factors_solve_their_equation(angle, first, second, alpha):
    # Beyond, the equation cancels: see the notes of FairGrad.
    assume(np.cos(angle) >= 0 or abs((1 / alpha - 1) * np.log(first / second)) < 18)
    found = seen(two(angle, first, second))
    x, _ = FairGrad(alpha=alpha).factors(found, {})
    np.testing.assert_allclose(found.gram @ x, x ** (-1 / alpha), rtol=1e-5)


def test_fairness_goes_from_nash_to_equal_progress():
    for gradients in random_gradients(20, spread=0.5):
        nash = direction(NashMtl(), gradients) * np.sqrt(2)  # With powers 1, not 1/2.
        np.testing.assert_allclose(direction(FairGrad(alpha=1.0), gradients), nash, rtol=1e-6)
        if gradients[0] @ gradients[1] > 0:
            continue  # The shorter gradient alone may be the shortest vector.
        even = direction(FairGrad(alpha=100.0), gradients)
        gains = gradients @ even
        assert gains[0] == pytest.approx(gains[1], rel=0.1)
    assert not direction(FairGrad(), np.array([[1.0, 0.0], [-2.0, 0.0]])).any()


@given(angle=angles, first=sizes, second=sizes, lam=lams)
def test_gradvac_brings_gradients_to_a_cosine(angle, first, second, lam):
    gradients = two(angle, first, second)
    kept = direction(GradVac(recent=0.0), gradients, lam)
    np.testing.assert_allclose(kept, direction(PcGrad(), gradients, lam), rtol=1e-7, atol=1e-12)
    rule, mean = GradVac(), 0.5
    if np.cos(angle) < mean:
        # With one gradient alone: lam = 0 turns the first towards the second.
        factors, _ = rule.factors(seen(gradients, 0.0), {"mean": np.array(mean)})
        turned = factors @ gradients
        cosine = turned @ gradients[1] / np.linalg.norm(turned) / second
        assert cosine == pytest.approx(mean, abs=1e-7)


@given(angle=angles, first=sizes, second=sizes, lam=lams)
def test_sdmgrad_is_the_shortest_shifted_vector(angle, first, second, lam):
    gradients = two(angle, first, second)
    d = direction(SdmGrad(pull=0.4), gradients, lam) * 1.4
    shares = np.linspace(0, 1, 201)[:, None]
    pull = direction(WeightedSum(), gradients, lam)
    others = shares * gradients[0] + (1 - shares) * gradients[1] + 0.4 * pull
    assert np.linalg.norm(d) <= np.linalg.norm(others, axis=1).min() * (1 + 1e-9)
    plain = direction(SdmGrad(pull=0.0), gradients, lam)
    np.testing.assert_allclose(plain, direction(Mgda(), gradients), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("rule", [MoDo(rate=0.0), LearnedMix(rate=0.0), Uncertainty(rate=0.0)])
def test_without_a_rate_weights_stay_those_of_the_schedule(rule):
    state = rule.start((4,))
    for step in range(3):
        found = seen(random_gradients(4, step), 0.3)
        factors, state = rule.factors(found, state)
        np.testing.assert_array_equal(factors, found.weights)


def test_sdmgrad_stops_near_the_weight_that_is_asked_for():
    for start in ((-1.0, 2.0), (1.5, 0.0)):
        found = weight_of(ended(SdmGrad(pull=1.0), start))
        assert LAM / 2 - 1e-3 <= found <= (LAM + 1) / 2 + 1e-3


def test_where_learned_scales_stop():
    """At the limit both losses' logarithms have opposite gradients: lam* = f1 / (f1 + f2)."""
    for rule in (ImtlL(rate=0.5), Uncertainty(rate=0.5)):
        theta = ended(rule, (0.0, 1.0), step=0.02)
        first, second = bowls(theta)[0]
        if not rule.weighted:
            expected = first / (first + second)
        else:
            expected = LAM * first / (LAM * first + (1 - LAM) * second)
        assert weight_of(theta) == pytest.approx(expected, abs=2e-3)


def test_gradnorm_without_a_training_rate_equalises_lengths():
    gradients, state = two(1.0, 1.0, 4.0), None
    rule = GradNorm(alpha=0.0, rate=0.002)
    state = rule.start(())
    for _ in range(2000):
        factors, state = rule.factors(seen(gradients), state)
    np.testing.assert_allclose(factors, [0.8, 0.2], atol=5e-3)
    np.testing.assert_allclose(factors, ImtlG().factors(seen(gradients), {})[0], atol=5e-3)


def test_random_weights_are_those_of_the_schedule_on_average():
    coins = np.random.default_rng(0).random((100_000, 2))
    weights = np.broadcast_to([0.7, 0.3], (100_000, 2))
    gram = np.broadcast_to(np.eye(2), (100_000, 2, 2))
    factors, _ = RandomWeights().factors(Seen(gram, weights, weights, coins), {})
    np.testing.assert_allclose(factors.mean(axis=0), [0.7, 0.3], atol=2e-3)
    with pytest.raises(InputError, match="draws its weights"):
        RandomWeights().factors(Seen(gram, weights, weights), {})


def balance(theta: np.ndarray) -> float:
    first, second = bowls(theta)[0] - FLOOR
    return float((1 - LAM) * first / (LAM * second))


@pytest.mark.slow
@pytest.mark.parametrize("start", [(-0.9, 0.4), (0.3, 1.0)])
def test_rays_are_reached(start):
    """The limit has (1 - lam) f1 = lam f2, at a point where the gradients are opposite."""
    ferero = ended(Ferero(recent=1.0, gain=1.0), start, step=0.05)
    assert balance(ferero) == pytest.approx(1, abs=1e-6)
    epo = ended(Epo(recent=1.0), start, step=0.01)
    assert balance(epo) == pytest.approx(1, abs=0.05)
    sector = ended(ParetoMtl(recent=1.0, sectors=8), start, step=0.02)
    turn = abs(np.arctan(balance(sector) * LAM / (1 - LAM)) - np.arctan(LAM / (1 - LAM)))
    assert turn < np.pi / 16 + 0.05
    for theta in (ferero, epo):
        first, second = bowls(theta)[1]
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        assert cosine < -0.99


def test_within_its_sector_pareto_mtl_is_mgda():
    for gradients in random_gradients(20, spread=0.5):
        found = direction(ParetoMtl(), gradients, 0.5, (1.0, 1.0))
        np.testing.assert_allclose(found, direction(Mgda(), gradients), rtol=1e-9)


def test_a_limit_is_held_by_a_gate_and_by_a_multiplier():
    strong, learned = Gate(limit=0.8, recent=1.0, strength=3.0), ConstraintDual(limit=0.8, recent=1)
    for rule in (strong, learned):
        theta = ended(rule, (0.0, 1.0))
        assert bowls(theta)[0][0] - FLOOR == pytest.approx(0.8, abs=0.05)
    # A gate of strength 1 can stop at points of the front for weights from 1/2 on.
    weak = ended(Gate(limit=0.8, recent=1.0), (0.0, 1.0))
    assert bowls(weak)[0][0] - FLOOR > 0.9
    assert weight_of(weak) == pytest.approx(0.5, abs=1e-6)
    loose = ended(Gate(limit=100.0), (0.0, 1.0))
    np.testing.assert_allclose(loose, CENTRES[1], atol=1e-6)


def test_learned_weights_go_where_the_weighted_loss_falls_faster():
    gradients = two(1.2, 3.0, 0.5)
    rule = LearnedMix()
    _, state = rule.factors(seen(gradients, 0.5), rule.start(()))
    assert state["sft"] > 0.5


# ---------------------------------------------------------------------- rules with memory


def steps(rule: Any, gradients: np.ndarray, lam: float = 0.5, kind: Any = np.asarray) -> list[Any]:
    """Directions of updates with gradients (T, 2, d) and losses (1, 2)."""
    found, state = [], None
    weights = np.array([1 - lam, lam])
    for pair in gradients:
        first, second = (kind(w * g) for w, g in zip(weights, pair, strict=True))
        about = Update(first * 0, kind(weights), kind(np.array([1.0, 2.0])))
        state = rule.remembered(first) if state is None else state
        d, state = rule.joined(first, second, about, state)
        found.append(np.asarray(d))
    return found


@pytest.mark.parametrize("rule", [DbMtl(), MoCo(), ExcessMtl()], ids=lambda rule: rule.name)
def test_rules_with_memory_agree_in_numpy_and_torch(rule):
    gradients = random_gradients(4, spread=0.3)
    gradients[2, 1] = 0.0
    np.testing.assert_allclose(
        steps(rule, gradients), steps(rule, gradients, kind=torch.tensor), rtol=1e-12
    )
    assert np.isfinite(steps(rule, gradients * 0)).all()
    assert "keeps no copies" in rule.unsupported("llm")


def test_db_mtl_without_memory_is_a_bisector():
    gradients = two(1.0, 1.0, 3.0)
    (d,) = steps(DbMtl(decay=0.0), gradients[None])
    # Lengths over losses are 1/2 and 3/4 of the weighted gradients.
    middle = np.array([np.cos(0.5), np.sin(0.5)])
    np.testing.assert_allclose(d, 2 * 0.75 * np.cos(0.5) * middle, rtol=1e-12)


def test_moco_without_a_rate_is_a_mix_of_running_means():
    gradients = random_gradients(3, spread=0.2)
    found = steps(MoCo(rate=0.0, recent=1.0), gradients[:1], 0.3)[0]
    unit = gradients[0] / np.linalg.norm(gradients[0], axis=1, keepdims=True)
    np.testing.assert_allclose(found, 0.7 * unit[0] + 0.3 * 2 * unit[1], rtol=1e-12)
    # Equal gradients at every update leave nothing to average.
    same = np.repeat(gradients[:1], 3, axis=0)
    np.testing.assert_allclose(steps(MoCo(rate=0.0), same, 0.3)[-1], found, rtol=1e-12)


def test_equal_excess_keeps_the_weights():
    gradients = np.repeat(random_gradients(1, spread=0.2), 3, axis=0)
    gradients[:, 1] = gradients[:, 0]
    for d in steps(ExcessMtl(rate=0.5), gradients):
        np.testing.assert_allclose(d, gradients[0, 0], rtol=1e-12)
    # The objective whose gradients shrink gets less weight.
    shrinking = random_gradients(1, spread=0.0)[0] * np.array([1.0, 1.0])[:, None]
    path = np.stack([shrinking * np.array([0.5**t, 1.0])[:, None] for t in range(6)])
    last = steps(ExcessMtl(rate=0.5), path)[-1]
    share = np.linalg.lstsq(path[-1].T, last, rcond=None)[0]
    assert share[0] < 0.5 < share[1]


def test_excess_of_any_size_leaves_a_share_that_can_come_back():
    sizes = np.array([[1e-8, 1e-8], [1e8, 1e-8], [1e-8, 1e8], [1e-8, 1e8]])
    found = steps(ExcessMtl(), sizes[..., None] * np.ones(3))
    assert np.isfinite(found).all()
    assert found[-1].min() > 1e7  # The second objective leads again.


# ---------------------------------------------------------------------- what rules see of losses

PUBLISHED = [
    DbMtl(),
    DynamicAverage(),
    Famo(),
    GeometricLoss(),
    GradNorm(),
    ImtlL(),
    Mgda(scaled="loss"),
    MoCo(),
    Uncertainty(),
]
"""Rules of the losses themselves: a minibatch may lie below the optimum of all rows."""


@pytest.mark.parametrize("rule", PUBLISHED, ids=lambda rule: rule.name)
def test_rules_that_divide_by_losses_see_the_losses_themselves(rule, monkeypatch):
    seen_losses = []
    name = "joined" if rule.coordinatewise else "factors"
    own = getattr(type(rule), name)

    def watched(self, *args):
        about = args[2] if rule.coordinatewise else args[0]
        seen_losses.append(about.losses)
        return own(self, *args)

    monkeypatch.setattr(type(rule), name, watched)
    problem = random_log_linear(0)
    runs = simulate(
        problem, [Method(Mix(lam=LAM), gradient=rule)], steps=1, step_size=0.1, gradients="full"
    )
    start = runs[runs.step == 0][["sft_loss", "preference_loss"]].iloc[0]
    np.testing.assert_allclose(np.ravel(seen_losses[0])[:2], start, rtol=1e-12)
    ends = runs[(runs.step == 1) & (runs.iterate == "last")]
    assert ends.sft_loss.iloc[0] != start.sft_loss  # It trains.


def test_rules_of_logarithms_stop_where_their_cards_say():
    problem = random_log_linear(0, dimension=3, prompts=4, responses=3)
    rules = Famo(recent=1.0, rate=1.0, decay=0.1), GeometricLoss(recent=1.0)
    methods = [Method(Mix(lam=LAM), gradient=rule) for rule in rules]
    runs = simulate(problem, methods, steps=300, step_size=2.0, gradients="full", checkpoints=[300])
    ends = runs[runs.iterate == "last"].set_index("schedule")
    for method, (w1, w2) in zip(methods, [(1, 1), (1 - LAM, LAM)], strict=True):
        first, second = ends.loc[[method.label], ["sft_loss", "preference_loss"]].to_numpy()[0]
        best = minimise(problem, w2 * first / (w2 * first + w1 * second)).theta
        np.testing.assert_allclose([first, second], problem.losses(best[None])[0], atol=1e-4)


# ---------------------------------------------------------------------- weights of zero

WHOLE = [
    kind()
    for kind in GRADIENT_RULES.values()
    if not kind.coordinatewise and kind not in (Epo, WeightedSum)
]


def test_a_rule_sees_both_gradients_where_a_weight_is_zero():
    """So it does what it does for a weight that is almost zero, at the same cost."""
    runs = trajectories(
        random_log_linear(0, dimension=3, prompts=4, responses=3),
        [Method(Mix(lam=lam), gradient=rule) for rule in WHOLE for lam in (0.0, 1e-13, 1.0)],
        steps=6,
        step_size=0.3,
        replicas=2,
    )
    ends = runs.last[:, :, -1].reshape(len(WHOLE), 3, -1)
    np.testing.assert_allclose(ends[:, 0], ends[:, 1], atol=1e-5)
    for rule, (first, _, last) in zip(WHOLE, ends, strict=True):
        if isinstance(rule, Mgda | ImtlG | FairGrad | Famo | Agem | Gem):  # without weights
            np.testing.assert_allclose(first, last, atol=1e-12)
            assert np.abs(first).max() > 0.01
    assert (runs.counts[:, :, -1] == 6).all()


def test_networks_see_both_gradients_where_a_weight_is_zero():
    task = PolicyTask(policy_data(0), PolicyConfig(width=4, depth=1))
    methods = [Method(Mix(lam=lam), gradient=Mgda()) for lam in (0.0, 0.5, 1.0)]
    table = train(task, grid(methods, [0]), steps=8, learning_rate=0.05).table
    ends = table[table.step == 8].drop(columns=["run", "lam"])
    assert (ends[["sft_updates", "preference_updates"]] == 8).all(axis=None)
    assert (ends.nunique() <= 1).all(), "MGDA has no weights"


def test_epo_lowers_the_one_loss_that_has_a_weight():
    gradients = random_gradients(1)[0]
    for lam, expected in ((0.0, [1.0, 0.0]), (1.0, [0.0, 1.0])):
        factors, _ = Epo().factors(seen(gradients, lam), Epo().start(()))
        np.testing.assert_allclose(factors, expected, atol=1e-12)
