"""The pages a reader opens come from the stored results, and the README's example runs."""

import importlib
import pickle
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from analysis import report, runner
from tradeoff.checkout import ROOT
from tradeoff.errors import InputError
from tradeoff.records import read_json, replacing, write_json


@pytest.fixture(scope="module")
def content():
    return report.context(runner.PAPER)


def test_the_readme_and_the_dossier_show_the_stored_numbers(content):
    assert (ROOT / "README.md").read_text("utf-8") == report.render("readme.md.j2", content)
    dossier = (runner.PAPER / "README.md").read_text("utf-8")
    assert dossier == report.render("dossier.md.j2", content)


def test_the_example_of_the_readme_runs():
    assert report.example() in (ROOT / "README.md").read_text("utf-8")
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", report.example()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ALRIGHT" in out.stdout
    assert len(report.example().splitlines()) <= 18


def test_the_page_stands_alone_and_names_every_figure(tmp_path, content):
    shutil.copytree(runner.PAPER / "results", tmp_path / "results")
    shutil.copytree(runner.PAPER / "figures", tmp_path / "figures")
    (page,) = report.write(tmp_path)
    text = page.read_text("utf-8")

    class Page(HTMLParser):
        sources: list[str] = []  # noqa: RUF012
        ids: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            found = dict(attrs)
            if tag in {"img", "script", "link", "iframe"}:
                self.sources += [found[name] for name in ("src", "href") if name in found]
            if tag == "img":
                assert found["alt"]
            self.ids += [found["id"]] if "id" in found else []

    parser = Page()
    parser.feed(text)
    assert all(source.startswith("data:") for source in parser.sources)
    assert set(runner.FIGURES + runner.STUDIES) <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))


def test_every_stored_result_says_where_it_comes_from():
    for name in runner.FIGURES:
        record = read_json(runner.PAPER / "results" / f"{name}.json")
        assert record["figure"] == name
        assert record["provenance"]["form"] == "full"
        assert name in record["provenance"]["command"]


@pytest.mark.parametrize("name", runner.FIGURES)
def test_every_caption_says_how_often_and_by_which_command(name):
    caption = importlib.import_module(f"analysis.{name}").CAPTION
    assert f"python -m analysis {name}" in caption
    assert "n = " in caption


def test_a_figure_that_is_up_to_date_is_not_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "STAMPS", tmp_path / "stamps")
    first = runner.run("certified_front", tmp_path, fast=True)
    again = runner.run("certified_front", tmp_path, fast=True)
    assert (first.fresh, again.fresh) == (True, False)
    assert again.numbers == first.numbers
    assert runner.run("certified_front", tmp_path, fast=True, force=True).fresh
    (tmp_path / "results" / "certified_front.json").unlink()
    assert runner.run("certified_front", tmp_path, fast=True).fresh


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "a.json", {"x": 1})

    def fail_half_way():
        with replacing(path) as partial:
            partial.write_text("half", "utf-8")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert read_json(path) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_input_error_survives_a_worker_process():
    error = InputError("not so", remedy="Do this.", file="a.jsonl", row=3, field="x", value=[1, 2])
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.file, copy.row, copy.field) == ("a.jsonl", 3, "x")
