"""Accuracy on multiple-choice questions, by the likeliest choice under the policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from tradeoff.data.choices import ChoiceRow
from tradeoff.display import Shown
from tradeoff.llm import batches
from tradeoff.llm._reference_values import evaluating
from tradeoff.llm.evaluation import questions, score
from tradeoff.llm.evaluation.policy import LoadedPolicy
from tradeoff.llm.evaluation.questions import Options, Style
from tradeoff.llm.evaluation.score import Score
from tradeoff.progress import tqdm

# Tokens of one pass; attention within a packed row costs the square of this number.
_TOKENS = {"cuda": 8192, "cpu": 512}
# Relative difference up to which values count as equal: packing changes the last digits.
_TIE = 1e-5


@dataclass(frozen=True, repr=False, eq=False)
class ChoiceScores(Shown):
    """Log-probabilities of each choice of each question under a policy.

    Attributes
    ----------
    rows
        The questions.
    log_probs
        log pi(choice | prompt) of each choice of each question, in nats.
    tokens, size
        Numbers of tokens and of UTF-8 bytes of each choice as it was scored.
    shortened
        Number of questions that were cut to the longest sequence.
    """

    rows: tuple[ChoiceRow, ...]
    log_probs: tuple[Float[np.ndarray, " _"], ...]
    tokens: tuple[Int[np.ndarray, " _"], ...]
    size: tuple[Int[np.ndarray, " _"], ...]
    shortened: int

    def hits(self, per: str = "sum") -> Float[np.ndarray, " n"]:
        """Score of each question: 1 if right, 0 if wrong, 1/k if k choices tie.

        Parameters
        ----------
        per
            "sum" compares log pi(choice); "token" and "byte" divide it by the choice's length.
        """
        lengths = {"sum": None, "token": self.tokens, "byte": self.size}[per]
        found = []
        for i, (row, values) in enumerate(zip(self.rows, self.log_probs, strict=True)):
            scaled = values if lengths is None else values / lengths[i]
            best = scaled >= scaled.max() * (1 + _TIE)  # log-probabilities are not positive
            found.append(best[row.answer] / best.sum())
        return np.array(found)

    def scores(self) -> tuple[Score, ...]:
        """Accuracy by subject and overall; overall also normalised accuracies and guessing."""
        subjects = [row.subject for row in self.rows]
        unknown = float("nan")
        chance = float(np.mean([1 / len(row.choices) for row in self.rows]))
        return (
            *score.shares("accuracy", self.hits(), subjects),
            score.share("accuracy_per_token", self.hits("token")),
            score.share("accuracy_per_byte", self.hits("byte")),
            Score("chance", chance, unknown, unknown, len(self.rows)),
        )

    def table(self) -> pd.DataFrame:
        """One row for each score."""
        return score.table(self.scores())

    def __repr__(self) -> str:
        found = score.share("accuracy", self.hits())
        ends = f"{found.low:.3f} to {found.high:.3f}"
        return f"<accuracy {found.value:.3f} ({ends}) on {found.n} questions>"


def multiple_choice(
    policy: LoadedPolicy,
    rows: Sequence[ChoiceRow],
    *,
    style: Style | None = None,
    shots: int = 0,
    examples: Sequence[ChoiceRow] | None = None,
    tokens_at_once: int | None = None,
    progress: bool = False,
) -> ChoiceScores:
    """Score every choice of every question; all choices share one pass over the question.

    Parameters
    ----------
    style, shots, examples
        See `tradeoff.llm.evaluation.questions.pose`.
    tokens_at_once
        Largest number of tokens of a pass, unless one question has more; by default it depends on
        the device.

    Raises
    ------
    InputError
        If questions cannot be posed in this way.
    """
    posed = questions.pose(rows, style=style, shots=shots, examples=examples)
    chat = bool(policy.scorer.config.chat)
    items, shortened = questions.tokenise(posed, policy.tokenizer, policy.max_length, chat=chat)
    budget = tokens_at_once or _TOKENS.get(policy.device.type, _TOKENS["cuda"])
    layout = _layout(policy, items)
    found: dict[int, Float[np.ndarray, " _"]] = {}
    with tqdm(total=len(items), desc="questions", disable=not progress, leave=False) as bar:
        for part in _parts(items, budget):
            values = _log_probs(policy, [items[i] for i in part], layout)
            found |= dict(zip(part, values, strict=True))
            bar.update(len(part))
    return ChoiceScores(
        tuple(rows),
        tuple(found[i] for i in range(len(items))),
        tuple(np.array([len(ids) - item.start for ids in item.sequences]) for item in items),
        tuple(np.array([len(text.encode()) - 1 for text in item.continuations]) for item in posed),
        shortened,
    )


def _parts(items: Sequence[Options], budget: int) -> Iterator[list[int]]:
    """Yield batches of questions of similar length that fit in a pass, longest first."""
    part: list[int] = []
    used = 0
    for place in sorted(range(len(items)), key=lambda i: -items[i].size):
        if part and used + items[place].size > budget:
            yield part
            part, used = [], 0
        part.append(place)
        used += items[place].size
    if part:
        yield part


@torch.no_grad()
def _log_probs(
    policy: LoadedPolicy, items: Sequence[Options], layout: batches.Layout
) -> list[Float[np.ndarray, " _"]]:
    batch = batches.options(items, layout, policy.scorer.pad).to(policy.device)
    with policy.scorer.autocast(), evaluating(policy.policy):
        values = policy.policy.responses(batch).double().cpu().numpy()
    return np.split(values, np.cumsum([len(item.sequences) for item in items])[:-1])


def _layout(policy: LoadedPolicy, items: Sequence[Options]) -> batches.Layout:
    """Choose the layout: one copy of each prompt, if a test on two short questions succeeds."""
    wanted: batches.Layout = "packed" if batches.by_bounds(policy.policy.attention) else "shared"
    if policy.scorer.config.layout == "padded":
        return "padded"
    few = sorted(items, key=lambda item: item.size)[:2]
    found, expected = (np.concatenate(_log_probs(policy, few, how)) for how in (wanted, "padded"))
    exact = policy.scorer.config.precision == "fp32"
    return wanted if np.allclose(found, expected, atol=1e-3 if exact else 0.1) else "padded"
