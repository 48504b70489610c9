"""The figures of the language-model study: all of their code runs, with correct counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.dossier import captions, style
from analysis.fernando2024 import methods
from analysis.fernando2024.dossier import DOSSIER
from analysis.fernando2024.language import lm_models, lm_relearning, lm_rounds, lm_study, lm_tuning
from analysis.fernando2024.language.lm_tuning import Place, Searched
from analysis.fernando2024.methods import METHODS
from tradeoff.data.synthetic import SKILLS, generate
from tradeoff.errors import InputError
from tradeoff.schedules import Rounds
from tradeoff.scores import interval

pytestmark = pytest.mark.slow

FIGURES = (
    "lm_rates",
    "lm_loss_space",
    "lm_headline",
    "lm_rounds",
    "lm_forgetting",
    "lm_suppressed",
)


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Store models and runs in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_models, "FOLDER", tmp_path_factory.mktemp("runs"))
        yield


def test_captions_say_what_varies_and_how_to_redraw(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    seeds = lm_models.SCALES["fast"].seeds
    for name in FIGURES:
        text = captions.caption(DOSSIER.module(name), numbers(name))
        for part in (f"n = {seeds}", "varies", "interval", f"python -m analysis {name}"):
            assert part in text, (name, part)
        assert len(text.split()) <= 80, name


# ---------------------------------------------------------------------- equal cost


def test_a_pair_costs_the_tokens_that_the_policy_reads() -> None:
    known = lm_models.task("fast", 0.5)
    prompts, tokens = 0, 0
    for mask, row in zip(known.pairs.mask, known.pairs.tokens, strict=True):
        prompt = min(int(side.nonzero()[0, 0]) for side in mask)
        ends = [int(side.nonzero()[-1, 0]) + 1 for side in mask]
        prompts, tokens = prompts + prompt, tokens + sum(end - prompt for end in ends)
        assert len(row) == 2
    demonstrations = sum(int(row.nonzero()[-1, 0]) + 1 for row in known.sft.mask)
    expected = (prompts + tokens) / len(known.pairs) / (demonstrations / len(known.sft))
    assert lm_models.pair_cost("fast", 0.5) == pytest.approx(expected)


def test_updates_cost_what_their_gradients_cost() -> None:
    size, pair = lm_models.SCALES["full"], 1.5
    for label, lam, expected in (
        ("mix", 0.25, 2.5),
        ("alright", 0.25, 1.125),
        ("sft-dpo", 0.25, 1.125),
        ("dpo-sft", 0.75, 1.375),
        # Every ten updates, 32 rows of each objective have a forward pass, at a third of the cost.
        ("maxright", 0.5, 1.25 + 32 / size.batch / 3 * 2.5 / 10),
    ):
        rule = lm_study.schedule(label, lam)
        assert lm_study.cost_per_update(rule, size, pair) == pytest.approx(expected), label


def test_methods_spend_the_same(numbers: Callable[[str], dict[str, Any]]) -> None:
    for label, found in numbers("lm_loss_space")["spent"].items():
        exact = label in ("sft-dpo", "dpo-sft", "mix")
        assert found["mean"] == pytest.approx(1, abs=0.03 if exact else 0.35), label


# ---------------------------------------------------------------------- step sizes


def test_the_search_goes_where_the_loss_is_least(monkeypatch: pytest.MonkeyPatch) -> None:
    def bowl(scale: str, wanted: dict[Searched, list[Place]], before: Any) -> Any:
        return {
            about: (
                {p: [float((p[0] - 2) ** 2 + (p[-1] - 7) ** 2)] for p in places},
                dict.fromkeys(places, 0.5),
            )
            for about, places in wanted.items()
        }

    def slope(scale: str, wanted: dict[Searched, list[Place]], before: Any) -> Any:
        return {
            about: ({p: [float(p[0])] for p in places}, dict.fromkeys(places, 0.5))
            for about, places in wanted.items()
        }

    order, mix = Searched("sft-dpo", 0.5, 0.5), Searched("mix", 0.5, 0.5)
    monkeypatch.setattr(lm_tuning, "measure", bowl)
    found = lm_tuning.search("full", [order, mix], {})[order.name]
    assert found.best == (2, 7)
    assert found.inside
    assert all(place in found.losses for place in lm_tuning.neighbours(found.best))
    again = lm_tuning.search("full", [order], {order.name: found})[order.name]
    assert len(again.losses) == 5, "a later search begins where the last one ended"
    monkeypatch.setattr(lm_tuning, "measure", slope)
    edge = lm_tuning.search("full", [mix], {})[mix.name]
    assert edge.best == (0,)
    assert not edge.inside


def test_seeds_that_choose_do_not_score() -> None:
    about = Searched("mix", 0.5, 0.5)
    chosen = {run["seed"] for run in lm_tuning.configurations("full", about, (5,), {})}
    trained = range(lm_models.SPECIALIST_SEED, lm_models.SPECIALIST_SEED + 5)
    assert not chosen & {*lm_study.seeds("full"), *trained}
    validation, test = (lm_models.task("fast", part=part) for part in ("validation", "test"))
    rows = [set(map(tuple, known.test_sft.tokens.tolist())) for known in (validation, test)]
    assert all(rows)
    assert len(test.test_sft) + len(validation.test_sft) == len(test.data.sft_test)


def test_a_method_without_step_sizes_is_refused() -> None:
    with pytest.raises(InputError, match="no step size was tuned") as caught:
        lm_study.tuned("full", "mix", 0.123, 0.5, {})
    assert "lm_rates" in str(caught.value)


def test_repeated_configurations_are_computed_once() -> None:
    one, other = (lm_study.configuration("fast", lm_study.schedule("mix"), k) for k in (0, 1))
    table = lm_study.run("fast", [one, other, one])
    assert list(table["run"].unique()) == [0, 1, 2]
    first, again = (table[table["run"] == k].drop(columns=["run", "cpu_seconds"]) for k in (0, 2))
    pd.testing.assert_frame_equal(first.reset_index(drop=True), again.reset_index(drop=True))
    assert methods.cost(table)["runs"] == 2


def test_tuning_compares_with_one_step_size(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("lm_rates")
    losses = found["weighted_loss"]
    gap = found["sequential_minus_joint"]["tuned"]["sft-dpo - mix"]["mean"]
    means = np.subtract(losses["tuned"]["sft-dpo"]["mean"], losses["tuned"]["mix"]["mean"])
    assert gap == pytest.approx(means, abs=1e-4)
    for about in found["tuned"].values():
        assert len(about["rates"]) == 2
        assert about["loss"] == pytest.approx(min(np.mean(t["losses"]) for t in about["tried"]))


# ---------------------------------------------------------------------- intervals of ratios


def test_ratio_counts_the_errors_of_both_samples() -> None:
    rng = np.random.default_rng(0)
    above, below = rng.normal(0.5, 0.1, (10, 400)), rng.normal(0.9, 0.05, (5, 400))
    found = methods.ratio(above, below)
    covered = (found.low <= 0.5 / 0.9) & (found.high >= 0.5 / 0.9)
    assert 0.92 < covered.mean() < 0.98
    exact = methods.ratio(above, np.full((5, 400), 0.9))
    alone = interval(above / 0.9)
    np.testing.assert_allclose(exact.low, alone.low)
    assert np.all(found.high - found.low > 0)
    assert np.isnan(methods.ratio(above, np.zeros((5, 400))).mean).all()


def test_fieller_covers_the_ratio_of_paired_means() -> None:
    rng = np.random.default_rng(1)
    below = rng.normal(1.0, 0.5, (10, 1000))
    above = 0.8 * below + rng.normal(0.1, 0.1, below.shape)
    found = methods.paired_ratio(above, below)
    covered = (found.low <= 0.9) & (found.high >= 0.9)
    assert 0.93 < covered[np.isfinite(found.low)].mean() < 0.98
    nothing = methods.paired_ratio(above, below - 1.0)
    assert np.isnan(nothing.low).mean() > 0.8


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


def test_headline_retention_is_relative_to_sft_alone(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("lm_headline")
    assert found["specialists"] == lm_models.SCALES["fast"].specialists
    assert set(found["methods"]) == set(METHODS)
    pair = found["points_joint_minus_sequential"]["mix - sft-dpo"]["preference"]
    cells = (found["methods"][label]["preference"]["mean"] for label in ("mix", "sft-dpo"))
    assert pair["mean"] == pytest.approx(np.subtract(*cells), abs=1e-4)


# ---------------------------------------------------------------------- rounds


def test_one_restarted_round_is_sequential_training() -> None:
    for first in ("sft", "preference"):
        rule = lm_rounds.Variant((1,), style.look("mix"), first=first, restart=True).schedule(1)
        turns = Rounds(rounds=1, first=first, restart=True)
        np.testing.assert_array_equal(rule.plan(120).probability, turns.plan(120).probability)
        np.testing.assert_array_equal(rule.plan(120).clock, turns.plan(120).clock)


def test_the_answer_is_the_least_number_of_rounds_that_buys_enough() -> None:
    rng = np.random.default_rng(0)
    base, goal = 1 + 0.01 * rng.normal(size=10), 0.01 * rng.normal(size=10)
    reached = np.stack([base, 0.3 * base, 0.08 * base + 0.1 * rng.normal(size=10), goal], axis=-1)
    found = lm_rounds.bought(base, reached, goal, (1, 2, 4, 8))
    assert found["share"]["mean"] == pytest.approx([0, 0.7, 0.92, 1], abs=0.05)
    assert found["enough"] == 4
    assert found["surely"] == 8
    nothing = lm_rounds.bought(goal, reached, goal + rng.normal(size=10), (1, 2, 4, 8))
    assert nothing["enough"] is None


def test_rounds_are_compared_with_both_kinds_of_one_round(
    numbers: Callable[[str], dict[str, Any]],
) -> None:
    found = numbers("lm_rounds")
    about = found["answers"]["0.5"]["mix over one round, tuned"]
    assert about["kept"]["rounds"] == found["measures"]["0.5"]["kept"]["rounds"]
    assert about["tuned"]["share"]["mean"][0] in (0, None)
    losses = found["measures"]["0.5"]
    gain = losses["tuned"]["weighted_loss"]["mean"][0] - losses["mix"]["weighted_loss"]["mean"][0]
    assert about["to_buy"]["mean"] == pytest.approx(gain, abs=1e-4)


def test_the_cost_of_training_is_stored(numbers: Callable[[str], dict[str, Any]]) -> None:
    for name in FIGURES:
        training = numbers(name)["training"]
        assert training["runs"] > 0
        assert training["cpu_seconds"] > 0


def test_forgetting_compares_every_remedy(numbers: Callable[[str], dict[str, Any]]) -> None:
    from analysis.fernando2024.language import lm_forgetting

    found = numbers("lm_forgetting")
    assert list(found["replay"]) == [str(replay) for replay in lm_forgetting.REPLAYS]
    assert len(found["anchor"]) == len(lm_forgetting.BETAS) * len(lm_forgetting.REFERENCES)
    assert found["replay"]["0.0"]["exact_match_less_none"]["mean"] == 0
    assert found["share_along"][0] == 0
    assert found["share_along"][-1] == 1


def test_remedies_do_not_look_like_methods() -> None:
    from analysis.fernando2024.language.lm_forgetting import NEUTRAL, REMEDY

    for look in (*NEUTRAL, REMEDY):
        assert look.color not in {method.color for method in style.LOOKS.values()}
        assert look.marker not in {method.marker for method in style.LOOKS.values()}
    assert len({look.marker for look in NEUTRAL}) == len(NEUTRAL)


def test_suppressed_counts_updates(numbers: Callable[[str], dict[str, Any]]) -> None:
    found = numbers("lm_suppressed")
    for cell in found["updates_to_regain"].values():
        assert 0 <= cell["mean"] <= found["sft_updates"]
    assert set(found["not_regained"]) == set(found["updates_to_regain"])
    assert all(0 <= count <= found["seeds"] for count in found["not_regained"].values())


def test_statements_can_be_turned_back_into_questions() -> None:
    for name in lm_models.SCALES["fast"].language(0.5).skills:
        skill = SKILLS[name]
        for k in range(0, skill.size, skill.size // 40):
            problem = skill.problem(k)
            start = lm_relearning.as_statement(f"Eve: {problem.question}\n")
            assert problem.statement == f"{start} {problem.answer}."
    data, count = generate(lm_models.SCALES["fast"].language(0.5)), SKILLS["count"]
    prompts = [str(row.prompt) for row in data.sft_test if row.skill == "count"]
    questions = {count.problem(k).question for k in range(count.size)}
    assert prompts
    assert {prompt.split(": ", 1)[1].strip() for prompt in prompts} <= questions


def test_updates_to_regain_are_linear_between_evaluations() -> None:
    from analysis.fernando2024.language.lm_suppressed import missed, regain

    learn = pd.DataFrame({"stage": "learn", "step": [0, 10], "sft_loss": [2.0, 1.0]})
    again = pd.DataFrame({"stage": "relearn", "step": [0, 10], "sft_loss": [2.1, 0.1]})
    never = pd.DataFrame({"stage": "control", "step": [0, 10], "sft_loss": [9.0, 8.0]})
    table = pd.concat([learn, again, never]).assign(seed=0, forget=5)
    assert regain(table, 5, "relearn") == pytest.approx([5.0])
    assert regain(table, 5, "control") == pytest.approx([10.0])
    assert missed(table, 5, "control").all()
    assert not missed(table, 5, "relearn").any()


def test_intervals_are_stored_by_their_half_width() -> None:
    found = methods.cell(interval(np.array([0.0, 2.0])))
    assert found["mean"] == 1
    assert found["half_width"] == pytest.approx(12.706, abs=1e-3)
