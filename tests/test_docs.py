"""Every code block of the documentation runs, and the site builds without a warning."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token

from analysis.fernando2024.dossier import DOSSIER
from analysis.gpu import __main__ as gpu
from tradeoff import cli
from tradeoff.checkout import ROOT
from tradeoff.llm import read_experiment

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")
)]  # fmt: skip


def blocks(page: str) -> list[Token]:
    tokens = MarkdownIt().parse((ROOT / page).read_text("utf-8"))
    return [token for token in tokens if token.type in ("fence", "code_block")]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder to write to, whose modules can be imported."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    plt.close("all")
    for name in [n for n, m in sys.modules.items() if _lies_in(m, tmp_path)]:
        del sys.modules[name]


def _lies_in(module: object, folder: Path) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_the_blocks_of_a_page_run_one_after_the_other(page, elsewhere, monkeypatch):
    shared = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", shared)
    for block in blocks(page):
        language, _, options = block.info.partition(" ")
        if name := re.search(r'title="([^"]+)"', options):
            (elsewhere / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (elsewhere / name[1]).write_text(block.content, "utf-8")
            if language == "toml":
                read_experiment(elsewhere / name[1])
        elif language == "python":
            source = compile(
                block.content, f"{page}, line {block.map[0] + 1}", "exec", dont_inherit=True
            )
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                # TRL uses names of transformers that will be removed.
                warnings.filterwarnings("ignore", r"`\w*gradient_checkpointing\w*` is depr")
                exec(source, vars(shared))
        elif language in ("console", ""):
            for line in block.content.replace("\\\n", "").splitlines():
                check_command(line)
        else:
            assert language == "text", f"{page}: nothing tests a block in {language}"


def check_command(line: str) -> None:
    """Run a command of ours; for other commands, check that the files they name exist."""
    words = shlex.split(line, comments=True)
    if not words:
        return
    match words:
        case ["tradeoff" | ".venv/bin/tradeoff", *arguments]:
            run_quick(arguments)
        case ["accelerate", "launch", "-m", "tradeoff", *arguments]:
            run_quick(arguments)
        case ["make", *targets]:
            goals = [t for t in targets if "=" not in t]
            known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
            assert set(goals) <= set(known), line
        case ["pip" | ".venv/bin/pip", "install", *what]:
            check_extras(" ".join(what))
        case ["python" | ".venv/bin/python", "-m", "analysis.gpu", *arguments]:
            gpu.parser().parse_args(arguments)
        case ["python" | ".venv/bin/python", "-m", "analysis", name, *_]:
            assert name == "all" or DOSSIER.source(name).exists(), line
        case ["python" | ".venv/bin/python", file, *_] if file.endswith(".py"):
            assert (ROOT / file).exists(), line
        case ["jupyter", "lab", folder]:
            assert (ROOT / folder).is_dir(), line
        case _:
            pytest.fail(f"nothing tests the command {line!r}")


def run_quick(arguments: list[str]) -> None:
    """Parse the options of `tradeoff`, and run it if that takes seconds."""
    name, *options = arguments
    commands = typer.main.get_command(cli.app).commands
    commands[name].make_context(name, list(options))
    files = [word for word in options if ".jsonl" in word]
    quick = name == "analyse" and all(map(os.path.exists, files))
    if quick or arguments == ["figures"]:
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert not left.value.code, arguments


def check_extras(text: str) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["optional-dependencies"]
    for extras in re.findall(r"\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(declared), text


LONGEST_API_PAGE = 500_000
"""Largest size of an API page in bytes, with its navigation."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built once."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    tmp_path = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr
    return tmp_path


@pytest.mark.slow
def test_the_site_has_pages_of_commands_and_figures_of_readable_length(site):
    commands = typer.main.get_command(cli.app).commands
    assert {path.stem for path in (site / "cli").glob("*.html")} == {"index", *commands}
    gallery = (site / "gallery.html").read_text("utf-8")
    for name in DOSSIER.figures:
        assert f'src="figures/{name}.png"' in gallery
    assert "Keep a Changelog" in (site / "changelog.html").read_text("utf-8")
    sizes = {path.name: path.stat().st_size for path in (site / "api").glob("*.html")}
    assert {name: size for name, size in sizes.items() if size > LONGEST_API_PAGE} == {}


@pytest.mark.slow
def test_the_search_works_in_a_site_opened_from_disk(site):
    browsers = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next((found for name in browsers if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab, asked = browser.new_page(viewport={"width": 1400, "height": 900}), []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((site / "howto" / "trl.html").as_uri())
        tab.locator("input.md-search__input").click()
        tab.keyboard.type("alternations")
        first = tab.locator(".md-search-result__item a").first
        first.wait_for(timeout=60_000)
        assert first.get_attribute("href").startswith("file:")
        assert [url for url in asked if not url.startswith("file:")] == []
        browser.close()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(site):
    tmp_path = site
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text("utf-8")
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)', text)
        assert loaded == [], f"{page.name} fetches {loaded}"
        assert "arithmatex" not in text, f"{page.name} has a formula that was not drawn"
        assert not re.search(r"<!-- \w+: ", text), f"{page.name} has an unanswered request"
    theory = (tmp_path / "theory" / "sequential.html").read_text("utf-8")
    assert theory.count("<math") > 40
    assert "Verified by sympy" in theory
