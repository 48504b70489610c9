"""Generated rows as files in TRL's layouts, and as conversations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from tradeoff.data.rows import Message, PreferenceRow, SftRow, Text
from tradeoff.data.synthetic.generate import InstructionData
from tradeoff.records import replacing


def write(data: InstructionData, folder: str | PathLike[str]) -> None:
    """Write every set as ``<name>.jsonl`` and the settings as ``language.json``."""
    folder = Path(folder)
    for name in ("sft_train", "sft_test", "preference_train", "preference_test", "corpus"):
        write_jsonl(getattr(data, name), folder / f"{name}.jsonl")
    settings = json.dumps(asdict(data.language), indent=2) + "\n"
    _write_text(folder / "language.json", [settings])


def write_jsonl(rows: Iterable[SftRow | PreferenceRow | str], path: str | PathLike[str]) -> None:
    """Write one row a line, documents as ``{"text"}``; columns beyond TRL's are kept.

    `tradeoff.data.read_sft` and `read_preferences` read the file. A reader sees the old file or
    the whole new one.
    """
    _write_text(Path(path), (json.dumps(_fields(row), ensure_ascii=False) + "\n" for row in rows))


def as_conversations(data: InstructionData) -> InstructionData:
    """The same rows as messages of a user and an assistant; the corpus stays as it is."""
    return replace(
        data,
        sft_train=tuple(_conversation(row) for row in data.sft_train),
        sft_test=tuple(_conversation(row) for row in data.sft_test),
        preference_train=tuple(_conversation(row) for row in data.preference_train),
        preference_test=tuple(_conversation(row) for row in data.preference_test),
    )


def _conversation(row: Any) -> Any:
    roles = {"prompt": "user", "completion": "assistant"}
    roles |= {"chosen": "assistant", "rejected": "assistant"}
    turns = {
        name: (Message(role, getattr(row, name).rstrip("\n")),)
        for name, role in roles.items()
        if hasattr(row, name)
    }
    return replace(row, **turns)


def _fields(row: SftRow | PreferenceRow | str) -> dict[str, Any]:
    if isinstance(row, str):
        return {"text": row}
    own = {f.name: _json(getattr(row, f.name)) for f in fields(row) if f.name != "origin"}
    more = json.loads(str(own.pop("extras")) or "{}")
    return {name: value for name, value in (own | more).items() if value is not None}


def _json(value: Text | bool | float | None) -> Any:
    return [turn.as_dict() for turn in value] if isinstance(value, tuple) else value


def _write_text(path: Path, lines: Iterable[str]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(lines)
