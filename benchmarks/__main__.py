"""Run benchmarks: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from benchmarks import measure

NAMES = ("simulate", "rate_curve", "front", "text", "ensemble", "llm")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)}")
    names = parser.parse_args().names or list(NAMES)
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"no benchmark {unknown[0]!r}; choose from {', '.join(NAMES)}")
    missed = []
    for name in names:
        numbers = importlib.import_module(f"benchmarks.{name}").main()
        path = measure.write(name, numbers)
        print(f"== {name} -> {path.name}\n{json.dumps(numbers, indent=2)}", flush=True)
        missed += [name] if numbers.get("bar_met") is False else []
    if missed:
        print(f"bar missed: {', '.join(missed)}", file=sys.stderr)
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
