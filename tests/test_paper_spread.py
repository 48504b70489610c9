"""The paper's numbers, and which of its differences are significant for its sample sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.fernando2024 import paper_spread, paper_tables
from analysis.fernando2024.paper_numbers import reported
from analysis.fernando2024.stored import PAPER
from tradeoff.llm.xright import PUBLISHED, xright
from tradeoff.schedules import Maxright


@pytest.fixture(scope="module")
def paper():
    return reported(PAPER / "paper_numbers.toml")


@pytest.fixture(scope="module")
def found(paper):
    return paper_spread.summary(paper["llama"])


@given(st.integers(1, 199), st.integers(1, 199))
def test_the_z_test_is_the_chi_square_test_of_the_table(first, second):
    n = 200
    table = [[first, n - first], [second, n - second]]
    expected = stats.chi2_contingency(table, correction=False).pvalue
    assert paper_spread.two_proportions(first / n, second / n, n) == pytest.approx(expected)


def test_half_widths_are_those_of_the_binomial():
    assert paper_spread.half_width(0.5, 400) == pytest.approx(1.959964 * 0.025, rel=1e-6)
    draws = np.random.default_rng(0).binomial(640, 0.8, 100_000) / 640
    covered = np.abs(draws - 0.8) <= paper_spread.half_width(draws, 640)
    assert covered.mean() == pytest.approx(0.95, abs=0.01)


def test_holm_steps_down():
    # Holm: the least p-value is multiplied by the number of tests, the next by one less; they never
    # fall.
    adjusted = paper_spread.holm(np.array([0.03, 0.001, 0.02, 0.9]))
    assert adjusted == pytest.approx([0.06, 0.004, 0.06, 0.9])
    rng = np.random.default_rng(1)
    null = [paper_spread.holm(rng.uniform(size=36)).min() < 0.05 for _ in range(4000)]
    assert np.mean(null) == pytest.approx(0.05, abs=0.012)


def test_a_paired_test_just_sees_the_difference_at_the_largest_disagreement():
    n, difference = 14_042, 0.006
    share = paper_spread.largest_disagreement(difference, n)
    z = difference / np.sqrt((share - difference**2) / n)
    assert 2 * stats.norm.sf(z) == pytest.approx(0.05)


def test_what_the_table_supports(found):
    assert found["tests"] == 36
    assert (found["mmlu"]["joint_unadjusted"], found["mmlu"]["joint_apart"]) == (3, 1)
    assert found["win_rate"]["joint_apart"] == found["win_rate"]["joint"] == 9
    assert found["mmlu"]["half_width"] == pytest.approx([0.711, 0.740], abs=1e-3)
    assert found["win_rate"]["half_width"] == pytest.approx([2.48, 3.83], abs=1e-2)
    assert found["counts"] == {"whole": 11, "of": 12, "other": [88.42]}


def test_the_claims_of_the_readme_are_the_largest_of_nine(paper, found):
    said = paper["said"]
    assert round(found["mmlu"]["largest"]["difference"]) == said["readme_mmlu_percent"]
    assert round(found["win_rate"]["largest"]["difference"]) == said["readme_win_rate_percent"]


def test_the_presets_have_the_numbers_of_the_scripts(paper):
    for found in paper["pythia"]["references"]:
        least = (paper["pythia"]["f_sft_minimum"], found["f_dpo_minimum"])
        assert PUBLISHED["pythia-1b"].optima[found["trained_on"]] == least
        order = {"sft-dpo": "sequential", "dpo-sft": "dpo-sft"}[found["order"]]
        assert xright("pythia-1b", order).train.optima == least
    llama = paper["llama"]
    least = (llama["f_sft_minimum"], llama["f_dpo_minimum"])
    assert PUBLISHED["llama-3-8b"].optima == {"demonstrations": least}
    maxright = xright("pythia-1b", "maxright").make_schedule()
    assert isinstance(maxright, Maxright)
    assert maxright.refresh == paper["code"]["refresh"]


def test_end_points_trade_one_loss_for_the_other(paper):
    for found in (*paper["pythia"]["references"], paper["llama"]):
        order = np.argsort(found["lambdas"])
        points = np.array(found["end_points"])[order]
        assert np.all(np.diff(points[:, 0]) > 0)
        assert np.all(np.diff(points[:, 1]) < 0)
        sft = found.get("f_sft_minimum", paper["pythia"]["f_sft_minimum"])
        assert np.all(points > [sft, found["f_dpo_minimum"]])


def test_tables_show_the_paper_as_it_is(paper):
    spread = paper_tables.spread(paper["llama"]).set_index("difference")
    assert spread.loc["ALRIGHT − SFT→DPO", "MMLU, λ = 0.75"] == "+2.82 ± 1.02 *"
    assert spread.loc["Mix − SFT→DPO", "MMLU, λ = 0.25"] == "+0.27 ± 1.03"
    ends = paper_tables.end_points(paper).set_index("model")
    assert ends.loc["Llama-3-8B", "λ = 0.25"] == "(1.0917, 0.5009)"
    assert ends.loc["Llama-3-8B", "λ = 0.01"] == paper_tables.MISSING
    assert ends.loc["Pythia-1B, compared with DPO→SFT", "least losses"] == "(1.4980, 0.0647)"


def test_the_papers_sequential_run_on_pythia_is_preference_first(paper):
    methods = paper["pythia"]["methods"]
    assert "sft-dpo" not in methods
    # It ends near the SFT optimum and far from the preference optimum.
    assert methods["dpo-sft"]["sft_gap"] < methods["dpo-sft"]["preference_gap"] / 10
