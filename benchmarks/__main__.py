"""Run benchmarks: ``python -m benchmarks [NAME ...]``.

Numbers are written to results/NAME.json, ratios to results/history.jsonl. With ``--check`` nothing
is written, and the exit status is not zero if a ratio is worse than in the last runs on a similar
machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from benchmarks import history, measure

NAMES = ("simulate", "rules", "board", "rate_curve", "front", "text", "ensemble", "llm", "imports")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--check", action="store_true", help="compare with the last runs only")
    parser.add_argument(
        "--factor", type=float, default=1.5, help="how much worse is too much (%(default)s)"
    )
    options = parser.parse_args(arguments)
    names = options.names or list(history.RATIOS if options.check else NAMES)
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"no benchmark {unknown[0]!r}; choose from {', '.join(NAMES)}")
    missed, slower = [], []
    for name in names:
        numbers = importlib.import_module(f"benchmarks.{name}").main()
        line, earlier = history.entry(name, numbers), history.read()
        slower += history.worse(line, earlier, options.factor)
        if options.check:
            seen = any(old["machine"] == line["machine"] for old in earlier)
            print(f"== {name}: {line['ratios']}{'' if seen else ', nothing to compare with'}")
            continue
        path = measure.write(name, numbers)
        if line["ratios"]:
            history.append(line)
        print(f"== {name} -> {path.name}\n{json.dumps(numbers, indent=2)}", flush=True)
        missed += [name] if numbers.get("bar_met") is False else []
    if missed:
        print(f"bar missed: {', '.join(missed)}", file=sys.stderr)
    for text in slower:
        print(f"worse by more than {options.factor:g} times: {text}", file=sys.stderr)
    return min(1, len(missed) + len(slower))


if __name__ == "__main__":
    sys.exit(main())
