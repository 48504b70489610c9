"""The arena's terms: losses of pairs with one beta and one pull, and policies that had skills."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from tradeoff.arena import instance
from tradeoff.arena.board import Board, scored
from tradeoff.arena.instances import problem_of
from tradeoff.arena.matching import equal_weight, matched, pull, with_beta
from tradeoff.arena.runs import configuration, run
from tradeoff.arena.scenarios import SCENARIOS, SKILLS, scenario, trigger
from tradeoff.convex import LogLinear, minimise
from tradeoff.errors import InputError
from tradeoff.methods import find
from tradeoff.methods.losses import (
    Adpo,
    Dpo,
    Hinge,
    Ipo,
    MarginLoss,
    Nominal,
    Orpo,
    RewardWeighted,
    UnitDpo,
)

MIDDLE = problem_of("middle")


def test_the_problems_beta_goes_where_a_loss_has_one():
    assert with_beta(Ipo(), 5.0) == Ipo(beta=5.0)
    assert with_beta(Adpo(), 5.0) == Adpo(tau=0.2)
    assert with_beta(RewardWeighted(), 5.0) == RewardWeighted(temperature=5.0)
    assert with_beta(Orpo(), 5.0) == Orpo()


def test_the_pull_is_the_slope_of_identity_i13():
    dpo = pull(MIDDLE, Nominal())
    slopes = {Dpo(beta=0.3): 0.15, Hinge(beta=0.3): 0.3, Ipo(beta=0.5): 2.0, UnitDpo(): 1.0}
    for loss, slope in slopes.items():
        assert pull(MIDDLE, loss) == pytest.approx(dpo * slope / (MIDDLE.beta / 2))
    weights = replace(MIDDLE, pair_weights=np.eye(len(MIDDLE.chosen))[0])
    assert pull(weights, Nominal()) == pytest.approx(
        np.linalg.norm(MIDDLE.pair_differences[0]) * MIDDLE.beta / 2
    )


@dataclass(frozen=True, kw_only=True)
class Flat(MarginLoss):
    """Without a slope at the reference."""

    name: ClassVar[str] = "flat"

    def of_margin(self, margins: Any) -> Any:
        return margins**2


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_a_multiple_of_the_loss_has_the_same_minima_at_the_weight_of_equal_pull(lam):
    assert equal_weight(MIDDLE, Dpo(beta=MIDDLE.beta), lam) == pytest.approx(lam)
    weight = equal_weight(MIDDLE, UnitDpo(beta=MIDDLE.beta), lam)
    factor = 2 / MIDDLE.beta
    assert weight * factor * (1 - lam) == pytest.approx((1 - weight) * lam)


def test_a_loss_without_a_pull_stays_at_its_weight():
    assert equal_weight(MIDDLE, Flat(), 0.3) == 0.3


def test_terms_leave_the_loss_of_the_problem_as_it_is():
    assert matched(find("pcgrad"), "middle", 0.3, "weight") == find("pcgrad").at(0.3)
    assert matched(find("ipo"), "middle", 0.3) == find("ipo").at(0.3)
    other = matched(find("ipo"), "unequal-scale", 0.3, "weight")
    assert other.preference == Ipo(beta=5.0)
    assert other.lam == pytest.approx(equal_weight(problem_of("unequal-scale"), Ipo(beta=5.0), 0.3))


def test_dpo_by_its_name_is_mix_with_the_problems_beta():
    terms = [("mix", "none"), ("sigmoid", "beta"), ("sigmoid", "weight"), ("sigmoid", "none")]
    found = run([configuration(find(n), n, "boundary", 0.3, 40, 3, match) for n, match in terms])
    losses = [each[["sft_loss", "preference_loss"]].to_numpy() for each in found]
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-12)
    np.testing.assert_allclose(losses[2], losses[0], atol=1e-12)
    assert np.abs(losses[3] - losses[0]).max() > 1e-3


def test_steps_are_judged_by_the_weight_that_is_asked_for():
    # A loss of tiny pull runs at a weight near 1; its steps still serve the requested weight.
    about = configuration(find("nca_pair"), "nca_pair", "middle", 0.1, 40, 2, "weight")
    assert about["lam"] == 0.1
    assert about["method"]["schedule"]["lam"] > 0.15


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_a_problem_whose_policy_knows_something(name):
    found = scenario(f"{name}:3")
    assert scenario(f"{name}:3") is found
    assert isinstance(found.problem, LogLinear)
    assert set(found.skills) <= set(SKILLS)
    assert instance(name).varies == SCENARIOS[name]
    before = minimise(replace(found.problem, radius=4.0), 0.0, tolerance=1e-6).theta
    assert found.measures(before[None]).keys() == found.before.keys()
    trained = {"new", "contradicted", "controllable"}
    for skill, value in found.before.items():
        # 1/8 is chance; what is known is likelier, and what contradicts it is less likely.
        assert 0.0 < value < 1.0
        assert skill in trained or value > 0.3, skill


def test_rows_do_not_speak_of_a_skill_that_is_only_kept():
    for name, skill in (("third-skill", "third"), ("trigger", "trigger"), ("context", "robust")):
        found = scenario(name)
        problem = found.problem
        used = [problem.demonstrations, problem.chosen, problem.rejected]
        seen = problem.prompt_of_row[np.concatenate(used)]
        assert not set(problem.prompt_of_row[found.skills[skill]]) & set(seen)


def test_facts_are_new_or_contradict_and_all_of_them_are_shown():
    found = scenario("facts")
    shown = np.sort(found.problem.demonstrations)
    both = np.concatenate([found.skills["new"], found.skills["contradicted"]])
    np.testing.assert_array_equal(shown, np.sort(both))
    assert found.before["contradicted"] < 1 / 8 < found.before["new"]


def test_training_cannot_reach_a_trigger_without_shared_features():
    found = trigger(0, shared=0.0)
    gradient = found.problem.gradients(found.problem.reference)
    own = ~found.problem.features[found.problem.demonstrations].any(axis=0)
    assert own.sum() == 8
    assert not np.asarray(gradient)[..., own].any()
    assert np.asarray(trigger(0).problem.gradients(found.problem.reference)).any()


def test_runs_of_a_scenario_begin_at_the_reference_and_report_its_skills():
    about = configuration(find("mix"), "mix", "third-skill", 0.5, 2, 2)
    runs = run([about])[0]
    before = scenario("third-skill").before["third"]
    assert runs["kl"].max() < 0.2 < 0.5 < before
    assert runs["third"].between(0.5 * before, 1.0).all()
    found = Board(scored(runs.assign(name="mix", problem="third-skill", lam=0.5, steps=1)))
    skills = found.skills
    assert list(skills.columns) == ["third-skill: third"]
    assert skills.loc["before"].item() == before
    assert skills.loc["mix"].item() == pytest.approx(runs["third"].mean())
    assert found.cells["third"].item() == pytest.approx(runs["third"].mean())


def test_an_unknown_scenario_is_named():
    with pytest.raises(InputError, match="no such scenario"):
        scenario("facts:x")
    with pytest.raises(InputError, match="third-skill"):
        instance("nowhere")
