"""The base model of the figures on real text: pretrained once on books, stored under ``out/``.

It is in a separate module, so that an edit of the study does not change the model's address.
"""

from __future__ import annotations

import gzip
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tradeoff import tiny
from tradeoff.checkout import DATA, WORK
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.study import addresses
from tradeoff.study.addresses import Task

FOLDER = WORK / "llm"
CORPUS = "corpus_gutenberg_children_train.txt.gz"
PIECE = 20_000
"""Characters of a document. Books are read in pieces of this length."""


@dataclass(frozen=True)
class Base:
    """Shape of the model and length of its pretraining, on books or the generated language."""

    books: bool = True
    width: int = 128
    layers: int = 4
    heads: int = 4
    vocabulary: int = 2048
    context: int = 192
    steps: int = 2000
    batch: int = 16
    device: str = "cpu"


def folder(base: Base) -> Path:
    """Folder of the model in transformers' format; the first call makes it."""
    read = files(base)
    made_by = "pretrain" if base.books else "pretrain_on_generated"
    place = kept(f"analysis.fernando2024.real.llm_base:{made_by}", asdict(base), read)
    if not place.exists():
        pretrain(base, place) if base.books else pretrain_on_generated(base, place)
    return place


def pretrain(base: Base, place: Path) -> None:
    """Train tokenizer and model on books, and write the folder."""
    with gzip.open(DATA / CORPUS, "rt", encoding="utf-8") as file:
        books = file.read().split("<|endoftext|>")
    _pretrain(
        base, [book[i : i + PIECE] for book in books for i in range(0, len(book), PIECE)], place
    )


def pretrain_on_generated(base: Base, place: Path) -> None:
    """Train tokenizer and model on the generated language, and write the folder."""
    from analysis.fernando2024.real import (
        llm_text,  # Imported here, so that an edit of rows does not change the books' model.
    )

    _pretrain(base, list(llm_text.generated().corpus), place)


def _pretrain(base: Base, documents: list[str], place: Path) -> None:
    few = documents[:: max(1, len(documents) // 200)]
    tiny.pretrained(
        place,
        documents,
        train_tokenizer(few, base.vocabulary),
        width=base.width,
        layers=base.layers,
        heads=base.heads,
        context=base.context,
        steps=base.steps,
        batch_size=base.batch,
        length=128,
        device=base.device,
        progress=base.books,
    )


def files(base: Base) -> list[Path]:
    """Files that the model is trained on."""
    return [DATA / CORPUS] if base.books else []


def kept(made_by: str, settings: dict[str, Any], read: list[Path]) -> Path:
    """Folder of a model, addressed by its settings, the sources that make it and its data."""
    name = made_by.rpartition(":")[2]
    return FOLDER / "models" / f"{name}-{_task(made_by, tuple(read)).address(settings)[:16]}"


@cache
def _task(made_by: str, read: tuple[Path, ...]) -> Task:
    return addresses.task(made_by, read)
