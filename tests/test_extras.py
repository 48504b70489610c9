"""Without an extra, its functions give one error that names it; everything else works."""

import json
import subprocess
import sys
import tomllib

import pytest

from tradeoff.checkout import ROOT
from tradeoff.extras import EXTRAS, MissingPackage, explained, require

IMPORTED = {
    "dask": "distributed",
    "markdown-it-py": "markdown_it",
    "mdit-py-plugins": "mdit_py_plugins",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
"""Packages whose import name differs from their own name."""
SHARED = {"PIL", "markdown_it", "pydantic"}
"""Packages of extras that matplotlib, rich and typer bring with the core."""

# Runs each statement where the packages of the extras cannot be imported, and prints the outcome.
CHILD = '''
import contextlib, io, json, sys

class Without:
    """A finder of modules that finds none of the packages which are to be absent."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in absent
        return None if hidden else self.finder.find_spec(name, path, target)

absent, statements = json.load(sys.stdin)
sys.meta_path[:] = map(Without, sys.meta_path)
from tradeoff import cli
for statement in statements:
    out, err = io.StringIO(), io.StringIO()
    found = ""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exec(statement, {"cli": cli})
        except BaseException as error:
            found = f"{type(error).__name__}: {error}"
    print(json.dumps([found, out.getvalue(), err.getvalue()]))
'''


def run_without(absent, statements, folder):
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([sorted(absent), statements]),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=folder,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def command(*words):
    return f"cli.main({list(words)!r})"


COMMANDS = {
    command("train", "--steps", "1"): "llm",
    command("evaluate", "tiny"): "llm",
    command("export", "run", "--out", "here"): "llm",
    command("doctor", "--model", "tiny"): "llm",
    command("advise", "a.jsonl", "b.jsonl"): "text",
    command("analyse", "--sft", "a.jsonl", "--preference", "b.jsonl"): "text",
    command("simulate", "--steps", "1", "--out", "here"): "parquet",
    command("simulate", "--steps", "2", "--replicas", "1", "--method", "mix+simpo"): "nets",
    command("reproduce"): "report",
}
IMPORTS = {
    "import tradeoff.networks.train": "nets",
    "from tradeoff.networks import policies": "nets",
    "from tradeoff.llm import JointTrainer": "llm",
    "import tradeoff.study": "study",
    "from tradeoff.study import engines": "study",
    "from tradeoff.theory import proofs": "proofs",
    "from tradeoff.theory.rate_proofs import fast_rate": "proofs",
    "from tradeoff.convex.text import hash_texts; hash_texts(['a'], 8)": "text",
    "from tradeoff import read_sft; read_sft('rows.parquet')": "parquet",
    "from tradeoff import read_sft; read_sft('folder')": "parquet",
}
WORKS = (
    command("--help"),
    command("doctor", "--json"),
    command("front", "--accuracy", "0.1", "--json"),
    command("simulate", "--steps", "8", "--replicas", "1", "--json"),
    command("simulate", "--steps", "2", "--replicas", "1", "--method", "mix+pcgrad", "--json"),
    "from tradeoff import read_sft; assert len(read_sft('rows.jsonl')) == 2",
    "from tradeoff.llm.config import TrainConfig",
    "import tradeoff.theory.joint, tradeoff.plots, tradeoff.conflict",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows in several formats; files that cannot be written are empty."""
    place = tmp_path_factory.mktemp("core")
    rows = [{"prompt": "a", "completion": word} for word in ("b", "c")]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "rows.parquet").touch()
    (place / "folder").mkdir()
    files = {"_data_files": [{"filename": "data.arrow"}]}
    (place / "folder" / "state.json").write_text(json.dumps(files))
    (place / "folder" / "data.arrow").touch()
    return place


@pytest.fixture(scope="module")
def outcomes(folder):
    """Outcome of every statement without any extra, in one process."""
    absent = {package for packages in EXTRAS.values() for package in packages} - SHARED
    statements = [*COMMANDS, *IMPORTS, *WORKS]
    return dict(zip(statements, run_without(absent, statements, folder), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("statement", COMMANDS)
def test_a_command_names_the_extra_that_it_needs(statement, outcomes):
    found, out, err = outcomes[statement]
    assert (found, out) == ("SystemExit: 2", "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    if "reproduce" not in statement:  # In a checkout, which is installed by its folder.
        assert f"pip install 'tradeoff[{COMMANDS[statement]}]'" in err
    assert COMMANDS[statement] in err


@pytest.mark.parametrize("statement", IMPORTS)
def test_an_import_names_the_extra_that_it_needs(statement, outcomes):
    found, _, _ = outcomes[statement]
    assert found.startswith("MissingPackage: ")
    assert f"pip install 'tradeoff[{IMPORTS[statement]}]'" in found


@pytest.mark.parametrize("statement", WORKS)
def test_the_core_works_alone(statement, outcomes):
    found, _, err = outcomes[statement]
    assert found in ("", "SystemExit: 0"), (found, err)


def test_the_doctor_says_what_is_absent(outcomes):
    report = json.loads(outcomes[command("doctor", "--json")][1])
    assert report["ok"]
    found = {finding["name"]: finding["value"] for finding in report["findings"]}
    assert "torch is not installed" in found["devices"]


def test_the_table_is_that_of_the_project():
    with (ROOT / "pyproject.toml").open("rb") as file:
        declared = tomllib.load(file)["project"]["optional-dependencies"]

    def packages(extra):
        """Names of the packages of an extra and of those that it includes."""
        found = set()
        for text in declared[extra]:
            name = text.split(">")[0]
            if name.startswith("tradeoff["):
                parts = name.removeprefix("tradeoff[").removesuffix("]").split(",")
                found |= {package for part in parts for package in packages(part)}
            else:
                name = name.partition("[")[0]
                found.add(IMPORTED.get(name, name))
        return found

    assert EXTRAS.keys() == declared.keys() - {"all", "docs", "test", "dev"}
    for extra, needed in EXTRAS.items():
        assert set(needed) <= packages(extra), extra
    everything = {package for extra in EXTRAS if extra != "cluster" for package in packages(extra)}
    assert packages("all") == everything


def test_the_error_is_of_both_kinds_and_names_the_package():
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tradeoff\[text\]'") as caught:
        require("text", "no_such_package")
    assert isinstance(caught.value, MissingPackage)
    assert caught.value.name == "no_such_package"


def test_only_packages_of_extras_are_explained():
    other = ModuleNotFoundError("No module named 'mine'", name="mine")
    assert explained(other) is other
    assert "tradeoff[nets]" in str(explained(ModuleNotFoundError(name="torch.nn")))
    assert "tradeoff[llm]" in str(explained(ModuleNotFoundError(name="torch.nn"), "llm"))
