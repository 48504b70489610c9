"""The pages a reader opens come from the stored results, and the README's example runs."""

import pickle
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from html.parser import HTMLParser

import pandas as pd
import pytest

from analysis import advised
from analysis.dossier import ledger, page, report, runner, style, tables
from analysis.fernando2024.dossier import DOSSIER, example, printed
from tradeoff import cli
from tradeoff.checkout import ROOT
from tradeoff.errors import InputError
from tradeoff.records import read_json, replacing, replacing_folder, write_json

LARGEST_PAGE = 2_500_000
LONGEST_CAPTION = 80


@pytest.fixture(scope="module")
def content(paper):
    return paper


@pytest.fixture(scope="module")
def readme(content):
    return report.render(DOSSIER, ("readme.md.j2",), content)


@pytest.fixture(scope="module")
def dossier(content):
    return report.render(DOSSIER, report.DOSSIER, content)


def test_the_readme_and_the_dossier_show_the_stored_numbers(readme, dossier):
    assert (ROOT / "README.md").read_text("utf-8") == readme
    assert (DOSSIER.folder / "README.md").read_text("utf-8") == dossier


@pytest.mark.slow
def test_the_example_of_the_readme_runs():
    assert example() in (ROOT / "README.md").read_text("utf-8")
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", example()],
        capture_output=True,
        text=True,
        check=True,
    )
    told, stored = out.stdout.split(), printed().split()
    assert len(told) == len(stored)
    for new, old in zip(told, stored, strict=True):  # Other machines round differently.
        assert new == old or float(new) == pytest.approx(float(old), rel=1e-3)
    assert len(example().splitlines()) <= 18


def test_the_readme_names_files_that_exist_and_is_read_in_minutes(readme):
    text = readme
    places = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert len(places) > 20
    assert [place for place in places if not (ROOT / place).exists()] == []
    shown = re.sub(r"<details>.*?</details>|```.*?```|\]\([^)]*\)", " ", text, flags=re.DOTALL)
    assert len(shown.split()) < 1_300
    assert advised.sentences()[0] in text


def test_the_badges_of_the_readme_are_those_of_pyproject(readme):
    text = readme
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    pythons = [name.rpartition(" ")[2] for name in project["classifiers"] if ":: 3." in name]
    facts = [f"Version {project['version']}", f"Python {', '.join(pythons)}"]
    facts += [f"Licence {project['license']}", "Paper: arXiv 2410.15483"]
    loaded = [p for p in re.findall(r"!\[([^]]*)\]\(([^)]*)\)", text) if ":" in p[1]]
    assert [name for name, _ in loaded] == facts
    assert all(place.startswith("https://img.shields.io/badge/") for _, place in loaded)
    version, python, licence, _ = (place for _, place in loaded)
    assert project["version"] in version
    assert all(each in python for each in pythons)
    assert project["license"].replace("-", "--") in licence


@pytest.mark.slow
def test_the_answer_that_the_pages_show_is_that_of_the_command():
    if not advised.available():
        pytest.skip("the rows are not here")
    found, stored = advised.answer(), advised.STORED.read_text("utf-8")
    assert advised.same(found, stored), list(unified_diff([stored], [found]))


def test_answers_are_the_same_to_a_unit_of_the_last_digit():
    assert advised.same("to 0.0009 nats, 99 % of it", "to 0.001 nats, 98 % of it")
    assert not advised.same("to 0.0009 nats", "to 0.003 nats")
    assert not advised.same("the weight is 0.88", "the weight is 0.86")
    assert not advised.same("conflict is low: 0.21", "conflict is high: 0.21")
    assert not advised.same("pref_12.jsonl", "pref_13.jsonl")


@pytest.mark.slow
def test_the_page_stands_alone_and_names_every_figure(tmp_path, content):
    shutil.copytree(DOSSIER.folder / "results", tmp_path / "results")
    shutil.copytree(DOSSIER.folder / "figures", tmp_path / "figures")
    (page,) = report.write(DOSSIER, tmp_path)
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
    assert {figure["name"] for figure in content["figures"]} <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))
    assert {f"claim-{claim['id']}" for claim in content["claims"]} <= set(parser.ids)
    assert page.stat().st_size < LARGEST_PAGE


@pytest.mark.slow
def test_every_link_on_the_page_and_in_the_dossier_leads_somewhere(paper_page, dossier):
    text = re.sub(r"<script\b.*?</script>", "", paper_page, flags=re.DOTALL)
    places = set(re.findall(r'\bid="([^"]+)"', text))
    links = set(re.findall(r'href="([^"]*)"', text))
    assert {link[1:] for link in links if link.startswith("#")} <= places
    assert [link for link in links if not link.startswith(("#", "https://"))] == []
    headings = {page.slug(line.lstrip("# ")) for line in dossier.splitlines() if line[:1] == "#"}
    assert set(re.findall(r"\]\(#([^)]+)\)", dossier)) <= headings
    for path in re.findall(r"\]\((?!#|http)([^)]+)\)", dossier):
        assert (DOSSIER.folder / path).exists(), path


@pytest.mark.slow
def test_formulas_are_mathml_and_none_is_left_as_tex(paper_page):
    body = re.sub(r"<(script|style)\b.*?</\1>|data:image[^\"]*", "", paper_page, flags=re.DOTALL)
    assert body.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"') >= 10
    assert "merror" not in body
    assert "$" not in body
    assert not re.search(r"\\(frac|mathrm|lambda|sqrt)", body)


def test_the_story_takes_five_minutes_and_comes_before_the_dossier(paper_page):
    text = paper_page
    found = re.search(r'<section class="story".*?</section>', text, re.DOTALL)
    words = re.sub(r"<[^>]+>", " ", found[0]).split()
    assert 600 <= len(words) <= 900
    assert text.index('id="lead"') < found.start() < text.index('id="explore"')


def test_no_caption_is_longer_than_a_reader_has_patience_for(content):
    lengths = {figure["name"]: len(figure["caption"].split()) for figure in content["figures"]}
    assert {name: n for name, n in lengths.items() if n > LONGEST_CAPTION} == {}


def test_a_figure_is_drawn_again_from_its_stored_numbers_alone(tmp_path):
    (tmp_path / "results").mkdir()
    for name in ("explorer", "scores"):
        shutil.copy(DOSSIER.folder / "results" / f"{name}.json", tmp_path / "results")
    assert [path.name for path in runner.redraw(DOSSIER, "explorer", tmp_path)] == [
        "explorer.svg",
        "explorer.png",
    ]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "explorer.json",
        "scores.json",
    ]
    with pytest.raises(InputError, match="tradeoff figures scores --force"):
        runner.redraw(DOSSIER, "scores", tmp_path)


# Objections of the reviewers, each with a figure or claim that its answer must name.
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_html_that_results_bring_is_shown_and_not_used():
    text = f"| a | b |\n| --- | --- |\n| {EVIL} | `{EVIL}` |\n\n{EVIL}\n\n$\\text{{{EVIL}}}$"
    shown = page.html(text, [EVIL], [], "there")
    assert "<script" not in shown
    assert "<img" not in shown
    # In a cell, as code, in a formula and in the text; the claim's id is also the name of its link.
    assert shown.count("&lt;script&gt;") == 5
    assert "href" not in page.mathml(r"\href{javascript:alert(1)}{x}", "inline")


OBJECTIONS = {
    "Chebyshev scalarisation": "plain-alternation-gains-nothing",
    "needs $f^{*}$ in advance": "value_error",
    "depends on the scale of a loss": "front-gap-is-unit-free",
    "Equal budgets for both stages": "no-split-reaches-joint-stochastic",
    "what split is best": "language-model-tuned-orders-are-level",
    "theory is for a last layer": "last-layer-is-the-laboratory",
    "train adapters": "narrow-networks-pass-the-front",
    "No other way of balancing": "lm_forgetting",
    "No standard deviations": "states n",
    "Pareto optimal": "certified_front",
    "unreadable without colour": "line style",
    "anchor to the reference": "gap-zero-iff-both-minimised",
}


@pytest.mark.parametrize(("objection", "answer"), OBJECTIONS.items())
def test_each_objection_is_answered_with_a_figure_or_a_claim(content, objection, answer):
    text = report.render(DOSSIER, ("sections/objections.md.j2",), content)
    items = [item for item in text.split("\n- ") if objection in item]
    assert len(items) == 1
    assert answer in items[0]
    known = {claim["id"] for claim in content["claims"]} | {f["name"] for f in content["figures"]}
    named = set(re.findall(r"`([a-z-]+)`", text)) | set(re.findall(r"figures/(\w+)\.png", text))
    assert named <= known


def test_a_page_without_its_packages_says_what_to_install(monkeypatch):
    monkeypatch.setattr(page, "NEEDS", ("PIL", "no_such_package"))
    with pytest.raises(InputError, match=r"no_such_package.*\[report\]"):
        page.require()


def test_a_setting_that_captions_share_is_told_once():
    setting = "A model of width 8, trained on rows. What varies is the seed, n = 3."
    figures = [
        {"name": "first", "caption": f"{setting} Left: losses. Command: a"},
        {"name": "other", "caption": "A model of width 8. Nothing varies, n = 1. Command: b"},
        {"name": "second", "caption": f"{setting} Right: gaps. Command: c"},
    ]
    found = {figure["name"]: figure["caption"] for figure in report.shortened(figures)}
    assert found["first"] == figures[0]["caption"]
    assert found["other"] == figures[1]["caption"]
    assert found["second"] == "Setting as in first. Right: gaps. Command: c"


def test_a_missing_result_says_which_figure_to_run(tmp_path):
    with pytest.raises(InputError, match="tradeoff figures toy_trajectories"):
        report.context(DOSSIER, tmp_path)


@pytest.mark.slow
def test_pdf_figures_have_embedded_fonts_and_stay_in_step(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "STAMPS", tmp_path / "stamps")
    pdf = tmp_path / "figures" / "certified_front.pdf"
    assert runner.run(DOSSIER, "certified_front", tmp_path, fast=True).fresh
    assert not pdf.exists()
    with style.as_pdf():
        assert runner.run(DOSSIER, "certified_front", tmp_path, fast=True).fresh
        assert not runner.run(DOSSIER, "certified_front", tmp_path, fast=True).fresh
    content = pdf.read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    # A later drawing without PDF must not leave a PDF with other numbers.
    runner.run(DOSSIER, "certified_front", tmp_path, fast=True, force=True)
    assert not pdf.exists()


def test_every_stored_result_says_where_it_comes_from():
    for name in DOSSIER.figures:
        record = read_json(DOSSIER.folder / "results" / f"{name}.json")
        assert record["figure"] == name
        assert record["provenance"]["form"] == "full"
        assert name in record["provenance"]["command"]


@pytest.mark.parametrize("name", DOSSIER.figures)
def test_every_caption_says_how_often_and_by_which_command(name):
    caption = DOSSIER.module(name).CAPTION
    assert f"python -m analysis {name}" in caption
    assert "n = " in caption


@pytest.mark.slow
def test_a_figure_that_is_up_to_date_is_not_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "STAMPS", tmp_path / "stamps")
    first = runner.run(DOSSIER, "certified_front", tmp_path, fast=True)
    again = runner.run(DOSSIER, "certified_front", tmp_path, fast=True)
    assert (first.fresh, again.fresh) == (True, False)
    assert again.numbers == first.numbers
    assert runner.run(DOSSIER, "certified_front", tmp_path, fast=True, force=True).fresh
    (tmp_path / "results" / "certified_front.json").unlink()
    assert runner.run(DOSSIER, "certified_front", tmp_path, fast=True).fresh


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


def test_an_interrupted_folder_leaves_the_old_one_and_a_complete_one_replaces_it(tmp_path):
    place = tmp_path / "a"

    def fill(text, error=None):
        with replacing_folder(place) as partial:
            (partial / text).write_text(text, "utf-8")
            if error:
                raise error

    fill("first")
    with pytest.raises(RuntimeError):
        fill("second", RuntimeError())
    assert [p.name for p in place.iterdir()] == ["first"]
    fill("third")
    assert [p.name for p in place.iterdir()] == ["third"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.slow
@pytest.mark.parametrize("existed", [False, True])
def test_a_folder_that_many_make_at_once_is_the_whole_one_of_one_of_them(existed, tmp_path):
    place, writers = tmp_path / "a", range(8)
    together = threading.Barrier(len(writers), timeout=60)

    def fill(writer):
        with replacing_folder(place) as partial:
            for name in "xyz":
                (partial / name).write_text(str(writer), "utf-8")
            together.wait()

    for _ in range(20):
        shutil.rmtree(place, ignore_errors=True)
        if existed:
            place.mkdir()
            (place / "older").touch()
        with ThreadPoolExecutor(len(writers)) as pool:
            list(pool.map(fill, writers))
        assert sorted(p.name for p in place.iterdir()) == ["x", "y", "z"]
        assert len({p.read_text("utf-8") for p in place.iterdir()}) == 1
        assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_older_folder_stays_where_the_new_one_cannot_be_put(tmp_path):
    place = tmp_path / "a"
    place.mkdir()
    with pytest.raises(InputError, match="cannot be written"), replacing_folder(place) as partial:
        partial.rmdir()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_input_error_survives_a_worker_process():
    error = InputError("not so", remedy="Do this.", file="a.jsonl", row=3, field="x", value=[1, 2])
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.file, copy.row, copy.field) == ("a.jsonl", 3, "x")


@pytest.mark.slow
def test_the_command_line_writes_pdf_figures_and_latex_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "STAMPS", tmp_path / "stamps")
    options = ["--pdf", "--json", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["figures", "certified_front", "--fast", *options])
    assert (tmp_path / "figures" / "certified_front.pdf").exists()
    shutil.copytree(DOSSIER.folder / "results", tmp_path / "results", dirs_exist_ok=True)
    shutil.copytree(DOSSIER.folder / "figures", tmp_path / "figures", dirs_exist_ok=True)
    asked = []
    # PDF output is a property of the drawing of figures.
    reproduce = lambda _, out, **__: asked.append(len(style.files(out, "scores"))) or []  # noqa: E731
    monkeypatch.setattr(runner, "reproduce", reproduce)
    monkeypatch.setattr(ledger, "check", lambda *_, **__: pd.DataFrame())
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["reproduce", *options])
    assert asked == [3]  # With scores.pdf.
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {f"{name}.tex" for name in (*DOSSIER.titles, tables.CLAIMS)}
