"""Losses: one definition for numpy and torch, against direct formulas and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tradeoff import objectives

margins = st.floats(-50, 50)
betas = st.floats(0.01, 5)
smoothings = st.floats(0, 0.45)


@given(margins, betas, smoothings)
def test_dpo_is_the_cross_entropy_of_a_smoothed_label(m, beta, smoothing):
    # Both probabilities use the smaller exponential, so that neither loses digits.
    small = np.exp(-abs(beta * m))
    likely, unlikely = 1 / (1 + small), small / (1 + small)
    p, q = (likely, unlikely) if m >= 0 else (unlikely, likely)
    expected = -(1 - smoothing) * np.log(p) - smoothing * np.log(q)
    value = float(objectives.dpo(np.array(m), beta, smoothing))
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(st.floats(-20, 20), betas, smoothings)
def test_slope_and_curvature_are_derivatives(m, beta, smoothing):
    step = 1e-5
    values = objectives.dpo(np.array([m - step, m, m + step]), beta, smoothing)
    slope = (values[2] - values[0]) / (2 * step)
    assert float(objectives.dpo_slope(np.array(m), beta, smoothing)) == pytest.approx(
        slope, abs=1e-6
    )
    slopes = objectives.dpo_slope(np.array([m - step, m + step]), beta, smoothing)
    curvature = (slopes[1] - slopes[0]) / (2 * step)
    assert float(objectives.dpo_curvature(np.array(m), beta)) == pytest.approx(curvature, abs=1e-5)


def test_numpy_and_torch_agree_and_torch_differentiates():
    rng = np.random.default_rng(0)
    chosen, rejected, ref_c, ref_r = rng.normal(size=(4, 7)) * 3
    m = objectives.margin(chosen, rejected, ref_c, ref_r)
    t = torch.tensor(m, requires_grad=True)
    loss = objectives.dpo(t, 0.3, 0.1)
    np.testing.assert_allclose(loss.detach().numpy(), objectives.dpo(m, 0.3, 0.1), rtol=1e-14)
    loss.sum().backward()
    np.testing.assert_allclose(t.grad.numpy(), objectives.dpo_slope(m, 0.3, 0.1), rtol=1e-12)
    np.testing.assert_allclose(
        objectives.sft(torch.tensor(chosen)).numpy(), objectives.sft(chosen), rtol=1e-14
    )


def test_equal_policies_lose_log_two():
    assert float(objectives.dpo(np.zeros(1), 0.1)[0]) == pytest.approx(np.log(2), abs=1e-15)


def test_extreme_margins_stay_finite():
    loss = objectives.dpo(np.array([-1e6, 1e6]), 1.0)
    assert loss.tolist() == [1e6, 0.0]
    assert np.isfinite(objectives.dpo_slope(np.array([-1e6, 1e6]), 1.0)).all()


def test_the_slope_keeps_its_digits_in_the_tail():
    slope = float(objectives.dpo_slope(np.array(100.0), 5.0))
    assert slope == pytest.approx(-5.0 * np.exp(-500.0), rel=1e-12)


@given(margins, betas)
def test_hinge_is_zero_beyond_a_reward_of_one(m, beta):
    loss = float(objectives.hinge(np.array(m), beta))
    assert loss == pytest.approx(1 - beta * m if beta * m < 1 else 0.0, rel=1e-12, abs=1e-12)
    # Its slope is a subgradient of a convex function: the function lies above each tangent.
    tangent = torch.tensor(m, dtype=torch.float64, requires_grad=True)
    value = objectives.hinge(tangent, beta)
    value.backward()
    for other in np.linspace(-60, 60, 25):
        line = float(value.detach()) + float(tangent.grad) * (other - m)
        assert float(objectives.hinge(np.array(other), beta)) >= line - 1e-9


@given(margins, betas)
def test_ipo_is_a_parabola_about_its_target(m, beta):
    loss = objectives.ipo(np.array([m, 1 / beta - m, 1 / (2 * beta)]), beta)
    assert loss[0] == pytest.approx((m - 0.5 / beta) ** 2, rel=1e-12)
    assert loss[1] == pytest.approx(loss[0], rel=1e-9, abs=1e-9)
    assert loss[2] == 0.0


@pytest.mark.parametrize("loss", [objectives.dpo, objectives.hinge, objectives.ipo])
def test_every_margin_loss_falls_where_the_margin_is_zero_and_has_its_derivative(loss):
    m = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, 0.3), (m,))
    (slope,) = torch.autograd.grad(loss(m, 0.3)[1], m)
    assert slope[1] < 0
    same = loss(m.detach().numpy(), 0.3)
    np.testing.assert_allclose(same, loss(m, 0.3).detach().numpy(), rtol=1e-14)
