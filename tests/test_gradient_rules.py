"""Gradient rules: TorchJD's numbers, the definition of each rule, and their descriptions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tradeoff.errors import InputError
from tradeoff.methods.gradients import (
    GRADIENT_RULES,
    Agem,
    AlignedMtl,
    CaGrad,
    ConFig,
    DualProj,
    DynamicAverage,
    Famo,
    Gem,
    GeometricLoss,
    GradDrop,
    ImtlG,
    Mgda,
    NashMtl,
    PcGrad,
    Seen,
    SmoothTchebycheff,
    UpGrad,
    VectorRule,
    WeightedSum,
)

RULES = [kind() for kind in GRADIENT_RULES.values()]
LENGTHS = [Mgda(scaled="length"), ImtlG(), NashMtl(), ConFig()]
angles = st.floats(0.02, np.pi - 0.02)
sizes = st.floats(-3, 3).map(lambda power: 10.0**power)
lams = st.floats(0.05, 0.95)


def seen(gradients: np.ndarray, lam: float = 0.5, losses: Any = (1.0, 2.0)) -> Seen:
    """Arguments of a rule for gradients (..., 2, d)."""
    gram = np.einsum("...id,...jd->...ij", gradients, gradients)
    shape = (*gram.shape[:-2], 2)
    weights = np.broadcast_to([1 - lam, lam], shape).copy()
    coins = np.random.default_rng(5).random(shape)
    return Seen(gram, weights, np.broadcast_to(np.asarray(losses, float), shape).copy(), coins)


def two(angle: float, first: float = 1.0, second: float = 1.0) -> np.ndarray:
    """Two gradients in the plane with an angle between them."""
    return np.array([[first, 0.0], [second * np.cos(angle), second * np.sin(angle)]])


def direction(rule: Any, gradients: np.ndarray, lam: float = 0.5, losses: Any = (1.0, 2.0)) -> Any:
    found = seen(gradients, lam, losses)
    factors, _ = rule.factors(found, rule.start(found.weights.shape[:-1]))
    return np.einsum("...i,...id->...d", factors, gradients)


def random_gradients(count: int = 200, seed: int = 0, spread: float = 1.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 2, 5)) * 10 ** rng.uniform(-spread, spread, (count, 2, 1))


# ---------------------------------------------------------------------- TorchJD

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchjd import aggregation

LAM = 0.3
PREFERRED = torch.tensor([1 - LAM, LAM], dtype=torch.float64)
ORACLES = {
    "pcgrad": (PcGrad(), 0.5, aggregation.PCGrad(), 0.5, 1e-12),
    "upgrad": (UpGrad(), 0.5, aggregation.UPGrad(), 1.0, 2e-3),
    "upgrad weighted": (UpGrad(), LAM, aggregation.UPGrad(PREFERRED), 1.0, 2e-3),
    "dualproj": (DualProj(), 0.5, aggregation.DualProj(), 1.0, 2e-3),
    "dualproj weighted": (DualProj(), LAM, aggregation.DualProj(PREFERRED), 1.0, 2e-3),
    "mgda": (Mgda(), 0.5, aggregation.MGDA(epsilon=1e-12), 1.0, 1e-9),
    "imtl_g": (ImtlG(), 0.5, aggregation.IMTLG(), 1.0, 1e-10),
    "config": (ConFig(), 0.5, aggregation.ConFIG(), 1.0, 1e-10),
    "config weighted": (ConFig(), LAM, aggregation.ConFIG(PREFERRED), 1.0, 1e-10),
    "aligned_mtl": (AlignedMtl(), 0.5, aggregation.AlignedMTL(), 1.0, 1e-10),
    "aligned weighted": (AlignedMtl(), LAM, aggregation.AlignedMTL(PREFERRED), 1.0, 1e-10),
}


@pytest.mark.parametrize("name", ORACLES)
def test_directions_are_those_of_torchjd(name):
    rule, lam, theirs, scale, tolerance = ORACLES[name]
    # TorchJD projects by a regularised program, which matters where lengths differ much.
    projects = name.startswith(("upgrad", "dualproj"))
    for gradients in random_gradients(20, spread=0.1 if projects else 1.5):
        found = direction(rule, gradients, lam)
        expected = scale * theirs(torch.from_numpy(gradients)).numpy()
        size = np.linalg.norm(gradients, axis=-1).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("c", [0.2, 0.5, 1.5])
def test_cagrad_is_that_of_torchjd(c):
    theirs = aggregation.CAGrad(c=c, norm_eps=0.0)
    for gradients in random_gradients(8):
        found = direction(CaGrad(c=c), gradients) * (1 + c**2)
        expected = theirs(torch.from_numpy(gradients)).numpy()
        size = np.linalg.norm(gradients, axis=-1).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * size)


# ---------------------------------------------------------------------- what defines each rule


@given(angle=angles, first=sizes, second=sizes, lam=lams)
def test_projections_harm_neither_objective(angle, first, second, lam):
    gradients = two(angle, first, second)
    lengths = np.array([first, second])
    for rule in (PcGrad(), DualProj(), UpGrad()):
        d = direction(rule, gradients, lam)
        assert (gradients @ d >= -1e-12 * np.linalg.norm(d) * lengths - 1e-300).all()
    if angle < np.pi / 2:
        plain = direction(WeightedSum(), gradients, lam)
        np.testing.assert_allclose(direction(PcGrad(), gradients, lam), plain, rtol=1e-12)


@given(angle=angles, first=sizes, second=sizes)
def test_mgda_is_the_shortest_vector_of_the_segment(angle, first, second):
    gradients = two(angle, first, second)
    d = direction(Mgda(), gradients)
    segment = np.linspace(0, 1, 401)[:, None] * gradients[0]
    segment = segment + np.linspace(1, 0, 401)[:, None] * gradients[1]
    assert np.linalg.norm(d) <= np.linalg.norm(segment, axis=1).min() * (1 + 1e-9)
    assert (gradients @ d >= (d @ d) * (1 - 1e-9) - 1e-13 * max(first, second) ** 2).all()


@given(angle=angles, first=sizes, second=sizes, lam=lams, c=st.floats(0.05, 3))
@example(angle=2.0, first=0.001, second=100.0, lam=0.5, c=3.0)
def test_cagrad_gains_most_for_the_objective_that_gains_least(angle, first, second, lam, c):
    gradients = two(angle, first, second)
    pull = direction(WeightedSum(), gradients, lam)
    radius = c * np.linalg.norm(pull)
    d = direction(CaGrad(c=c), gradients, lam)
    moved = d * (1 + c**2) - pull
    assert np.linalg.norm(moved) <= radius * (1 + 1e-7)
    # The direction in the ball with the largest gain for the objective that gains least.
    turns = np.linspace(0, 2 * np.pi, 721)
    others = pull + radius * np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    slack = 1e-7 * radius * max(first, second)
    assert (others @ gradients.T).min(axis=1).max() <= (gradients @ (pull + moved)).min() + slack


def test_cagrad_without_a_radius_is_the_weighted_sum():
    gradients = random_gradients(50)
    np.testing.assert_array_equal(
        direction(CaGrad(c=0.0), gradients, 0.3), direction(WeightedSum(), gradients, 0.3)
    )


@given(angle=angles, first=sizes, second=sizes)
def test_bisectors_point_between_both_gradients(angle, first, second):
    gradients = two(angle, first, second)
    middle = np.array([np.cos(angle / 2), np.sin(angle / 2)])
    half = np.cos(angle / 2)
    lengths = (half, 2 * first * second / (first + second) * half, 1.0, (first + second) * half)
    for rule, length in zip(LENGTHS, lengths, strict=True):
        np.testing.assert_allclose(direction(rule, gradients), length * middle, rtol=1e-7)


@given(angle=angles, first=sizes, second=sizes, lam=lams)
def test_nash_solves_its_bargaining_problem(angle, first, second, lam):
    found = seen(two(angle, first, second), lam)
    x, _ = NashMtl().factors(found, {})
    np.testing.assert_allclose(found.gram @ x * x, found.weights, rtol=1e-8)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_nash_follows_neither_of_two_opposite_gradients(lam):
    line = two(np.pi, 1.0, 3.0)[:, :1]
    np.testing.assert_array_equal(direction(NashMtl(), line, lam), 0.0)


def test_imtl_g_keeps_the_digits_of_a_short_gradient():
    shares = ImtlG().factors(seen(two(1.0, 1e-8, 1e8)), {})[0]
    np.testing.assert_allclose(shares, [1.0, 1e-16], rtol=1e-12)


@given(angle=angles, first=sizes, second=sizes, lam=lams)
def test_aligned_directions_have_the_length_of_the_smallest_eigenvalue(angle, first, second, lam):
    found = seen(two(angle, first, second), lam)
    d = direction(AlignedMtl(), two(angle, first, second), lam)
    values = np.linalg.eigvalsh(found.gram)
    expected = values[0] * (found.weights**2).sum()
    assert d @ d == pytest.approx(expected, rel=1e-4, abs=1e-12 * values[1])


def test_the_smooth_maximum_has_its_gradient():
    """The gradient of mu log sum exp(w f / mu), by finite differences over both losses."""
    gradients, losses = random_gradients(1)[0], np.array([0.4, 1.1])
    rule = SmoothTchebycheff(mu=0.3, recent=1.0)

    def value(f: np.ndarray) -> float:
        return 0.3 * np.log(np.exp(np.array([0.7, 0.3]) * f / 0.3).sum())

    step = 1e-6
    slopes = [(value(losses + step * e) - value(losses - step * e)) / (2 * step) for e in np.eye(2)]
    found = direction(rule, gradients, 0.3, losses)
    np.testing.assert_allclose(found, np.array(slopes) @ gradients, rtol=1e-7)
    # At a high temperature it is half of the weighted sum, at a low one the larger weighted loss.
    flat = direction(SmoothTchebycheff(mu=1e6), gradients, 0.3, losses)
    np.testing.assert_allclose(2 * flat, direction(WeightedSum(), gradients, 0.3), rtol=1e-5)
    sharp = direction(SmoothTchebycheff(mu=1e-3), gradients, 0.3, (0.1, 2.0))
    np.testing.assert_allclose(sharp, 0.3 * gradients[1], rtol=1e-12)


def test_running_means_start_at_the_first_losses():
    rule = GeometricLoss(recent=0.25)
    state = rule.start((3,))
    for losses, mean in ((2.0, 2.0), (4.0, 2.5)):
        found = seen(random_gradients(3), losses=(losses, losses))
        factors, state = rule.factors(found, state)
        np.testing.assert_allclose(factors, 0.5 / mean)


def test_dwa_weighs_the_loss_that_falls_less():
    rule = DynamicAverage(window=2, temperature=1.0)
    state, factors = rule.start(()), None
    for t in range(6):
        found = seen(two(1.0), losses=(1.0, 2.0 ** -(t // 2)))
        factors, state = rule.factors(found, state)
        if t < 4:  # Two windows are not full yet.
            np.testing.assert_allclose(factors, found.weights)
    np.testing.assert_allclose(factors[0] / factors[1], np.exp(1 - 0.5))
    assert sum(factors) == pytest.approx(1.0)


def test_famo_turns_to_the_loss_that_falls_less():
    rule = Famo(rate=0.5, decay=0.0, recent=1.0)
    state = rule.start(())
    for t in range(20):
        factors, state = rule.factors(seen(two(1.0), losses=(0.9**t, 1.0)), state)
    assert state["logits"][1] > state["logits"][0]
    assert factors.sum() == pytest.approx(1.0)
    still = Famo(rate=0.0, recent=1.0)
    factors, _ = still.factors(seen(two(1.0), losses=(1.0, 3.0)), still.start(()))
    np.testing.assert_allclose(factors, [0.75, 0.25])


@given(angle=angles, first=sizes, second=sizes)
def test_gem_keeps_the_sft_loss_from_rising(angle, first, second):
    gradients = two(angle, first, second)
    d, most = direction(Agem(), gradients), direction(Gem(margin=0.5), gradients)
    if angle < np.pi / 2:
        np.testing.assert_array_equal(d, gradients[1])
        return
    assert abs(gradients[0] @ d) <= 1e-12 * first * second
    assert gradients[0] @ most >= -1e-12 * first * second
    least = max(0.5, -second * np.cos(angle) / first)
    np.testing.assert_allclose(most, gradients[1] + least * gradients[0], rtol=1e-7, atol=1e-12)


@dataclass(frozen=True, kw_only=True)
class Longer(VectorRule):
    """A rule that takes the longer of both gradients, for which it needs the whole gradients."""

    name: ClassVar[str] = "longer"

    def joined(self, first, second, about, state):
        return (first if (first**2).sum() > (second**2).sum() else second), state


def test_only_rules_of_coordinates_run_tensor_by_tensor():
    assert "tensor by tensor" in Longer().unsupported("llm")
    assert Longer().unsupported("networks") is None
    assert GradDrop().unsupported("llm") is None


def test_graddrop_is_the_weighted_sum_on_average_and_that_of_torchjd():
    first, second = random_gradients(1, spread=0.1)[0]
    chance = 0.5 * (1 + (first + second) / (abs(first) + abs(second)))
    coins = np.linspace(0, 1, 4001)[:-1, None] * np.ones(5)
    mean = GradDrop().direction(first, second, coins).mean(0)
    np.testing.assert_allclose(mean, first + second, atol=2e-3)
    torch.manual_seed(0)
    uniform = torch.rand(5, dtype=torch.float64)
    torch.manual_seed(0)
    jacobian = torch.tensor(np.stack([first, second]))
    expected = aggregation.GradDrop()(jacobian).numpy()
    np.testing.assert_allclose(
        GradDrop().direction(first, second, uniform.numpy()), expected, rtol=1e-12
    )
    # Numpy and torch agree. A full leak gives the sum. Each coordinate has one sign.
    same = GradDrop().direction(*(torch.tensor(g) for g in (first, second)), uniform)
    np.testing.assert_allclose(same, expected, rtol=1e-12)
    np.testing.assert_allclose(GradDrop(leak=1.0).direction(first, second, chance), first + second)
    positive = np.maximum([first, second], 0).sum(0)
    np.testing.assert_allclose(GradDrop().direction(first, second, chance - 1e-9), positive)


# ---------------------------------------------------------------------- over the whole catalogue


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_runs_do_not_meet_and_factors_sum_to_what_the_rule_promises(rule):
    gradients = random_gradients(6)
    gradients[1, 0] = 0.0
    gradients[2] = 0.0
    gradients[3, 1] = -2 * gradients[3, 0]
    gradients[4, 1] = gradients[4, 0]
    found = seen(gradients, 0.4)
    state = rule.start((6,))
    for _ in range(3):
        factors, after = rule.factors(found, state)
        assert factors.shape == (6, 2)
        assert np.isfinite(factors).all()
        for r in range(6):
            one = Seen(found.gram[r], found.weights[r], found.losses[r], found.coins[r])
            alone, _ = rule.factors(one, {k: v[r] for k, v in state.items()})
            # Powers of one number and of many numbers may differ in the last digit.
            slack = 1e-14 if rule.name in ("fairgrad", "gradnorm") else 0.0
            np.testing.assert_allclose(alone, factors[r], rtol=slack, atol=0)
        if rule.total is not None:
            np.testing.assert_allclose(factors.sum(axis=-1), rule.total, rtol=1e-12)
        assert type(rule).uses_losses or np.array_equal(
            factors, rule.factors(replace(found, losses=found.losses * 0), state)[0]
        )
        state = after


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_at_equal_gradients_every_rule_follows_them(rule):
    if rule.name == "aligned_mtl":  # Its length is that of the smallest eigenvalue, here zero.
        return
    g = np.array([[1.0, 2.0], [1.0, 2.0]])
    d = direction(rule, g, losses=(1.0, 1.0))  # Losses on the ray of lam = 1/2.
    assert d @ g[0] == pytest.approx(np.linalg.norm(d) * np.linalg.norm(g[0]))
    assert d @ g[0] > 0


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Mgda(scaled="unit"), "scaled"),
        (lambda: CaGrad(c=-0.1), "c"),
        (lambda: SmoothTchebycheff(mu=0.0), "mu"),
        (lambda: SmoothTchebycheff(recent=0.0), "recent"),
        (lambda: DynamicAverage(window=0), "window"),
        (lambda: DynamicAverage(temperature=-1.0), "temperature"),
        (lambda: Famo(rate=-1.0), "rate"),
        (lambda: Famo(decay=-1.0), "decay"),
    ],
)
def test_bad_settings_name_the_field(make, field):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field
