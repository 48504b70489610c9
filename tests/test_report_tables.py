"""The dossier's tables: their content, and that LaTeX can read them."""

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.dossier import cells, tables
from analysis.fernando2024.dossier import DOSSIER


@pytest.fixture(scope="module")
def content(paper):
    return paper


@pytest.fixture(scope="module")
def texts(content, tmp_path_factory):
    paths = tables.write_latex(content["tables"], tmp_path_factory.mktemp("tables"), DOSSIER.titles)
    return {path.stem: path.read_text("utf-8") for path in paths}


def test_the_papers_numbers_stand_as_it_prints_them(content):
    llama = content["tables"]["llama"].set_index("method")
    assert llama.loc["SFT→DPO", "MMLU, paper (%)"] == "73.18 / 72.80 / 72.68"
    assert llama.loc["MAXRIGHT", "win rate, paper (%)"] == "86.56 / 86.09 / 83.75"
    assert llama.loc["DPO→SFT", "win rate, paper (%)"] == cells.MISSING
    pythia = content["tables"]["pythia"].set_index("method")
    assert pythia.loc["Mix", "ideal distance, paper"] == "0.165"
    assert pythia.loc["DPO→SFT", "preference gap, paper"] == "0.83"
    assert pythia.loc["SFT→DPO", "ideal distance, paper"] == cells.MISSING


def test_ours_are_the_stored_ones(content):
    regret = content["results"]["loss_space"]["alright"]["regret"]
    shown = content["tables"]["headline"].set_index("method").loc["ALRIGHT", "regret"]
    mean, half = map(float, shown.split(" ± "))
    assert half == pytest.approx(regret["half_width"][2], rel=0.05)
    assert mean == pytest.approx(regret["mean"][2], abs=half / 10)
    runs = content["results"]["schedule_cost"]["models"]["policy, width 64"]
    ratio = (
        runs["mix"]["seconds_per_update"]["median"]
        / runs["sft-dpo"]["seconds_per_update"]["median"]
    )
    shown = content["tables"]["resources"].set_index("method").loc["Mix", "time, policy"]
    assert float(shown.removesuffix(" %")) == pytest.approx(100 * (ratio - 1), abs=0.06)


def test_the_ledger_is_whole(content):
    table = content["tables"]["claims"]
    assert list(table["id"]) == [claim["id"] for claim in content["claims"]]
    assert set(table["verdict"]) <= {"holds", "fails"}


def test_a_markdown_table_has_equal_rows(content):
    for table in content["tables"].values():
        lines = tables.markdown(table).splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
        assert len(lines) == len(table) + 2


def test_latex_environments_are_balanced_and_rows_are_full(texts):
    for name, text in texts.items():
        assert text.isascii(), name
        opened = []
        for kind, environment in re.findall(r"\\(begin|end)\{(\w+)\}", text):
            if kind == "begin":
                opened.append(environment)
            else:
                assert opened.pop() == environment
        assert opened == []
        assert text.count(r"\toprule") == text.count(r"\begin{longtable}") + 1
        body = re.split(r"\\midrule|\\bottomrule|\\endlastfoot", text)
        rows = [line for part in body for line in part.splitlines() if line.endswith(r" \\")]
        rows = [line for line in rows if not line.startswith((r"\caption", r"\label"))]
        widths = {len(re.findall(r"(?<!\\)&", row)) for row in rows if "multicolumn" not in row}
        assert len(widths) == 1, name


@pytest.mark.slow
@given(st.text())
def test_no_text_is_a_command_of_tex(text):
    shown = tables._tex(text)
    for mark in "&%#_":
        assert re.findall(rf"(?<!\\){mark}", shown) == []
    # Braces balance for any text, since braces in the text are escaped.
    bare = re.sub(r"\\[{}]", "", shown)
    assert bare.count("{") == bare.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_reads_every_table(texts, tmp_path):
    for name, text in texts.items():
        (tmp_path / f"{name}.tex").write_text(text, "utf-8")
    inputs = "\n".join(rf"\input{{{name}}}" for name in texts)
    packages = r"\usepackage{booktabs,graphicx,longtable,array}"
    source = rf"\documentclass{{article}}{packages}\begin{{document}}{inputs}\end{{document}}"
    (tmp_path / "all.tex").write_text(source, "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
    # No table is wider than the text by more than one letter.
    wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", done.stdout)]
    assert max(wide, default=0) < 10


@pytest.mark.parametrize(
    ("mean", "half", "at", "scale", "text"),
    [
        (0.12345, 0.0678, None, 1.0, "0.123 ± 0.068"),
        (0.12345, 0.0678, None, -100.0, "-12.3 ± 6.8"),
        ([1.0, 52.4], [0.0, 13.0], 1, 1.0, "52 ± 13"),
        ([1.0, 52.4], [0.0, 13.0], 0, 1.0, "1"),
        (-0.001, 0.2, None, 1.0, "0.00 ± 0.20"),
    ],
)
def test_an_interval_has_the_digits_of_its_half_width(mean, half, at, scale, text):
    assert cells.interval({"mean": mean, "half_width": half}, at, scale) == text
