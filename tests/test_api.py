"""The public API equals the recorded one, and every name is documented with its arguments.

`python tests/test_api.py` records the API again in docs/api/public.txt.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import griffe
import pytest

import tradeoff

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs" / "api" / "public.txt"
PROGRAM = "tradeoff.cli"
"""Its interface is its commands, which the pages of the commands show."""
LISTS = (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes)


@cache
def package() -> griffe.Module:
    """The package as written; nothing is imported."""
    return griffe.load("tradeoff", search_paths=[ROOT], docstring_parser="numpy")


@cache
def documented() -> tuple[str, ...]:
    """Modules that the API pages show."""
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    return tuple(
        m for page in pages for m in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M)
    )


def top(name: str) -> griffe.Object:
    """The object of a top-level name, and the module in which it is written."""
    home = getattr(tradeoff, name).__module__.partition(".")[2]
    return package()[f"{home}.{name}"]


def modules(of: griffe.Module) -> list[str]:
    """Every module below a package that has its own contents."""
    inner = [m for child in of.modules.values() if not child.is_alias for m in modules(child)]
    return inner if of.is_init_module else [of.path]


def objects(module: str) -> list[griffe.Object]:
    """Public functions and classes that are written in a module."""
    return [
        member
        for name, member in package()[module.partition(".")[2]].members.items()
        if not name.startswith("_")
        and not member.is_alias
        and (member.is_function or member.is_class)
    ]


def parameters(of: griffe.Object) -> list[griffe.Parameter]:
    if of.is_class and "__init__" not in of.all_members:
        return []
    return [p for p in of.parameters if p.name != "self"]


def told(of: griffe.Object) -> set[str]:
    """Names that the lists of a docstring explain."""
    sections = of.docstring.parse("numpy", warnings=False) if of.docstring else []
    names = [item.name for s in sections if s.kind in LISTS for item in s.value]
    return {part.strip().lstrip("*") for name in names for part in name.split(",")}


def signature(of: griffe.Object) -> str:
    """The signature on one line."""
    kinds = griffe.ParameterKind
    parts, bare = [], False
    for p in parameters(of):
        if p.kind is kinds.keyword_only and not bare:
            parts.append("*")
        star = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(p.kind, "")
        bare = bare or p.kind in (kinds.keyword_only, kinds.var_positional)
        default = "" if p.default is None or star else f" = {p.default}"
        parts.append(f"{star}{p.name}: {p.annotation}{default}")
    returns = f" -> {of.returns}" if of.is_function else ""
    return f"{of.name}({', '.join(parts)}){returns}"


def listing() -> str:
    """The whole public API, one name per line."""
    lines = ["tradeoff", *(f"    {signature(top(name))}" for name in tradeoff.__all__)]
    for module in sorted(documented()):
        lines += ["", module, *(f"    {signature(each)}" for each in objects(module))]
    return "\n".join(lines) + "\n"


def test_the_record_is_the_code():
    assert RECORD.read_text("utf-8") == listing(), "if it is meant: python tests/test_api.py"


def test_every_name_of_the_top_level_is_documented_with_all_it_takes():
    for name in tradeoff.__all__:
        each = top(name)
        own = {p.name for p in parameters(each)}
        if each.is_class:
            own -= {p.name for base in each.mro() for p in parameters(base)}
        assert each.module.path in documented(), name
        assert own <= told(each), f"{name} says nothing of {own - told(each)}"


def test_every_module_is_documented_or_private():
    assert len(set(documented())) == len(documented())
    every = {m for m in modules(package()) if "._" not in m and not m.startswith(PROGRAM)}
    assert every <= set(documented())
    assert not any("._" in m or m.startswith(PROGRAM) for m in documented())


@pytest.mark.parametrize("module", documented())
def test_docstrings_explain_what_the_signatures_have(module):
    for each in objects(module):
        assert each.docstring, each.path
        takes = {p.name for p in parameters(each)}
        bases = [each, *each.mro()] if each.is_class else []
        known = takes | {name for base in bases for name in base.members}
        assert told(each) <= known, f"{each.path} explains {told(each) - known}"
        if each.is_class:
            for name, method in each.functions.items():
                assert told(method) <= {p.name for p in method.parameters}, f"{each.path}.{name}"


def test_what_is_checked_here_can_fail():
    each = package()["convex.solve.minimise"]
    assert "tolerance" in told(each)
    assert "tolerance" in {p.name for p in parameters(each)}
    assert signature(package()["schedules.joint.Mix"]) == "Mix(*, lam: Share = 0.5)"


if __name__ == "__main__":
    RECORD.write_text(listing(), "utf-8")
