"""Losses of methods: TRL's own numbers, finite differences, numpy against torch, convexity."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from tradeoff.errors import InputError
from tradeoff.methods.losses import (
    PREFERENCE_LOSSES,
    SFT_LOSSES,
    Adpo,
    AlphaDpo,
    AlphaPo,
    AnchoredDpo,
    Aot,
    ApoDown,
    ApoZero,
    Bco,
    CalDpo,
    Chord,
    Cpo,
    Dft,
    DiscoPop,
    DivergenceDpo,
    Dpo,
    DpoPositive,
    DpoShift,
    Exo,
    ExpectedReward,
    FaultAware,
    GatedSft,
    Hinge,
    ImportanceSft,
    Ipo,
    Kto,
    LengthDpo,
    Luffy,
    Modpo,
    MovingReferenceDpo,
    Mpo,
    Nca,
    Nll,
    Nominal,
    OneTokenRollout,
    Orpo,
    Pairs,
    Poft,
    ProximalSft,
    Responses,
    RewardWeighted,
    RobustDpo,
    Rollouts,
    Rpo,
    SimPo,
    Slic,
    Sppo,
    Tdpo,
    Uft,
    Ulma,
    UnitDpo,
    Weighted,
    Wpo,
    initial_pull,
    pair_slopes,
    sft_slopes,
)

OF_PAIRS = [kind() for name, kind in PREFERENCE_LOSSES.items() if kind is not Nominal]
OF_PAIRS += [DivergenceDpo(divergence="forward"), Dpo(label_smoothing=0.2)]
OF_SFT = [kind() for kind in SFT_LOSSES.values()]
CHECKED = OF_PAIRS + OF_SFT


def responses(seed: int, n: int = 7) -> Responses:
    """Log-probabilities of responses of a few tokens, spread widely."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 6, n).astype(float)
    policy, reference = -rng.gamma(2.0, 1.0, (2, n)) * lengths
    return Responses(policy - 0.01, reference - 0.01, lengths)


def pairs(seed: int = 0, n: int = 7) -> Pairs:
    return Pairs(responses(seed, n), responses(seed + 100, n))


def as_torch(given: Responses) -> Responses:
    return Responses(
        *(torch.from_numpy(x) for x in (given.log_probs, given.reference, given.lengths))
    )


def of_pairs(loss: Any, given: Pairs) -> np.ndarray:
    return np.asarray(loss.losses(given))


@pytest.mark.parametrize("loss", CHECKED, ids=lambda loss: loss.name)
def test_numpy_and_torch_agree(loss):
    if loss.kind == "sft":
        given = responses(0)
        found, again = loss.losses(given), loss.losses(as_torch(given))
    else:
        given = pairs()
        again = loss.losses(Pairs(as_torch(given.chosen), as_torch(given.rejected)))
        found = loss.losses(given)
    assert found.shape == (7,)
    np.testing.assert_allclose(again.numpy(), found, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("loss", [x for x in OF_PAIRS if not x.stopped], ids=lambda x: x.name)
@pytest.mark.parametrize("seed", range(3))
def test_slopes_of_pair_losses_are_finite_differences(loss, seed):
    given, step = pairs(seed), 1e-6
    values, slopes = pair_slopes(loss, given)
    np.testing.assert_allclose(values, of_pairs(loss, given), rtol=1e-13)
    # The loss of a pair depends on that pair alone, unless the loss sorts the batch.
    moves = np.eye(7) if loss.whole_batch else np.ones((1, 7))
    for side in (0, 1):
        found = [
            moved(loss, given, side, step * m) - moved(loss, given, side, -step * m) for m in moves
        ]
        expected = np.sum(found, axis=1) if loss.whole_batch else found[0]
        error = 2e-6 + 1e-9 * np.abs(values).max()
        np.testing.assert_allclose(slopes[:, side], expected / (2 * step), rtol=2e-5, atol=error)


def moved(loss: Any, given: Pairs, side: int, by: np.ndarray) -> np.ndarray:
    """Losses after a shift of the log-probabilities of one side."""
    both = [given.chosen, given.rejected]
    both[side] = Responses(both[side].log_probs + by, both[side].reference, both[side].lengths)
    return of_pairs(loss, Pairs(*both))


# For each weight of a token's slope, the loss of the token's probability p that has this
# derivative.
IMPLIED = {
    **dict.fromkeys(
        ("nll", "mft", "ift", "tl_training", "rationale_sft", "prefix_rft", "uft_rl"),
        lambda p, q: -np.log(p),
    ),
    "dft": lambda p, q: 1 - p,
    "asft": lambda p, q: 1 - p,  # Without a divergence.
    "chord": lambda p, q: (1 - p) ** 2 / 2,
    "luffy": lambda p, q: -p / (p + 0.1),
    "uft": lambda p, q: 1 / (1 + (p / q) ** 0.1) ** 2,
    "poft": lambda p, q: np.log(1 + q / p),
    "iw_sft": lambda p, q: -p / q,
    "psft": lambda p, q: -p / q,
    "otr": lambda p, q: 1.1 * (1 - p),
    "srft_demonstrations": lambda p, q: -0.5 * np.log(p) - p / (p + 0.1),  # Without entropy.
}


@pytest.mark.parametrize("loss", OF_SFT, ids=lambda loss: loss.name)
def test_slopes_of_sft_losses_are_those_of_the_implied_loss(loss):
    p, q = np.array([0.06, 0.3, 0.9]), np.array([0.05, 0.25, 0.8])
    given = Responses(np.log(p), np.log(q))
    step, implied = 1e-6, IMPLIED[loss.name]
    slope = sft_slopes(loss, given)[1]
    expected = p * (implied(p + step, q) - implied(p - step, q)) / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
    weighted = ("dft", "chord", "luffy", "iw_sft", "psft", "otr", "srft_demonstrations")
    assert isinstance(loss, Weighted) == (loss.name in weighted)


def test_importance_weights_are_bounded():
    given = Responses(np.log([0.9, 0.001]), np.log([0.001, 0.9]))
    assert ImportanceSft().weights(given).tolist() == [1.8, 0.2]


# ---------------------------------------------------------------------- independent numbers

TRL = {
    "sigmoid": [Dpo(beta=0.3), Dpo(beta=2.0)],
    "sigmoid_norm": [PREFERENCE_LOSSES["sigmoid_norm"](beta=0.3)],
    "hinge": [Hinge(beta=0.3)],
    "ipo": [Ipo(beta=0.3)],
    "exo_pair": [Exo(beta=0.3, label_smoothing=0.05)],
    "nca_pair": [Nca(beta=0.3)],
    "robust": [RobustDpo(beta=0.3, label_smoothing=0.2)],
    "bco_pair": [Bco(beta=0.3)],
    "sppo_hard": [Sppo(beta=0.3)],
    "aot": [Aot(beta=0.3, label_smoothing=0.2)],
    "aot_unpaired": [PREFERENCE_LOSSES["aot_unpaired"](beta=0.3)],
    "apo_zero": [ApoZero(beta=0.3)],
    "apo_down": [ApoDown(beta=0.3)],
    "discopop": [DiscoPop(beta=0.3, tau=0.2)],
}


def with_tokens(seed: int = 0, n: int = 5, width: int = 6) -> tuple[Any, Any, Any, Pairs]:
    """Token log-probabilities, lengths and a reference, for TRL and as our record."""
    rng = np.random.default_rng(seed)
    lengths = torch.from_numpy(rng.integers(1, width + 1, 2 * n))
    tokens = torch.from_numpy(-rng.gamma(2.0, 0.7, (2 * n, width)))
    tokens = tokens * (torch.arange(width) < lengths[:, None])
    reference = tokens.sum(1) + torch.from_numpy(rng.normal(size=2 * n) * 2)
    parts = zip(*(x.chunk(2) for x in (tokens.sum(1), reference, lengths.double())), strict=True)
    return tokens, lengths, reference, Pairs(*(Responses(*part) for part in parts))


def trl() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of its imports.
        import trl_losses
    return trl_losses


@pytest.mark.parametrize("name", TRL)
def test_losses_are_those_of_trl(name):
    tokens, lengths, reference, given = with_tokens()
    for loss in TRL[name]:
        settings = {k: v for k, v in loss.to_dict().items() if k != "name"}
        expected = trl().dpo_trainer_loss(name, tokens, lengths, reference, **settings)
        assert loss.name == name
        assert float(loss.losses(given).mean()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), [("forward", "forward_kl"), ("js", "js_divergence")])
def test_other_divergences_are_those_of_trl(ours, theirs):
    tokens, lengths, reference, given = with_tokens(3)
    loss = DivergenceDpo(beta=0.3, divergence=ours)
    expected = trl().dpo_trainer_loss(
        "sigmoid", tokens, lengths, reference, beta=0.3, divergence=theirs
    )
    assert float(loss.losses(given).mean()) == pytest.approx(expected, rel=1e-6)


def test_losses_without_a_reference_are_those_of_trl():
    _, _, _, given = with_tokens(1)
    chosen, rejected = given.chosen.log_probs, given.rejected.log_probs
    means = [r.per_token(r.log_probs) for r in (given.chosen, given.rejected)]
    nll = -means[0]
    settings = {"beta": 0.7, "gamma": 0.4}
    for loss, alpha in ((SimPo(**settings), 0.0), (AlphaPo(**settings, alpha=0.2), 0.2)):
        expected = trl().cpo_trainer_loss("simpo", *means, **settings, alpha=alpha)
        torch.testing.assert_close(loss.losses(given), expected)
    expected = trl().cpo_trainer_loss("sigmoid", chosen, rejected, beta=0.7)
    torch.testing.assert_close(Cpo(beta=0.7, alpha=0.0).losses(given), expected)
    torch.testing.assert_close(Cpo(beta=0.7, alpha=2.0).losses(given), expected + 2 * nll)
    odds = trl().orpo_trainer_loss(0.3, *means)  # In float32.
    found = Orpo(weight=0.3).losses(given) - nll
    torch.testing.assert_close(found.float(), odds, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- identities


def same(first: Any, second: Any, given: Pairs | None = None) -> bool:
    given = given or pairs(7)
    return bool(np.allclose(of_pairs(first, given), of_pairs(second, given), rtol=1e-13))


def test_losses_reduce_to_one_another():
    dpo = Dpo(beta=0.3)
    assert same(DpoPositive(beta=0.3, penalty=0.0), dpo)
    assert same(DpoShift(beta=0.3, share=1.0), dpo)
    assert same(LengthDpo(beta=0.3, alpha=0.0), dpo)
    assert same(Rpo(beta=0.3, alpha=0.0), dpo)
    assert same(RobustDpo(beta=0.3, label_smoothing=0.0), dpo)
    # With one pair there is nothing to sort.
    assert same(Aot(beta=0.3), dpo, pairs(3, n=1))
    # Without a reference: the uniform one, with one token per response and the target as its
    # margin.
    one = Pairs(
        *(Responses(r.log_probs, r.log_probs * 0) for r in (pairs().chosen, pairs().rejected))
    )
    assert same(Cpo(beta=0.3, alpha=0.0), dpo, one)
    assert same(SimPo(beta=0.3, gamma=0.0), dpo, one)
    assert same(Slic(delta=1.0, alpha=0.0), Hinge(beta=1.0), one)
    # A shift of one, towards SFT on the chosen response alone.
    chosen = pairs(7).chosen
    plain = Responses(chosen.log_probs, chosen.reference)
    shifted = of_pairs(DpoShift(beta=1.0, share=0.0), Pairs(plain, plain))
    np.testing.assert_allclose(shifted, Poft().losses(plain), rtol=1e-13)


def test_more_losses_reduce_to_others():
    dpo, given = Dpo(beta=0.3), pairs(7)
    assert same(Modpo(beta=0.3, weight=1.0), dpo)
    assert same(Tdpo(beta=0.3), dpo)  # Without a divergence.
    assert same(AnchoredDpo(beta=0.3), dpo)
    # Forward KL, and almost none.
    assert same(AlphaDpo(beta=0.3, alpha=1.0), DivergenceDpo(beta=0.3, divergence="forward"))
    close = of_pairs(AlphaDpo(beta=0.3, alpha=1e-7), given)
    np.testing.assert_allclose(close, of_pairs(dpo, given), rtol=1e-5)
    assert same(Mpo(beta=0.3, preference=1, quality=0, generation=0.5), Rpo(beta=0.3, alpha=0.5))
    shifted = of_pairs(Adpo(tau=0.5, flip=0.2), given) - of_pairs(
        Dpo(beta=2.0, label_smoothing=0.2), given
    )
    np.testing.assert_allclose(shifted, 0.2 * np.log(0.2) + 0.8 * np.log(0.8), rtol=1e-10)
    # One pair in which the chosen response has one token less, and one with equal lengths.
    short = Pairs(
        Responses(np.zeros(1), np.zeros(1), np.ones(1)),
        Responses(np.zeros(1), np.zeros(1), 2 * np.ones(1)),
    )
    assert same(Modpo(beta=0.3, per_token=0.0), Dpo(beta=0.6))
    costly = of_pairs(Modpo(weight=0.5, per_token=0.2), short)
    np.testing.assert_allclose(costly, np.log1p(np.exp(0.2)), rtol=1e-12)


def test_imitation_is_weighted_sft():
    given = pairs(7)
    nll = -given.chosen.per_token(given.chosen.log_probs)
    other = -given.rejected.per_token(given.rejected.log_probs)
    np.testing.assert_allclose(of_pairs(RewardWeighted(temperature=1e-3), given), nll, rtol=1e-12)
    even = of_pairs(RewardWeighted(temperature=1e9), given)
    np.testing.assert_allclose(even, (nll + other) / 2, rtol=1e-6)
    np.testing.assert_allclose(of_pairs(FaultAware(extra=0.0), given), nll, rtol=1e-12)
    # At the reference the additional weight is one half.
    half = Responses(np.log([0.5]), np.log([0.5]))
    at = pair_slopes(FaultAware(extra=1.0), Pairs(half, half))[1]
    np.testing.assert_allclose(at, [[-1.5, 0.0]])
    gated = of_pairs(GatedSft(beta=0.3, weight=2.0), given)
    np.testing.assert_allclose(
        gated, np.where(nll >= other, 2 * nll, of_pairs(Dpo(beta=0.3), given))
    )
    assert (nll >= other).any()
    assert (nll < other).any()
    # No rejected response is as likely as under a reference that almost excludes it.
    never = Pairs(given.chosen, Responses(given.rejected.log_probs - 1e4, given.rejected.reference))
    np.testing.assert_allclose(of_pairs(Ulma(), never), nll, rtol=1e-12)
    reward = of_pairs(ExpectedReward(), given)
    gain = np.exp(given.chosen.log_probs) - np.exp(given.rejected.log_probs)
    np.testing.assert_allclose(reward, -gain, rtol=1e-12)


def test_proximal_sft_has_no_slope_beyond_its_bound():
    given = Responses(np.log([0.4, 0.5, 0.9]), np.log([0.4, 0.4, 0.6]))
    np.testing.assert_allclose(sft_slopes(ProximalSft(), given)[1], [-1.0, -1.25, 0.0])
    dft = sft_slopes(Dft(), given)[1]
    np.testing.assert_allclose(sft_slopes(OneTokenRollout(miss=0.2), given)[1], 0.8 * dft)


def test_divergences_of_pair_losses_have_the_slopes_that_they_say():
    given, step = pairs(3), 1e-6

    def value(loss: Any, apart: float) -> np.ndarray:
        both = (
            Responses(r.log_probs, r.reference, r.lengths, np.full(7, k))
            for r, k in ((given.chosen, 0.3), (given.rejected, apart))
        )
        return of_pairs(loss, Pairs(*both))

    for loss in (Tdpo(beta=0.3), AnchoredDpo(beta=0.3)):
        found = (value(loss, 0.3 + step) - value(loss, 0.3 - step)) / (2 * step)
        if isinstance(loss, AnchoredDpo):  # Its divergence is that of the chosen side.
            assert not found.any()
            found = np.full(7, loss.weight)
        np.testing.assert_allclose(loss.divergence_slopes(given), found, rtol=1e-6)
    # Pairs that the policy finds likely count as pairs. The uniform policy finds all pairs likely.
    third = Responses(np.log([1 / 3]), np.log([0.5]), None, np.log([1 / 3]))
    np.testing.assert_allclose(of_pairs(Wpo(), Pairs(third, third)), np.log(2))


def test_two_calibrated_losses_are_a_fit_of_the_margin_and_an_anchor():
    given, beta = pairs(5), 0.3
    chosen, rejected = given.chosen.ratio, given.rejected.ratio
    fit = ((chosen - rejected - 1 / beta) ** 2 + (chosen + rejected) ** 2) / 2
    np.testing.assert_allclose(Sppo(beta=beta).losses(given), fit, rtol=1e-12)
    logistic = np.log1p(np.exp(-(chosen - rejected)))
    np.testing.assert_allclose(CalDpo(beta=beta).losses(given), logistic + fit / 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "pull"),
    [
        (Dpo(beta=0.4), 0.2),
        (Dpo(beta=0.4, label_smoothing=0.1), 0.4 * 0.4),
        (RobustDpo(beta=0.4, label_smoothing=0.1), 0.4 / 1.6),
        (Ipo(beta=0.4), 2.5),
        (Hinge(beta=0.4), 0.4),
        (Exo(beta=0.4, label_smoothing=0.01), 0.1 * np.log(99)),
        (Nca(beta=0.4), 0.1),
        (Bco(beta=0.4), 0.2),
        (Sppo(beta=0.4), 2.5),
        (ApoZero(beta=0.4), 0.1),
        (Kto(beta=0.4), 0.1),
        (CalDpo(beta=0.4), 0.5 + 1.25),
        (UnitDpo(beta=0.4), 1.0),
        (MovingReferenceDpo(beta=0.4), 0.2),
        (UnitDpo(beta=3.0), 1.0),
        (Adpo(tau=2.5, flip=0.1), 0.4 * 0.4),
        (AlphaDpo(beta=0.4), 0.2),
        (Modpo(beta=0.4, weight=0.5), 0.4),
        (Tdpo(beta=0.4), 0.2),
        (AnchoredDpo(beta=0.4), 0.2),
        (Wpo(beta=0.4), 0.05),  # The weight of two halves without a sum of squares is 1/4.
        # Its slope has the wrong sign at the reference.
        (DiscoPop(beta=0.4, tau=0.05), 0.4 * (0.75 - (1 - np.log(2)) / 0.2)),
    ],
)
def test_the_first_step_is_known(loss, pull):
    assert initial_pull(loss) == pytest.approx((-pull, pull), rel=1e-12)


def test_first_steps_that_are_not_even():
    assert initial_pull(ApoDown(beta=0.4)) == pytest.approx((0.0, 0.1), abs=1e-15)
    assert initial_pull(DpoShift(beta=0.4, share=0.5)) == pytest.approx((-0.2, 0.1))


@pytest.mark.parametrize("loss", CHECKED, ids=lambda loss: loss.name)
def test_convex_losses_are_convex_in_the_logits(loss):
    """Midpoints over three responses of one prompt. A loss declared not convex must fail."""
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(2, 4000, 3)) * 4
    if isinstance(loss, Weighted | Rollouts):
        assert not loss.convex
        return
    reference = np.log([0.2, 0.5, 0.3])

    def value(z: np.ndarray) -> np.ndarray:
        log_probs = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        first, second = (
            Responses(log_probs[:, i], np.full(len(z), reference[i]), np.ones(len(z)))
            for i in (0, 1)
        )
        return np.asarray(loss.losses(first if loss.kind == "sft" else Pairs(first, second)))

    if getattr(loss, "whole_batch", False):
        return
    bent = value(ends.mean(axis=0)) - (value(ends[0]) + value(ends[1])) / 2
    assert (bent.max() <= 1e-9) == loss.convex


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Dpo(beta=0.0), "beta"),
        (lambda: Dpo(beta=float("nan")), "beta"),
        (lambda: Dpo(label_smoothing=0.5), "label_smoothing"),
        (lambda: Exo(label_smoothing=0.0), "label_smoothing"),
        (lambda: Rpo(alpha=-1.0), "alpha"),
        (lambda: DpoShift(share=1.5), "share"),
        (lambda: Luffy(gamma=-1.0), "gamma"),
        (lambda: AlphaPo(alpha=0.0), "alpha"),
        (lambda: Uft(beta=0.0), "beta"),
        (lambda: ImportanceSft(low=2.0), "low"),
        (lambda: ImportanceSft(high=-1.0), "high"),
        (lambda: DivergenceDpo(divergence="reverse"), "divergence"),
        (lambda: Nominal().losses(pairs()), "preference"),
        (lambda: Dpo().losses(Pairs(Responses(np.zeros(1)), Responses(np.zeros(1)))), "reference"),
    ],
)
def test_bad_settings_name_the_field(make, field):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_orpo_is_finite_where_a_probability_rounds_to_one(kind):
    sure, open_ = np.zeros(2, dtype=kind), np.array([0.0, -3.0], dtype=kind)
    given = Pairs(Responses(sure), Responses(open_))
    found = Orpo(weight=1.0).losses(given)
    np.testing.assert_allclose(found, [np.log(2), 0.0], atol=1e-5)
    chosen, rejected = (torch.tensor(x, requires_grad=True) for x in (sure, open_))
    Orpo().losses(Pairs(Responses(chosen), Responses(rejected))).sum().backward()
    assert torch.isfinite(torch.stack([chosen.grad, rejected.grad])).all()
    assert (chosen.grad < 0).all()


def test_what_a_loss_needs_is_what_it_says():
    bare = Pairs(
        *(Responses(r.log_probs, None, r.lengths) for r in (pairs().chosen, pairs().rejected))
    )
    for loss in OF_PAIRS:
        if loss.needs_reference:
            with pytest.raises(InputError, match="reference"):
                loss.losses(bare)
        else:
            assert np.isfinite(loss.losses(bare)).all()
    for loss in OF_SFT:
        if loss.needs_reference:
            with pytest.raises(InputError, match="reference"):
                loss.losses(bare.chosen)
        else:
            assert np.isfinite(loss.losses(bare.chosen)).all()
    # A loss of the margin alone does not change when both log-ratios move together.
    given = pairs()
    lower = Pairs(
        *(
            Responses(r.log_probs - 1.0, r.reference, r.lengths)
            for r in (given.chosen, given.rejected)
        )
    )
    for loss in OF_PAIRS:
        if loss.margin_only:
            np.testing.assert_allclose(loss.losses(lower), loss.losses(given))
    assert [kind.convex for kind in (Nll, Dft, Chord)] == [True, False, False]
