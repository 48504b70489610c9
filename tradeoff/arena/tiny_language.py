"""The tiny language model of the arena: one base model, and its tasks at levels of conflict.

The base model is pretrained in some seconds, once in each process that needs it, from a corpus
that all levels of conflict share. So there is no file that could belong to other settings.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import prod
from typing import Literal

import torch

from tradeoff.data.synthetic import InstructionData, Language, generate
from tradeoff.data.tokenizer import Tokenizer, train_tokenizer
from tradeoff.methods import Method
from tradeoff.methods.anchors import DrTune
from tradeoff.methods.parameters import Added
from tradeoff.methods.parameters.added import EMBEDDING, gradient_of
from tradeoff.networks.batches import Batch, packed_batch
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask, pretrain
from tradeoff.networks.threads import one_thread

ROWS = 64
"""Held-out rows of each set that score, and as many more on which steps are chosen."""
BASE = {"steps": 300, "learning_rate": 6e-3, "batch_size": 16, "length": 64}
"""Settings of the pretraining."""


DOCUMENTS_SEED, DOCUMENTS = 1, 128
"""Seed and number of the held-out documents."""


def language(conflict: float) -> Language:
    """The generated language at a level of conflict, with few rows."""
    return Language(
        conflict=conflict,
        skills=("reverse", "uppercase", "sort", "count"),
        preferences=("polite", "short"),
        sft_rows=512,
        preference_rows=256,
        test_rows=2 * ROWS,
        documents=6000,
    )


@cache
def _corpus() -> tuple[InstructionData, Tokenizer]:
    data = generate(language(0.5))
    return data, train_tokenizer(data.corpus, 384)


@cache
def documents() -> Batch:
    """Blocks of documents that neither pretraining nor training has: those of another seed."""
    _, tokenizer = _corpus()
    written = generate(replace(language(0.5), seed=DOCUMENTS_SEED, documents=DOCUMENTS)).corpus
    return packed_batch(written, tokenizer, BASE["length"])  # type: ignore[arg-type]


@cache
def base() -> LanguageModel:
    """The pretrained model: one layer of width 32."""
    data, tokenizer = _corpus()
    config = LanguageModelConfig(
        vocabulary=len(tokenizer), width=32, layers=1, hidden=88, context=64
    )
    with one_thread():
        return pretrain(config, data.corpus, tokenizer, **BASE)  # type: ignore[arg-type]


@cache
def _whole(conflict: float) -> LanguageTask:
    data = generate(language(conflict))
    return LanguageTask.of(base(), data, _corpus()[1], beta=0.1, evaluation_rows=ROWS)


def language_task(conflict: float, rows: Literal["test", "validation"]) -> LanguageTask:
    """Post-training of the base model, with the held-out rows of one kind."""
    known, first = _whole(conflict), 0 if rows == "test" else ROWS
    own = torch.arange(first, first + ROWS)
    return replace(known, test_sft=known.test_sft.take(own), test_pairs=known.test_pairs.take(own))


def costs(conflict: float, batch: int, method: Method) -> tuple[float, float]:
    """What a method's gradients and updates cost beyond those of the model, by multiplications.

    Parameters
    ----------
    conflict, batch
        The problem, and rows of a gradient.
    method
        The method.

    Returns
    -------
    tuple of float
        Cost of a gradient, in those of the model alone, where tensors are added to it; and what
        each update costs beside its gradients, in gradients of a batch of demonstrations: features
        that are remembered have logits in all updates, as if the whole run were one stage.
    """
    rows = _whole(conflict).sft
    read = rows.ragged(torch.arange(len(rows))).tokens.numel() / len(rows)
    scored = int(rows.mask.sum()) / len(rows)
    shapes = {name: tuple(value.shape) for name, value in base().named_parameters()}
    each, beside = 1.0, 0.0
    if isinstance(method.parameters, Added):
        each = method.parameters.gradient_cost(shapes, read, scored)
    if isinstance(method.anchor, DrTune) and method.anchor.weight:
        # Logits, and the slope of the last layer.
        logits = 2 * method.anchor.count * prod(shapes[EMBEDDING])
        beside = logits / (batch * gradient_of(shapes, read, scored))
    return each, beside


@cache
def pair_cost(conflict: float) -> float:
    """Cost of a pair in units of a demonstration: tokens that the policy reads for each.

    A pair counts its prompt once, and both responses. The reference's log-probabilities are
    computed once for all runs and are not counted.
    """
    known = _whole(conflict)
    return _tokens(known.pairs) / _tokens(known.sft)


@cache
def response_cost(conflict: float) -> float:
    """Cost of a gradient of a written response in units of a demonstration, as :func:`pair_cost`.

    A response is taken to have as many tokens as one of a pair has on average. It is read after its
    own copy of the prompt.
    """
    known = _whole(conflict)
    tokens, mask = known.pairs.tokens.flatten(0, 1), known.pairs.mask.flatten(0, 1)
    return _tokens(Batch(tokens, mask, torch.arange(len(tokens)))) / _tokens(known.sft)


def _tokens(rows: Batch) -> float:
    """Mean number of tokens that the policy reads for a row."""
    return float(rows.ragged(torch.arange(len(rows))).tokens.numel() / len(rows))
