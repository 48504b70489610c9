"""Damage to files: flipped bits, missing ends, changed values, and other faults."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

OTHERS: tuple[Any, ...] = (0, 1, -1, 2.5, True, None, "", "x", [], {}, 10**12)


def flipped(path: Path, rng: random.Random) -> str:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"bit {bit} flipped"


def cut(path: Path, rng: random.Random) -> str:
    """Cut some bytes at the end."""
    content = path.read_bytes()
    keep = rng.choice([0, len(content) - 1, rng.randrange(len(content))])
    path.write_bytes(content[:keep])
    return f"cut to {keep} of {len(content)} bytes"


def zeroed(path: Path, rng: random.Random) -> str:
    """Set a block to zeros, as if it had never been written."""
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice([1, 64, 4096]))
    if not any(content[start:end]):
        content[start] = 1
    else:
        content[start:end] = bytes(end - start)
    path.write_bytes(content)
    return f"bytes {start} to {end} are zero"


def absent(path: Path, rng: random.Random) -> str:
    """Remove the file."""
    path.unlink()
    return "removed"


def other_leaf(path: Path, rng: random.Random) -> str:
    """Change one value of a JSON file."""
    found = json.loads(path.read_text("utf-8"))
    places = list(_leaves(found))
    if not places:
        return flipped(path, rng)
    holder, key = rng.choice(places)
    before = holder[key]
    holder[key] = after = rng.choice([v for v in _near(before) if v is not before and not (
        type(v) is type(before) and v == before)])  # fmt: skip
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return f"{key!r} is {after!r} instead of {str(before)[:40]!r}"


def other_line(path: Path, rng: random.Random) -> str:
    """Remove, double, swap or edit lines of a log."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    i = rng.randrange(len(lines))
    done = rng.choice(["removed", "doubled", "swapped", "edited"])
    if done == "removed":
        del lines[i]
    elif done == "doubled":
        lines.insert(i, lines[i])
    elif done == "swapped" and len(lines) > 1:
        j = rng.choice([k for k in range(len(lines)) if k != i])
        lines[i], lines[j] = lines[j], lines[i]
    else:
        record = json.loads(lines[i])
        holder, key = rng.choice(list(_leaves(record)))
        holder[key] = rng.choice([v for v in _near(holder[key]) if v != holder[key]])
        lines[i] = json.dumps(record) + "\n"
    path.write_text("".join(lines), "utf-8")
    return f"line {i + 1} of {len(lines)} {done}"


def damages(path: Path) -> list[Callable[[Path, random.Random], str]]:
    """The kinds of damage for a file of this kind."""
    found: list[Callable[[Path, random.Random], str]] = [flipped, flipped, cut, zeroed]
    if path.suffix == ".json":
        found += [other_leaf, other_leaf]
    if path.suffix == ".jsonl":
        found += [other_line, other_line]
    return found


def _leaves(value: Any) -> Any:
    """Yield (holder, key) of every value that is not a list or mapping."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        if isinstance(inner, dict | list) and inner:
            yield from _leaves(inner)
        else:
            yield value, key


def _near(value: Any) -> list[Any]:
    """Values to put in place of one, of the same type or of another."""
    near: list[Any] = list(OTHERS)
    if isinstance(value, bool):
        near += [not value, int(value)]
    elif isinstance(value, int):
        near += [value + 1, value - 1, float(value), str(value)]
    elif isinstance(value, float):
        near += [value * (1 + 1e-9) + 1e-300, -value, str(value)]
    elif isinstance(value, str):
        near += [value + "x", value[:-1], value.upper()]
    return near
