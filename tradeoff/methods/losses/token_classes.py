"""Losses of demonstrations whose tokens count by what they say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from tradeoff.errors import InputError
from tradeoff.methods.losses.base import TokenWeighted
from tradeoff.settings import NotNegative, Within

LargestWeight = Annotated[float, Within(1, 1e6)]


@dataclass(frozen=True, kw_only=True)
class ByClass(TokenWeighted):
    """Negative log-likelihood with a weight for each token, by a pattern of the response.

    Attributes
    ----------
    pattern
        Regular expression of the marked parts of a response. A token is marked as :func:`marked`
        says.
    """

    pattern: str

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise InputError(
                f"not a regular expression: {error}",
                field="pattern",
                value=self.pattern,
                remedy="Give one that Python's re reads.",
            ) from error


@dataclass(frozen=True, kw_only=True)
class TlTraining(ByClass):
    """SFT in which key tokens, which are few, count more (TL-Training).

    The weight of a key token is the number of other tokens over that of key tokens, between 1 and
    `most`. Where a response is one token, a demonstration is key if its prompt has another response
    in more demonstrations.

    Attributes
    ----------
    pattern
        Regular expression of the key parts of a response; by default numbers, single letters and
        quoted strings.
    most
        Largest weight of a key token, where others have 1; 1 is SFT.

    Notes
    -----
    Card S10. The published method takes the key tokens of calls of tools, and divides by the
    weights of a batch; this divides by their mean over all demonstrations. That no weight is below
    1 is ours. Its other parts, to leave out turns that end in errors and a graded reward, are not
    here. Costs nothing more.
    """

    name: ClassVar[str] = "tl_training"
    title: ClassVar[str] = "TL-Training"
    source: ClassVar[str] = "arXiv 2412.15495"
    pattern: str = r'\d+|\b\w\b|"[^"]*"'
    most: LargestWeight = 9.0

    def weights_of_tokens(self, pieces: Sequence[Sequence[str]]) -> list[np.ndarray]:
        marks = [marked(each, self.pattern) for each in pieces]
        weight = self._weight(sum(int(m.sum()) for m in marks), sum(map(len, marks)))
        return [np.where(each, weight, 1.0) for each in marks]

    def weights_of_rows(
        self,
        prompts: Int[np.ndarray, " n"],
        responses: Int[np.ndarray, " n"],
        shares: Float[np.ndarray, " n"],
    ) -> Float[np.ndarray, " n"]:
        marks = rarer(prompts, responses, shares)
        return np.where(marks, self._weight(float(shares[marks].sum()), float(shares.sum())), 1.0)

    def _weight(self, keys: float, every: float) -> float:
        """Weight of a key token: others for each of them, between 1 and the most."""
        return float(np.clip((every - keys) / keys, 1.0, self.most)) if keys else 1.0


@dataclass(frozen=True, kw_only=True)
class RationaleSft(ByClass):
    """SFT on answers, and with another weight on the rationale of each response.

    Attributes
    ----------
    pattern
        Regular expression of the parts of a response that are no answer; by default what stands
        before its last colon or ``####``, and what follows its first full stop.
    weight
        Weight of each token of a rationale, where one of an answer has 1; not negative. 0 is SFT on
        answers alone, and 1 is SFT.

    Notes
    -----
    Card S07, a transfer of an abstract, whose rows have a rationale of their own. Costs nothing
    more.
    """

    name: ClassVar[str] = "rationale_sft"
    title: ClassVar[str] = "rationale and answer"
    source: ClassVar[str] = "arXiv 2510.17532"
    by_token: ClassVar[bool] = True
    pattern: str = r"^.*(?::|####)\s|(?<=[.!?])\s.*$"
    weight: NotNegative = 0.5

    def weights_of_tokens(self, pieces: Sequence[Sequence[str]]) -> list[np.ndarray]:
        return [np.where(marked(each, self.pattern), self.weight, 1.0) for each in pieces]


def marked(pieces: Sequence[str], pattern: str) -> Bool[np.ndarray, " n"]:
    """Which tokens have a character, other than a space, of a match of the pattern in their text.

    A token of spaces alone is marked if all of them are.

    Examples
    --------
    >>> marked(["The", " result", " is", " 4", "2", "."], r"[0-9]+")
    array([False, False, False,  True,  True, False])
    """
    text = "".join(pieces)
    inside = np.zeros(len(text), dtype=bool)
    for match in re.finditer(pattern, text, re.DOTALL):
        inside[slice(*match.span())] = True
    spaces = np.array([c.isspace() for c in text], dtype=bool)
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    starts = ends - np.array([len(piece) for piece in pieces], dtype=np.int64)

    def counted(marks: Bool[np.ndarray, " c"]) -> Int[np.ndarray, " n"]:
        before = np.append(0, marks.cumsum())
        return np.asarray(before[ends] - before[starts])

    blank = counted(spaces) == ends - starts
    whole = blank & (ends > starts) & (counted(inside) == ends - starts)
    return np.asarray((counted(inside & ~spaces) > 0) | whole)


def rarer(
    prompts: Int[np.ndarray, " n"],
    responses: Int[np.ndarray, " n"],
    shares: Float[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Which demonstrations have a prompt of which another response is shown more often."""
    _, pair = np.unique(np.stack([prompts, responses]), axis=1, return_inverse=True)
    often = np.bincount(pair.ravel(), shares)[pair.ravel()]
    _, of = np.unique(prompts, return_inverse=True)
    most = np.zeros(of.max(initial=0) + 1)
    np.maximum.at(most, of, often)
    return np.asarray(often < most[of] * (1 - 1e-12))


def of_mean_one(weights: Sequence[Float[np.ndarray, " _"]]) -> list[Float[np.ndarray, " _"]]:
    """The weights of all tokens, divided by their mean over all of them.

    Raises
    ------
    InputError
        If no token has a weight.
    """
    total, count = sum(float(each.sum()) for each in weights), sum(map(len, weights))
    if not total > 0:
        raise InputError(
            "no token of the demonstrations has a weight",
            field="sft",
            remedy="Give another pattern, or other rows.",
        )
    mean = total / count
    return [each / mean for each in weights]
