"""What a docstring says of a part: its text, its notes, and the meaning of its settings."""

from __future__ import annotations

import ast
import inspect
import re
from itertools import pairwise

from tradeoff.methods import presets

_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)


def sections(kind: type) -> dict[str, str]:
    """Sections of a class's docstring by title; the text before the first has an empty title."""
    text = _ROLE.sub(lambda found: f"`{found[1].rpartition('.')[2]}`", inspect.getdoc(kind) or "")
    parts = _SECTION.split(text)
    titles = ["", *parts[1::2]]
    return {title: part.strip() for title, part in zip(titles, parts[::2], strict=True)}


def settings(kind: type) -> dict[str, str]:
    """Meaning of each setting that the section Attributes of a class names."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in sections(kind).get("Attributes", "").splitlines():
        if line and not line[0].isspace():
            names = [name.strip() for name in line.split(",")]
        else:
            found |= {name: f"{found.get(name, '')} {line.strip()}".strip() for name in names}
    return found


def described_presets() -> dict[str, str]:
    """Description of each preset, in the table under their declaration."""
    body = ast.parse(inspect.getsource(presets)).body
    (text,) = (
        following.value.value
        for first, following in pairwise(body)
        if isinstance(first, ast.AnnAssign)
        and isinstance(first.target, ast.Name)
        and first.target.id == "PRESETS"
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
    )
    rows = (line.strip("| ").split(" | ") for line in str(text).splitlines() if "|" in line)
    # Texts may come in order for several names, with a semicolon between them.
    return {
        name: said.strip().removesuffix(r"\*").strip()
        for names, told in rows
        for name, said in zip(names.split(", "), told.split("; "), strict=True)
        if name in presets.PRESETS
    }
