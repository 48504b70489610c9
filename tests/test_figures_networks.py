"""The figures on small networks show what their titles state, in their fast form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from analysis.dossier import captions
from analysis.fernando2024.costs import schedule_cost
from analysis.fernando2024.costs.live_tensors import LiveTensors
from analysis.fernando2024.networks import bridge, token_convexity
from analysis.fernando2024.stored import PAPER
from tradeoff.records import read_json

pytestmark = pytest.mark.slow

FIGURES = (bridge, token_convexity, schedule_cost)


def stored(name: str) -> dict[str, Any]:
    """Numbers of the full run that the dossier shows."""
    found: dict[str, Any] = read_json(PAPER / "results" / f"{name}.json")["numbers"]
    return found


def test_captions_say_what_varies_and_how_to_redraw() -> None:
    for module in FIGURES:
        name = module.__name__.split(".")[-1]
        assert "n = " in module.CAPTION
        assert "aries is the" in module.CAPTION
        assert f"Command: python -m analysis {name}" in module.CAPTION
        assert "{" not in captions.caption(module, stored(name))


# ---------------------------------------------------------------------- bridge


def test_the_last_layer_is_the_laboratory_and_stays_behind_its_front(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    alone = numbers("bridge")["last_layer_alone"]
    assert alone["largest_difference_from_the_laboratory"] < 1e-8
    assert alone["least_distance_behind_the_outer_hull"] > 0
    assert alone["largest_norm"] < numbers("bridge")["radius"]


def test_a_narrow_network_lands_beyond_the_front_and_a_wide_one_near_it(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("bridge")["signed_distance"]["train"]
    for method in ("mix", "alright"):
        narrow, *_, wide = (cell["mean"] for cell in found[method])
        assert narrow < -0.02
        assert narrow < wide - 0.03
        assert abs(wide) < 0.06
    # The comparison is fair: every trained last layer is inside the ball of the fronts.
    assert numbers("bridge")["largest_norm_of_a_last_layer"] < numbers("bridge")["radius"]


def test_both_orders_trail_in_the_full_network_of_the_stored_run() -> None:
    """The fast form has too few seeds for this. With tuned stages the distance is small."""
    for order in ("sft-dpo", "dpo-sft"):
        found = stored("bridge")["full"]["held_out_sequential_minus_joint"][f"{order} - mix"]
        assert len(found) > 1
        for width in found:
            assert width["mean"] - width["half_width"] > 0
            assert width["mean"] < 0.05


# ---------------------------------------------------------------------- token_convexity


def test_only_dpo_over_tokens_violates_convexity(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("token_convexity")["midpoints"]
    assert found["DPO, all tokens"]["random"]["share"] > 0.2
    assert found["DPO, all tokens"]["one run"]["share"] > 0
    for name in ("DPO, one token", "SFT, all tokens"):
        assert all(kind["share"] == 0 for kind in found[name].values())
    curved = numbers("token_convexity")["curvature"]
    assert min(curved["DPO, all tokens"]["mix"]["ratio"]) < -0.01
    for name in ("DPO, one token", "SFT, all tokens"):
        assert min(curved[name]["mix"]["ratio"]) > -1e-10


def test_lanczos_finds_the_extreme_eigenvalues() -> None:
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = square + square.T
    values = torch.linalg.eigvalsh(matrix)

    def form(point: torch.Tensor) -> torch.Tensor:
        return point.flatten() @ matrix @ point.flatten() / 2

    found = token_convexity.curvatures(form, torch.zeros(3, 4, dtype=torch.float64), 12)
    np.testing.assert_allclose(found, (values[0], values[-1]), rtol=1e-9)


def test_projected_descent_reaches_the_minimum_on_the_ball() -> None:
    target = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    scale = torch.tensor([[1.0, 1.0]], dtype=torch.float64)

    def bowl(point: torch.Tensor) -> torch.Tensor:
        return (scale * (point - target).square()).sum() / 2

    zero = torch.zeros_like(target)
    values = token_convexity.descend(bowl, zero, zero, 1.0, 50)
    np.testing.assert_allclose(values[-1], 8.0)  # Distance 5 to the target, 4 from the ball.
    assert np.all(np.diff(values) <= 0)


# ---------------------------------------------------------------------- schedule_cost


def test_costs_are_counted_per_gradient(numbers: Callable[[str], dict[str, Any]]) -> None:
    for costs in numbers("schedule_cost")["models"].values():
        assert list(costs) == list(schedule_cost.SCHEDULES)
        assert costs["mix"]["gradients"] == 2 * costs["alright"]["gradients"]
        for row in costs.values():
            times = row["seconds_per_gradient"]
            assert 0 < times["min"] <= times["median"] <= times["max"]
            assert row["peak_bytes"] > 0
        assert costs["mix"]["peak_bytes"] < (
            costs["sft-only"]["peak_bytes"] + costs["preference-only"]["peak_bytes"]
        )
    assert numbers("schedule_cost")["device"]["cores"] >= 1


def test_live_tensors_are_counted_until_they_are_freed() -> None:
    with LiveTensors() as seen:
        first = torch.zeros(1000)
        view = first[:10]
        second = first + 1
        del second
        third = view * 2
    assert seen.peak == 8000
    assert seen.live == 4000 + third.untyped_storage().nbytes()
