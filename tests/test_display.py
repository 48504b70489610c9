"""Results describe themselves: in one line anywhere, as a title and a table in a notebook."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from tradeoff import (
    Alright,
    Checked,
    Mix,
    minimise,
    pareto_front,
    random_log_linear,
    random_quadratic,
    read_sft,
    trajectories,
)
from tradeoff.display import ROWS, as_html, cell
from tradeoff.scores import interval


class Page(HTMLParser):
    """Collect tags and text; a tag that is left open or closed twice is an error."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += [data.strip()] if data.strip() else []


@pytest.fixture(scope="module")
def problem():
    return random_log_linear(0, prompts=3, responses=3, dimension=4, demonstrations=8, pairs=8)


@pytest.fixture(scope="module")
def results(problem):
    runs = trajectories(
        problem, [Mix(), Alright(lam=0.2)], steps=9, step_size=0.1, replicas=2, checkpoints=[9]
    )
    return {
        "Front": pareto_front(problem, solves=3),
        "Minimum": minimise(problem, 0.5),
        "Trajectories": runs,
        "Checked": Checked(np.array([1.0, 2.0]), 3.0, "upper"),
        "Interval": interval([1.0, 2.0, 4.0]),
    }


@pytest.mark.parametrize("name", ["Front", "Minimum", "Trajectories", "Checked", "Interval"])
def test_a_result_is_one_line_and_a_table(results, name):
    result = results[name]
    assert repr(result).startswith(f"{name}(")
    assert "\n" not in repr(result)
    assert len(repr(result)) < 120
    page = Page(result._repr_html_())
    assert repr(result) in page.words
    assert set(result.table().columns) <= set(page.words)
    assert page.tags.count("tr") == len(result.table()) + 1


def test_a_verdict_is_in_the_line():
    assert repr(Checked(1.0, 2.0, "upper")) == "Checked(1 <= 2: holds)"
    assert repr(Checked(1.0, 2.0, "lower")) == "Checked(1 >= 2: FAILS)"
    assert repr(Checked(np.ones(3), np.ones(3), "exact")).startswith("Checked(3 x measured = bound")


def test_problems_say_their_sizes(problem):
    assert repr(problem) == (
        "LogLinear(3 prompts, 9 responses, d = 4, 8 demonstrations, 8 pairs, radius=4, beta=1)"
    )
    assert repr(random_quadratic(distance=2.0)).startswith("Quadratic(d = 2, centres 2 apart")


def test_trajectories_count_their_gradients(results):
    table = results["Trajectories"].table()
    assert table.schedule.tolist() == ["Mix", "ALRIGHT"]
    assert table.loc[0, ["sft_updates", "preference_updates"]].tolist() == [9, 9]
    assert table.loc[1, ["sft_updates", "preference_updates"]].sum() == 9


def test_rows_become_a_table_and_cannot_inject_markup(tmp_path):
    path = tmp_path / "rows.jsonl"
    line = '{"prompt": "<script>alert(1)</script>", "completion": "a & b"}\n'
    path.write_text(line * 30, "utf-8")
    rows = read_sft(path)
    assert rows.table().shape == (30, 2)
    text = rows._repr_html_()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert Page(text).tags.count("tr") == ROWS + 2  # A heading and a row of dots.


def test_long_texts_are_cut_and_long_tables_say_their_size():
    html = as_html("t", pd.DataFrame({"a": ["x" * 500] * 99}))
    assert "x" * 121 not in html
    assert "99 rows" in html


def test_numbers_have_four_digits():
    assert [cell(v) for v in (0.0, 1.23456, 1e-7, 123456.0, 3, "a")] == [
        "0", "1.235", "1.0e-07", "1.2e+05", "3", "a"
    ]  # fmt: skip


def test_trained_networks_say_what_became_of_them():
    from tradeoff.llm import TrainResult
    from tradeoff.networks.train import Ensemble, grid

    table = pd.DataFrame({"step": [0, 9], "sft_loss": [1.0, 0.5]})
    ensemble = Ensemble(grid([Mix()], [0]), table, {}, np.array([np.nan]))
    summary = {"schedule": {"name": "mix"}, "updates": {"sft": 9, "preference": 9}}
    summary |= {"steps": 9, "identity": {"steps": 20}}
    result = TrainResult(table, table, summary, diverged_at=9)
    assert repr(ensemble) == "Ensemble(1 runs of 9 updates, 0 diverged)"
    assert repr(result).endswith("9 SFT and 9 preference updates, diverged at update 9)")
    for each in (ensemble, result):
        assert {repr(each), "sft_loss"} <= set(Page(each._repr_html_()).words)


def test_plots_take_and_return_axes(results, problem):
    import matplotlib.pyplot as plt

    front, runs = results["Front"], results["Trajectories"]
    for draw in (front.plot, lambda *a: runs.plot(problem, *a)):
        made = draw()
        assert made.get_xlabel() == "SFT loss (nats)"
        assert draw(made) is made
        plt.close(made.figure)
    assert plt.get_fignums() == []


def test_a_schedule_of_the_users_own_has_a_look():
    from tradeoff import plots

    assert plots.look("mix+pcgrad") is plots.look("my rule") is plots.OTHER
    assert plots.look("MAXRIGHT (k=3)") is plots.look("maxright") is plots.LOOKS["maxright"]
    assert (
        plots.look("alright-budget")
        is plots.look(Alright(probability=0.5))
        is plots.LOOKS["alright-budget"]
    )
    assert plots.look("sft-dpo-replay") is plots.look("SFT→DPO") is plots.LOOKS["sft-dpo"]
