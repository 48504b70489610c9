"""The figures of the language-model study: all of their code runs, and claims can fail."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import lm_study, methods, style
from analysis.methods import JOINT, METHODS
from tradeoff.data.synthetic import SKILLS, generate
from tradeoff.records import read_json
from tradeoff.scores import interval

FIGURES = ("lm_loss_space", "lm_headline", "lm_rates", "lm_forgetting", "lm_suppressed")


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models and runs in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_study, "FOLDER", tmp_path_factory.mktemp("runs"))
        yield


def test_captions_say_what_varies_and_how_to_redraw() -> None:
    for name in FIGURES:
        module = importlib.import_module(f"analysis.{name}")
        for part in ("n = ", "varies", "interval", f"python -m analysis {name}"):
            assert part in module.CAPTION, (name, part)


def test_all_methods_spend_the_same_number_of_gradients(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    gradients = numbers("lm_loss_space")["gradients"]
    for label in METHODS:
        run = lm_study.configuration("fast", lm_study.schedule(label), 0)
        table = lm_study.run("fast", [{**run, "marks": 1}])
        used = table[["sft_gradients", "preference_gradients"]].iloc[-1].sum()
        assert used == gradients, label


def test_loss_space_stores_paired_differences_and_responses(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("lm_loss_space")
    cells = found["methods"]
    for pair, measures in found["paired_joint_minus_sequential"].items():
        joint, order = pair.split(" - ")
        for name, cell in measures.items():
            means = np.array(cells[joint][name]["mean"]) - cells[order][name]["mean"]
            assert cell["mean"] == pytest.approx(means, abs=1e-4)
    for rows in found["samples_at_half"].values():
        assert [len(row) for row in rows] == [3] * 4


def test_a_long_preference_stage_lowers_its_loss_and_raises_the_other(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    cells = numbers("lm_loss_space")["methods"]["SFT→DPO"]
    assert np.all(np.diff(cells["preference_loss"]["mean"]) < 0)
    assert np.all(np.diff(cells["sft_loss"]["mean"]) > 0)


def test_headline_gains_are_ratios_of_means(numbers: Callable[[str], dict[str, Any]]) -> None:
    from analysis.lm_headline import PANELS, relative

    found = numbers("lm_headline")
    assert set(PANELS) == set(found["relative_gain"]["Mix over SFT→DPO"])
    one = relative(np.array([[2.0], [3.0], [4.0]]), np.array([[1.0], [1.5], [2.0]]))
    assert one.mean == pytest.approx([1.0])
    assert one.high - one.low == pytest.approx([0.0], abs=1e-9)
    # The delta method: the error of a ratio is that of a - (ratio of means) b, over the mean of b.
    rng = np.random.default_rng(0)
    a, b = 2 + 0.01 * rng.standard_normal((200, 1)), 1 + 0.01 * rng.standard_normal((200, 1))
    found = relative(a, b)
    assert found.mean == pytest.approx(a.mean(0) / b.mean(0) - 1, abs=1e-4)
    linear = interval((a - a.mean(0) / b.mean(0) * b) / b.mean(0))
    assert found.high - found.low == pytest.approx(linear.high - linear.low, rel=0.05)


def test_rates_repeat_the_headline_at_three_step_sizes(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("lm_rates")
    assert found["rates"] == pytest.approx([0.4 * 4e-3, 4e-3, 2.5 * 4e-3])
    losses = found["methods"]["SFT→DPO"]["weighted_loss"]["mean"]
    assert len(set(losses)) == 3, "the step size has no effect"
    cells = found["paired_joint_minus_sequential"]["Mix - SFT→DPO"]["weighted_loss"]
    means = np.subtract(found["methods"]["Mix"]["weighted_loss"]["mean"], losses)
    assert cells["mean"] == pytest.approx(means, abs=1e-4)


def test_the_cost_of_training_is_stored(numbers: Callable[[str], dict[str, Any]]) -> None:
    for name in FIGURES:
        training = numbers(name)["training"]
        assert training["runs"] > 0
        assert training["cpu_seconds"] > 0


def test_forgetting_compares_every_remedy(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("lm_forgetting")
    assert list(found["replay"]) == ["0.0", "0.1", "0.25", "0.5"]
    assert len(found["anchor"]) == 6
    assert found["replay"]["0.5"]["sft_loss"]["mean"] < found["replay"]["0.0"]["sft_loss"]["mean"]


def test_remedies_do_not_look_like_methods() -> None:
    from analysis.lm_forgetting import NEUTRAL, REMEDY

    for look in (*NEUTRAL, REMEDY):
        assert look.color not in {method.color for method in style.LOOKS.values()}
        assert look.marker not in {method.marker for method in style.LOOKS.values()}
    assert len({look.marker for look in NEUTRAL}) == len(NEUTRAL)


def test_what_more_skill_costs_is_as_the_caption_says() -> None:
    from analysis import lm_headline

    found = read_json(lm_headline.PAPER / "results" / "lm_headline.json")["numbers"]
    high = {}
    for joint in JOINT:
        gain = found["points_joint_minus_sequential"][f"{joint} - SFT→DPO"]
        style_gain = gain["preference"]
        high[joint] = np.add(style_gain["mean"], style_gain["half_width"])
        assert np.all(high[joint][:3] > 0), "up to conflict 1/2 no style is seen to be lost"
    for joint in ("Mix", "ALRIGHT"):
        assert np.all(high[joint][3:] < 0)
    assert np.all(high["MAXRIGHT"] > 0)
    pairs = found["methods"]["Mix"]["pairs"]["mean"][2]
    assert f"Mix {1 - pairs:.0%} at conflict 1/2".replace("%", " %") in lm_headline.CAPTION


def test_suppressed_counts_updates(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("lm_suppressed")
    for cell in found["updates_to_regain"].values():
        assert 0 <= cell["mean"] <= found["sft_updates"]
    assert set(found["not_regained"]) == set(found["updates_to_regain"])
    assert all(0 <= count <= found["seeds"] for count in found["not_regained"].values())


def test_statements_can_be_turned_back_into_questions() -> None:
    for name in lm_study.SCALES["fast"].language(0.5).skills:
        skill = SKILLS[name]
        for k in range(0, skill.size, skill.size // 40):
            problem = skill.problem(k)
            start = lm_study.as_statement(f"Eve: {problem.question}\n")
            assert problem.statement == f"{start} {problem.answer}."
    data, count = generate(lm_study.SCALES["fast"].language(0.5)), SKILLS["count"]
    prompts = [str(row.prompt) for row in data.sft_test if row.skill == "count"]
    questions = {count.problem(k).question for k in range(count.size)}
    assert prompts
    assert {prompt.split(": ", 1)[1].strip() for prompt in prompts} <= questions


def test_updates_to_regain_are_linear_between_evaluations() -> None:
    from analysis.lm_suppressed import missed, regain

    learn = pd.DataFrame({"stage": "learn", "step": [0, 10], "sft_loss": [2.0, 1.0]})
    again = pd.DataFrame({"stage": "relearn", "step": [0, 10], "sft_loss": [2.1, 0.1]})
    never = pd.DataFrame({"stage": "control", "step": [0, 10], "sft_loss": [9.0, 8.0]})
    table = pd.concat([learn, again, never]).assign(seed=0, forget=5)
    assert regain(table, 5, "relearn") == pytest.approx([5.0])
    assert regain(table, 5, "control") == pytest.approx([10.0])
    assert missed(table, 5, "control").all()
    assert not missed(table, 5, "relearn").any()


def test_claims_fail_when_the_stored_numbers_say_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FIGURES:
        module = importlib.import_module(f"analysis.{name}")
        checks = [getattr(module, n) for n in dir(module) if n.startswith("claim_")]
        assert checks
        for check in checks:
            assert check().holds, check.__name__
        whole = json.loads((module.PAPER / "results" / f"{name}.json").read_text("utf-8"))
        turned = tmp_path / "results" / f"{name}.json"
        turned.parent.mkdir(exist_ok=True)
        turned.write_text(json.dumps(_negated(whole)), "utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(module, "PAPER", tmp_path)
            assert not any(check().holds for check in checks)


def _negated(value: Any, turn: bool = False) -> Any:
    """The same record with the sign of every mean turned; what was undefined stays so."""
    if isinstance(value, list):
        return [_negated(v, turn) for v in value]
    if isinstance(value, dict):
        return {key: _negated(v, key == "mean") for key, v in value.items()}
    return -value if turn and value is not None else value


def test_intervals_are_stored_by_their_half_width() -> None:
    found = methods.cell(interval(np.array([0.0, 2.0])))
    assert found["mean"] == 1
    assert found["half_width"] == pytest.approx(12.706, abs=1e-3)
