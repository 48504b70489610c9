"""The offline default for language models: a tiny base model and generated data.

The model is the small transformer of `tradeoff.networks`. It is pretrained here on a generated
corpus in about a minute, and stored as a folder that transformers loads, without any download.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.synthetic import InstructionData, Language, generate
from tradeoff.data.tokenizer import Tokenizer, train_tokenizer
from tradeoff.files import check_writable
from tradeoff.records import cache_folder, replacing_folder


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """Sizes of the base model, and the language of its pretraining corpus."""

    width: int = 64
    layers: int = 3
    heads: int = 4
    vocabulary: int = 512
    context: int = 128
    steps: int = 800
    language: Language = field(
        default_factory=lambda: Language(
            skills=("reverse", "uppercase", "sort", "count"),
            preferences=("polite", "short"),
            sft_rows=2000,
            preference_rows=1000,
            test_rows=200,
            documents=10_000,
        )
    )


def data(tiny: Tiny | None = None) -> InstructionData:
    """Demonstrations and pairs of the small language, for training and held out."""
    return generate((tiny or Tiny()).language)


def folder(tiny: Tiny | None = None, cache: Path | None = None, *, progress: bool = True) -> Path:
    """Folder of the pretrained model, as transformers loads it; made on the first call.

    Parameters
    ----------
    tiny
        Sizes and language of the model; by default those of `Tiny`.
    cache
        Folder of the models; `cache_folder` by default.
    progress
        Show a bar during pretraining.
    """
    tiny = tiny or Tiny()
    made_by = {name: version(name) for name in ("tradeoff", "torch", "tokenizers")}
    about = json.dumps({**asdict(tiny), "made_by": made_by}, sort_keys=True)
    place = (cache or cache_folder()) / f"tiny-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
    if not place.exists():
        check_writable(place, what="folder of models made here", field="TRADEOFF_CACHE")
        corpus = data(tiny).corpus
        tokenizer = train_tokenizer(corpus, tiny.vocabulary)
        pretrained(
            place,
            corpus,
            tokenizer,
            width=tiny.width,
            layers=tiny.layers,
            heads=tiny.heads,
            context=tiny.context,
            steps=tiny.steps,
            length=64,
            progress=progress,
        )
    return place


def pretrained(
    place: Path,
    corpus: Sequence[str],
    tokenizer: Tokenizer,
    *,
    width: int,
    layers: int,
    heads: int,
    context: int,
    **settings: Any,
) -> None:
    """Pretrain a small Llama and write the folder that transformers loads, complete or not at all.

    Parameters
    ----------
    place
        The folder.
    corpus, tokenizer
        Training texts, and their tokenizer.
    width, layers, heads, context
        Sizes of the model; feed-forward layers are 2.75 times as wide as the residual stream.
    **settings
        Settings of :func:`tradeoff.networks.language_task.pretrain`.
    """
    from tradeoff.networks.hugging_face import to_hugging_face
    from tradeoff.networks.language_model import LanguageModelConfig
    from tradeoff.networks.language_task import pretrain

    config = LanguageModelConfig(
        vocabulary=len(tokenizer),
        width=width,
        layers=layers,
        heads=heads,
        hidden=width * 11 // 4,
        context=context,
    )
    model = pretrain(config, corpus, tokenizer, **settings)
    with replacing_folder(place) as partial:
        to_hugging_face(model.cpu(), tokenizer, partial)


def random_model(width: int = 32, layers: int = 2, seed: int = 0) -> tuple[Any, Any]:
    """An untrained model of transformers with a byte tokenizer, for examples and tests."""
    import tempfile

    from transformers import AutoTokenizer

    from tradeoff.data.tokenizer import byte_tokenizer
    from tradeoff.llm.models import quiet
    from tradeoff.networks.hugging_face import load_llama, to_hugging_face
    from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig

    tokenizer: Tokenizer = byte_tokenizer()
    config = LanguageModelConfig(vocabulary=len(tokenizer), width=width, layers=layers, heads=4)
    with tempfile.TemporaryDirectory() as place:
        to_hugging_face(LanguageModel(config, seed), tokenizer, place)
        with quiet():  # There would be a progress bar for a few weights.
            return load_llama(place), AutoTokenizer.from_pretrained(place, local_files_only=True)


def rows(count: int = 64) -> tuple[tuple[SftRow, ...], tuple[PreferenceRow, ...]]:
    """A few demonstrations and pairs of the small language."""
    few = Language(sft_rows=count, preference_rows=count, test_rows=1, documents=1)
    found = generate(few)
    return found.sft_train, found.preference_train
