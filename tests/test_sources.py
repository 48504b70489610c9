"""A fingerprint changes with every definition that a function reaches, and with no other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module, reload
from pathlib import Path

import pytest

from tradeoff.checkout import ROOT
from tradeoff.errors import InputError
from tradeoff.study import sources

FILES = {
    "__init__.py": "from .tools import renamed as offered\n",
    "work.py": '''
"""A study."""
import lab.other
import lab.numbers as n
from lab import offered, registry, deep
from lab.tools import helper
from lab.stars import *
from . import effects
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from lab.hints import Hint
LIMIT = 3
STALE = 4
taken = 5
def run(configuration: "Hint"):
    """What it does."""
    from lab.late import inner
    taken = [taken for taken in range(LIMIT)]
    return helper(taken) + n.value + offered() + inner() + use(registry) + deep.below.leaf()
def use(module): return len(dir(module)) + bright
def unused(): return STALE
def again(): return taken
if __name__ == "__main__":
    run({})
''',
    "tools.py": "def helper(x): return sum(x) * SCALE\nSCALE = 1\ndef renamed(): return 1\n"
    "def spare(): return 1\n",
    "numbers.py": "value, pair = 1, 2\nother = 1\n",
    "registry.py": "from lab.tools import SCALE\nitem = 1\n",
    "effects.py": "from lab import store\nstore.put(1)\nidle = 1\n",
    "store.py": "def put(x): print(x)\ndef get(): return 1\n",
    "late.py": "class Base:\n    size = 1\nclass Inner(Base): pass\n"
    "def inner(): return Inner().size\ndef outer(): return 1\n",
    "other.py": "print('loaded')\nx = 1\n",
    "hints.py": "class Hint: pass\n",
    "stars.py": "from lab.sky import *\n",
    "sky.py": "bright = 1\n",
    "deep/__init__.py": "def __getattr__(name): return 1\n",
    "deep/below.py": "def leaf(): return 1\ndef other(): return 1\n",
}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes the package, with one text replaced, and takes the fingerprint of its study."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def fingerprint(file: str = "", old: str = "", new: str = "") -> str:
        for place, text in FILES.items():
            assert place != file or old in text
            path = tmp_path / "lab" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace(old, new, 1) if place == file else text)
        return sources.fingerprint(["lab.work:run"])

    yield fingerprint
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]


REACHED = {
    "the function itself": ("work.py", "+ n.value", "- n.value"),
    "a constant": ("work.py", "LIMIT = 3", "LIMIT = 4"),
    "a function beside it": ("work.py", "return len", "return -len"),
    "a function from a module": ("tools.py", "sum(x)", "max(x)"),
    "what that one uses": ("tools.py", "SCALE = 1", "SCALE = 2"),
    "one name of several bound at once": ("numbers.py", "1, 2", "1, 3"),
    "what a package offers under another name": ("tools.py", "renamed(): return 1", "renamed(): 2"),
    "a module that is used as a value": ("registry.py", "item = 1", "item = 2"),
    "what an import at the top runs": ("effects.py", "put(1)", "put(2)"),
    "what that calls": ("store.py", "print(x)", "repr(x)"),
    "what an import of a package member runs": ("other.py", "loaded", "elsewhere"),
    "a late import": ("late.py", "Inner().size", "Inner().size + 1"),
    "a base class": ("late.py", "size = 1", "size = 2"),
    "what star imports bring": ("sky.py", "bright = 1", "bright = 2"),
    "a member of a package below": ("deep/below.py", "leaf(): return 1", "leaf(): return 2"),
}
OUT_OF_REACH = {
    "documentation": ("work.py", "What it does.", "What it did."),
    "a comment": ("work.py", "LIMIT = 3", "LIMIT = 3  # rows"),
    "a function that is not used": ("work.py", "return STALE", "return -STALE"),
    "a global with the name of a local": ("work.py", "taken = 5", "taken = 6"),
    "what runs as a script only": ("work.py", "run({})", "run({1: 2})"),
    "a spare function": ("tools.py", "def spare(): return 1", "def spare(): return 2"),
    "a constant of a module in use": ("numbers.py", "other = 1", "other = 2"),
    "a constant of a module that is only run": ("effects.py", "idle = 1", "idle = 2"),
    "the other function of a store": ("store.py", "get(): return 1", "get(): return 2"),
    "a name that is only loaded": ("other.py", "x = 1", "x = 2"),
    "imports for annotations": ("hints.py", "pass", "x = 1"),
    "another member below": ("deep/below.py", "other(): return 1", "other(): return 2"),
}


@pytest.mark.parametrize("edit", REACHED.values(), ids=REACHED)
def test_an_edit_of_what_is_reached_counts(
    edit: tuple[str, str, str], lab: Callable[..., str]
) -> None:
    assert lab(*edit) != lab()


@pytest.mark.parametrize("edit", OUT_OF_REACH.values(), ids=OUT_OF_REACH)
def test_an_edit_elsewhere_does_not_count(
    edit: tuple[str, str, str], lab: Callable[..., str]
) -> None:
    assert lab(*edit) == lab()


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit", [*REACHED.values(), *OUT_OF_REACH.values()], ids=[*REACHED, *OUT_OF_REACH]
)
def test_what_is_imported_counts_as_it_was_then(
    edit: tuple[str, str, str], lab: Callable[..., str]
) -> None:
    def imported() -> str:
        return sources.fingerprint(["lab.work:run"], imported=True)

    before = lab()
    for _ in range(2):
        for file in FILES:
            name = f"lab.{file}".removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            reload(import_module(name))
        after = lab(*edit)
        assert imported() == before
        forget()
        assert imported() == after
        before = after


def test_a_namespace_package_is_imported_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lab_space").mkdir()
    (tmp_path / "lab_space" / "inner.py").write_text("x = 1\n")
    assert import_module("lab_space.inner").x == 1


def test_a_name_that_a_package_makes_up_counts_with_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "making"
    folder.mkdir()
    (folder / "__init__.py").write_text("def __getattr__(name): return 1\n")
    (folder / "far.py").write_text("x = 1\n")
    (tmp_path / "asking.py").write_text("from making import anything\ndef f(): anything()\n")
    before = sources.fingerprint(["asking:f"])
    (folder / "far.py").write_text("x = 2\n")
    assert sources.fingerprint(["asking:f"]) != before


@pytest.mark.slow
def test_what_is_installed_is_not_followed() -> None:
    parts = sources.reached(["tradeoff.networks.train:train"])
    assert {name.partition(".")[0] for name, _ in parts} == {"tradeoff"}
    assert ("tradeoff.networks.loop", "Loop") in parts
    assert ("tradeoff.networks.policies", "policy_data") not in parts


def test_a_root_without_source_is_named() -> None:
    with pytest.raises(InputError, match="no_such_module"):
        sources.fingerprint(["no_such_module:f"])


@pytest.mark.parametrize("root", ["merges:MERGES", "gradients:GRADIENT_RULES"])
def test_parts_that_are_found_by_their_folder_count(root):
    found = sources.reached([f"tradeoff.methods.{root}"])
    package = ROOT / "tradeoff" / "methods" / root.partition(":")[0]
    files = {f"tradeoff.methods.{package.name}.{path.stem}" for path in package.glob("[!_]*.py")}
    assert {(name, "*") for name in files} <= found
