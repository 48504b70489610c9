"""Run notebooks in place, so that they contain their outputs: `make notebooks`.

`tests/test_notebooks.py` checks the outputs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
INSTALL = """\
import importlib.util
from pathlib import Path

if importlib.util.find_spec("tradeoff") is None:  # a hosted notebook, with the wheel beside it
    wheels = [str(path) for path in Path().glob("tradeoff-*.whl")]
    assert wheels, "Upload the wheel that `make build` writes to dist/, then run this cell again."
    %pip install --quiet "{wheels[0]}[all]"
"""
"""First code cell of every notebook, which does nothing where the package is installed."""


def every() -> list[Path]:
    """All notebooks, in their order."""
    return sorted(HERE.glob("*.ipynb"))


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run all cells in ``folder``; an error in a cell ends the run."""
    run = nbformat.from_dict(notebook)
    client = NotebookClient(
        run,
        timeout=600,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env={**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    # The interpreter's version does not matter to the notebook, and changes with every machine.
    run.metadata.pop("language_info", None)
    return run


def main(names: list[str]) -> None:
    """Run the notebooks whose names contain one of ``names``; all notebooks without a name."""
    for path in every():
        if names and not any(name in path.stem for name in names):
            continue
        print(path.name, flush=True)
        nbformat.write(executed(nbformat.read(path, as_version=4), HERE), path)


if __name__ == "__main__":
    main(sys.argv[1:])
