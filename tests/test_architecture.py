"""Imports point down only, and light parts do not import heavy ones."""

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tradeoff.checkout import ROOT

# Each part may import parts of lower rank. Parts of one rank do not import each other.
RANKS: dict[str, float] = {
    "errors": -1,
    "_deferred": -1,
    "extras": -0.5,
    "display": 0,
    "progress": 0,
    "draws": 0,
    "_leftovers": 0,
    "_seals": 0,
    "files": 0,
    "settings": 0,
    "parts": 0.5,
    "objectives": 1,
    "records": 1,
    "schedules": 1,
    "scores": 1,
    "checkout": 1,
    "_pages": 1,
    "plots": 2,
    "_terminal": 2,
    "doctor": 2,
    "data": 2,
    "methods": 2,
    "convex": 3,
    "networks": 3,
    "llm": 3,
    "theory": 4,
    "study": 4,
    "tiny": 4,
    "conflict": 5,
    "experiment": 5,
    "trl": 5,
    "trust": 1.5,
    "doubts": 4,
    "arena": 5,
    "advice": 5.5,
    "forecast": 5.6,
    "compare": 5.8,
    "cli": 7,
    "__main__": 8,
}
# A last layer is written as a convex problem, and a front can draw itself.
ALLOWED = {("networks", "convex"): {"policies", "tasks"}, ("convex", "plots"): {"front"}}


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a source, which several tests read."""
    return ast.parse(path.read_text("utf-8"))


def imports() -> list[tuple[str, str, str]]:
    """(part, module, imported part) of every import within the package."""
    found = []
    for path in sorted((ROOT / "tradeoff").rglob("*.py")):
        names = path.relative_to(ROOT / "tradeoff").with_suffix("").parts
        if names == ("__init__",):
            continue
        for node in ast.walk(parsed(path)):
            for target in _targets(node):
                parts = target.split(".")
                if parts[0] == "tradeoff" and len(parts) > 1:
                    found.append((names[0], names[-1], parts[1]))
    return found


def _targets(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        if node.module == "tradeoff":
            return [f"tradeoff.{alias.name}" for alias in node.names]
        return [node.module]
    return []


def test_every_part_has_a_rank():
    parts = {path.stem for path in (ROOT / "tradeoff").iterdir() if path.suffix == ".py"}
    parts |= {p.name for p in (ROOT / "tradeoff").iterdir() if (p / "__init__.py").exists()}
    assert parts - {"__init__"} == set(RANKS)


def test_imports_point_down():
    wrong = [
        f"{part}/{module} imports {target}"
        for part, module, target in imports()
        if target in RANKS
        and target != part
        and RANKS[target] >= RANKS[part]
        and module not in ALLOWED.get((part, target), set())
    ]
    assert wrong == []


def test_private_modules_and_names_are_imported_by_their_own_package_alone():
    wrong = []
    for path in sorted(p for top in ("tradeoff", "analysis", "benchmarks")
                       for p in (ROOT / top).rglob("*.py")):  # fmt: skip
        user = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(parsed(path)):
            if not (isinstance(node, ast.ImportFrom) and node.module):
                continue
            for target in (f"{node.module}.{alias.name}" for alias in node.names):
                home, private, _ = target.partition("._")
                if home.startswith("tradeoff") and private and not user.startswith(f"{home}."):
                    wrong.append(f"{user} imports {target}")
    assert wrong == []


def graph(package: str) -> dict[str, set[str]]:
    """Modules that each module imports, also for typing, except imports inside functions."""
    paths = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        waiting, targets = [parsed(path)], set()
        while waiting:
            for node in ast.iter_child_nodes(waiting.pop()):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    continue
                waiting.append(node)
                targets |= {alias.name for alias in getattr(node, "names", [])
                            if isinstance(node, ast.Import)}  # fmt: skip
                if isinstance(node, ast.ImportFrom) and node.module:
                    inner = {f"{node.module}.{alias.name}" for alias in node.names}
                    targets |= (inner & paths.keys()) or {node.module}
        found[name] = (targets & paths.keys()) - {name}
    return found


@pytest.mark.parametrize("package", ["tradeoff", "analysis"])
def test_no_module_imports_itself_by_a_detour(package):
    """Remove modules without remaining imports, until none is left or a circle is."""
    left = graph(package)
    assert len(left) > 20
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    assert left == {}


SLOW = {"IPython", "joblib", "matplotlib", "numba", "pandas", "pyarrow", "rich", "scipy", "torch"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("tradeoff.convex", SLOW | {"sympy", "sklearn"}),
        ("tradeoff.schedules", SLOW),
        ("tradeoff.methods", SLOW),
        ("tradeoff.theory.joint", {"torch", "matplotlib", "sympy"}),
        ("tradeoff.data", {"torch", "pandas", "numba"}),
    ],
)
def test_light_parts_stay_light(module, absent):
    code = f"import sys, {module}; print(*({absent!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_is_there_and_documented():
    import tradeoff

    for name in tradeoff.__all__:
        assert getattr(tradeoff, name).__doc__, name
    assert set(tradeoff.__all__) <= set(dir(tradeoff))
    with pytest.raises(AttributeError, match="no_such_name"):
        tradeoff.no_such_name  # noqa: B018


def shown_names() -> set[str]:
    """Names of methods for display, which the schedules define."""
    from analysis.fernando2024.methods import LABELS
    from tradeoff.methods import METHODS

    return {*LABELS.values(), *(method.family for method in METHODS.values())}


def names_in(tree: ast.AST) -> list[str]:
    """Every text in a module, except its list of public names."""
    made = (n for n in ast.walk(tree) if isinstance(n, ast.Assign))
    public = [n.value for n in made if ast.unparse(n.targets[0]) == "__all__"]
    listed = {id(inner) for node in public for inner in ast.walk(node)}
    texts = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in listed)
    return [n.value for n in texts if isinstance(n.value, str)]


HOMONYMS = {"Batch", "Task"}
"""Names that two packages share: a batch for a model, and a task to learn or to compute."""


def test_a_class_has_a_name_of_its_own():
    """One word for one thing: a method's part, a schedule's plan, a scale."""
    found = Counter(
        node.name
        for path in (ROOT / "tradeoff").rglob("*.py")
        for node in parsed(path).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert {name for name, count in found.items() if count > 1} == HOMONYMS


def test_methods_are_looked_up_by_their_name_in_the_catalogue():
    """The display name of a method is defined with its schedule, and in the paper's one list."""
    shown, found = shown_names(), []
    assert {"SFT→DPO", "Mix", "SFT only"} <= shown
    for folder in ("tradeoff", "analysis"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent.name == "schedules" or path.match("fernando2024/methods.py"):
                continue
            found += [(path.name, t) for t in names_in(parsed(path))
                      if t in shown]  # fmt: skip
    for path in sorted((ROOT / "analysis").rglob("*.j2")):
        quoted = re.findall(r"""["']([^"'\n]+)["']""", path.read_text("utf-8"))
        found += [(path.name, text) for text in quoted if text in shown]
    assert found == []


def test_the_library_knows_of_the_analysis_in_one_place():
    found = [
        path.name
        for path in sorted((ROOT / "tradeoff").rglob("*.py"))
        for node in ast.walk(parsed(path))
        if any(target.partition(".")[0] == "analysis" for target in _targets(node))
        or (isinstance(node, ast.Constant) and str(node.value).startswith("analysis."))
    ]
    assert set(found) == {"checkout.py"}


def test_progress_bars_come_from_one_place():
    folders = (ROOT / "tradeoff", ROOT / "analysis")
    users = [p for folder in folders for p in folder.rglob("*.py") if "tqdm.auto" in p.read_text()]
    assert users == [ROOT / "tradeoff" / "progress.py"]
