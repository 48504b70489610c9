"""The oldest version of each package that pyproject.toml allows, as constraints for pip.

Run as ``python tests/lowest.py EXTRA ...``; packages of the core and of these extras are printed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
_BOUND = re.compile(r"([A-Za-z0-9-]+)(?:\[\w+\])?>=([0-9.]+)")


def lowest(project: dict, extras: list[str]) -> dict[str, str]:
    """Lower bounds by package, of the core and of extras with those that they include."""
    found = {}
    for text in project["dependencies"] + [
        text for extra in extras for text in project["optional-dependencies"][extra]
    ]:
        if text.startswith("tradeoff["):
            found |= lowest(project, text.removeprefix("tradeoff[").removesuffix("]").split(","))
        elif bound := _BOUND.fullmatch(text):
            found[bound[1]] = bound[2]
        else:
            raise ValueError(f"{PROJECT.name}: {text!r} has no lower bound")
    return found


def main() -> None:
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    for name, version in sorted(lowest(project, sys.argv[1:]).items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
