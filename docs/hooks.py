"""Hooks of the site's build: formulas, proofs, claims, figures and notebooks of the project.

A page asks for stored or computed content with a comment of its own on a line:

    <!-- proof: binary_example -->       a derivation that sympy has just verified
    <!-- claims: id id ... -->           rows of the ledger, with the stored numbers
    <!-- figure: name -->                a stored figure and its caption
    <!-- file: path -->                  a file of the project, as it is
    <!-- attack: name -->                counts of a stored search of tests/attack for what is false
    <!-- cards: all -->                  every method of the literature, and where it can run
    <!-- methods: other -->              names of the catalogue that no row of the literature holds
    <!-- attacks: promises|kinds -->     counts of the last long run of each attack
"""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from analysis.fernando2024.dossier import DOSSIER

ROOT = Path(__file__).resolve().parents[1]
PAPER = DOSSIER.folder
SIGNS = {"upper": "≤", "lower": "≥", "exact": "="}

_REQUEST = re.compile(
    r"^<!-- (proof|claims|figure|file|attack|attacks|cards|methods): (.+?) -->$", re.MULTILINE
)
_NOTEBOOK = re.compile(r"\]\(\.\./\.\./notebooks/(\w+)\.ipynb\)")
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`(~?)([\w.]+)`")
# Browsers draw these letters, but no longer support the attribute for them.
_BLACKBOARD = {"E": "𝔼", "R": "ℝ"}
_DOUBLE_STRUCK = re.compile(r'<mi mathvariant="double-struck">(.)</mi>')
_TIGHT = re.compile(r"<mo((?: [^>]*)?>&#x000(?:7C|2F);)")
"""Bars and slashes, around which browsers would add the space of a relation."""
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


# ------------------------------------------------------------------ pages ask for content


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the requests of a page by their content."""
    up = "../" * page.file.src_uri.count("/")
    answered = _REQUEST.sub(lambda found: _ANSWERS[found[1]](found[2]), markdown)
    # In the repository a page links to the notebook itself, on the site to its page.
    answered = _NOTEBOOK.sub(r"](../notebooks/\1.md)", answered)
    return answered.replace("](/figures/", f"]({up}figures/")


def proof(name: str) -> str:
    """The steps of a derivation of `tradeoff.theory.proofs`, which sympy verifies now."""
    done = getattr(import_module("tradeoff.theory.proofs"), name)()
    steps = "\n".join(f"{i}. {_sentence(why)}\n\n    $$\n    {tex}\n    $$\n"
                      for i, (why, tex) in enumerate(done.steps, 1))  # fmt: skip
    body = f"$$\n{done.statement}\n$$\n\n{steps}"
    indented = "\n".join(f"    {line}" if line else "" for line in body.splitlines())
    return f'??? note "Verified by sympy: {done.name}"\n\n{indented}\n'


def claims(ids: str) -> str:
    """A table of claims of the ledger, with their stored verdicts."""
    from analysis.dossier.ledger import verdicts
    from tradeoff.display import cell

    ledger = {c["id"]: c for c in verdicts(PAPER / "results" / "claims.json")}
    rows = ["| claim | kind | measured | | bound | verdict |",
            "| --- | --- | ---: | --- | ---: | --- |"]  # fmt: skip
    for claim in (ledger[name] for name in ids.split()):
        measured, bound = (cell(float(claim[key])) for key in ("measured", "bound"))
        said = f"{claim['statement']} *Over {claim['over']}.*".replace("|", "\\|")
        if claim["mutations"]:
            said += f" Broken by: {', '.join(claim['mutations'])}."
        kind = claim["kind"] + (" (stored run)" if claim["reads"] == "stored" else "")
        verdict = "holds" if claim["holds"] else "**fails**"
        cells = (said, kind, measured, SIGNS[claim["relation"]], bound, verdict)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def figure(name: str) -> str:
    """A stored figure with its caption."""
    from analysis.dossier.captions import caption
    from analysis.dossier.stored_results import numbers

    module = DOSSIER.module(name)
    text = caption(module, numbers(DOSSIER.stored(name))).replace("*", "\\*")
    return f"![{DOSSIER.asks(name)}](/figures/{name}.png)\n\n*{text}*"


def file(path: str) -> str:
    """A file of the project as a block of code or text."""
    language = "python" if path.endswith(".py") else "text"
    return f"```{language}\n{(ROOT / path).read_text('utf-8').rstrip()}\n```"


def attack(name: str) -> str:
    """Counts of tries and failures of the last full run of one search."""
    from tradeoff.records import read_json

    stored = read_json(ROOT / "tests" / "attack" / f"{name}.json")
    rows = ["| promise | tries | failures |", "| --- | ---: | ---: |"]
    rows += [
        f"| {what} | {n['tries']:,} | {n['failures']} |" for what, n in stored["promises"].items()
    ]
    about = f"{stored['problems']:,} problems; `{stored['command']}`"
    return "\n".join([*rows, "", f"*{about}*"])


def attacks(what: str) -> str:
    """Counts of the last long run of every attack, by promise or by kind of try."""
    from tradeoff.records import read_json

    path = ROOT / "tests" / "attack" / "counts.json"
    if not path.exists():
        return "*No run is stored yet.*"
    stored = read_json(path)
    rows = [f"| attack | {what[:-1]} | tries | failures |", "| --- | --- | ---: | ---: |"]
    for name, found in stored.items():
        counted = {found["promise"]: found} if what == "promises" else found["kinds"]
        rows += [
            f"| `{name}` | {text} | {n['tries']:,} | {n['failures']} |"
            for text, n in counted.items()
        ]
    commands = ", ".join(f"`{found['command']}`" for found in stored.values())
    return "\n".join([*rows, "", f"*{commands}*" if what == "promises" else ""])


def cards(_: str) -> str:
    """The table of methods of the literature."""
    from tradeoff.methods.cards import cards as every

    rows = ["| id | method | kind | source | mark | in the catalogue | not on |",
            "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for card in every():
        held = _page_of(card.method) if card.method else f"no: {card.reason}"
        held += f"; measured by {_function(card.measure)}" if card.measure else ""
        held += f" ({card.note})" if card.note else ""
        missing = [s for s, why in card.scales().items() if why] if card.method else []
        cells = (card.id, card.name, card.kind, card.source, card.mark, held, ", ".join(missing))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def methods(_: str) -> str:
    """A list of the methods and parts that are no row of the literature's table."""
    from tradeoff.methods import find, names
    from tradeoff.methods.cards import cards as every

    held = {card.method for card in every()}
    return "\n".join(f"- {_page_of(n)}: {find(n).label}" for n in names() if n not in held)


def _function(place: str) -> str:
    """A link to the description of a function, by a place such as ``module:name``."""
    return f"[`{place.partition(':')[2]}`][{place.replace(':', '.')}]"


def _page_of(method: str) -> str:
    return f"[`{method}`](methods/{method}.md)"


_ANSWERS: dict[str, Callable[[str], str]] = {
    "proof": proof,
    "claims": claims,
    "figure": figure,
    "file": file,
    "attack": attack,
    "attacks": attacks,
    "cards": cards,
    "methods": methods,
}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# ------------------------------------------------------------------ formulas and references


def on_page_content(content: str, **_: Any) -> str:
    """Turn every formula into MathML, which browsers draw without a script."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    formula = html.unescape(found[2]).strip()
    drawn = convert(formula, display=display)
    if unknown := [text for text in re.findall(r">([^<]*)<", drawn) if "\\" in text or text == "&"]:
        raise PluginError(f"the formula {formula!r} cannot be drawn: {unknown}")
    drawn = _TIGHT.sub(r'<mo lspace="0" rspace="0"\1', drawn)
    return _DOUBLE_STRUCK.sub(lambda letter: f"<mi>{_BLACKBOARD[letter[1]]}</mi>", drawn)


def on_config(config: Any) -> Any:
    """Convert the roles of Sphinx in docstrings, which editors also know, to links."""
    from markdown.extensions import Extension
    from markdown.preprocessors import Preprocessor

    class Roles(Preprocessor):
        def run(self, lines: list[str]) -> list[str]:
            return [_ROLE.sub(_reference, line) for line in lines]

    class RoleExtension(Extension):
        def extendMarkdown(self, md: Any) -> None:
            md.preprocessors.register(Roles(md), "roles", 30)

    config.markdown_extensions.append(RoleExtension())
    return config


def _reference(found: re.Match[str]) -> str:
    shown = found[2].rpartition(".")[2] if found[1] else found[2]
    return f"[`{shown}`][{found[2]}]"


# ------------------------------------------------------------------ files from elsewhere


def on_files(files: Files, config: Any) -> Files:
    """Add the stored figures, the stored notebooks and the pages made of the project."""
    from analysis.arena.pages import pages as method_pages

    for path in sorted((PAPER / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))
    names = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        names.append(path.stem)
        for target, content in _pages(path).items():
            files.append(File.generated(config, f"notebooks/{target}", content=content))
    commands = cli_pages()
    for target, content in {
        **commands,
        "gallery.md": gallery(),
        "changelog.md": changelog(),
        **{f"methods/{name}": text for name, text in method_pages().items()},
    }.items():
        files.append(File.generated(config, target, content=content))
    paths = [path for path in commands if path != "cli/index.md"]
    config.nav = [_with_pages(entry, names, paths) for entry in config.nav]
    return files


# ------------------------------------------------------------------ pages made of the project


def program() -> Any:
    """The command line as typer hands it to click."""
    import typer

    from tradeoff.cli import app

    return typer.main.get_command(app)


def cli_pages() -> dict[str, str]:
    """A page for each command and one that lists them, from the docstrings and options."""
    group, pages = program(), {}
    rows = ["| command | does |", "| --- | --- |"]
    for name, command in group.commands.items():
        rows.append(f"| [`tradeoff {name}`]({name}.md) | {_first(command.help)} |")
        pages[f"cli/{name}.md"] = _command(name, command)
    head = (
        f"# Command line\n\n{group.help} `tradeoff COMMAND --help` says the same in a terminal.\n"
    )
    return {"cli/index.md": "\n".join([head, *rows, ""]), **pages}


def _command(name: str, command: Any) -> str:
    import click

    context = click.Context(command, info_name=f"tradeoff {name}")
    usage = " ".join([f"tradeoff {name}", *command.collect_usage_pieces(context)])
    rows = ["| argument or option | default | meaning |", "| --- | --- | --- |"]
    for option in command.params:
        names = ", ".join(f"`{text}`" for text in (*option.opts, *option.secondary_opts))
        if not hasattr(option, "help") or getattr(option, "hidden", False):
            continue
        plain = option.default is None or callable(option.default) or option.default in ((), False)
        default = "" if plain else f"`{option.default}`"
        meaning = " ".join((option.help or "").split())
        cells = (names, default, meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    text = inspect.cleandoc(command.help or "").replace("\f", "")
    return f"# tradeoff {name}\n\n```text\n{usage}\n```\n\n{text}\n\n" + "\n".join(rows) + "\n"


def _first(text: str | None) -> str:
    return inspect.cleandoc(text or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def gallery() -> str:
    """Every stored figure, by chapter, with the question it answers."""
    parts = ["# Gallery", "The figures of the dossier; a click on one shows it whole."]
    for chapter in DOSSIER.chapters:
        parts.append(f"## {chapter.title}")
        for name in DOSSIER.members(chapter.name):
            if not (PAPER / "figures" / f"{name}.png").exists():
                continue
            title = DOSSIER.asks(name).rstrip(".")
            parts.append(f"### {title}")
            parts.append(
                f"[![{title}](/figures/{name}.png){{ loading=lazy }}](/figures/{name}.png)"
            )
            parts.append(f"`tradeoff figures {name}`")
    return "\n\n".join(parts) + "\n"


def changelog() -> str:
    """The project's changelog."""
    return (ROOT / "CHANGELOG.md").read_text("utf-8")


def _pages(path: Path) -> dict[str, str | bytes]:
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["language_info"] = {"name": "python"}
    text, resources = MarkdownExporter().from_notebook_node(
        notebook, resources={"unique_key": path.stem}
    )
    return {f"{path.stem}.md": text.replace(".ipynb)", ".md)"), **resources["outputs"]}


def _with_pages(entry: dict[str, Any], notebooks: list[str], commands: list[str]) -> dict[str, Any]:
    if "Notebooks" in entry:
        pages = [f"notebooks/{name}.md" for name in notebooks]
        return {"Notebooks": ["notebooks/index.md", *pages]}
    return {"Command line": ["cli/index.md", *commands]} if "Command line" in entry else entry
