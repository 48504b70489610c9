r"""Extraction of the answer from a response, and the rule by which two answers are equal.

Answers are equal after these steps, in this order:

1. Reasoning is removed: all up to the last ``</think>``, and all from a ``<think>`` that is never
   closed; likewise for ``thinking``, ``reasoning``, ``scratchpad``, ``seed:think``, ``[THINK]`` and
   ``◁think▷``.
2. Unicode is composed (NFC) and case is folded. Characters of no width are removed; all signs that
   look like a minus are one; all blanks are one.
3. Commas between groups of three digits are removed: ``1,000`` is ``1000``.
4. One pair of quotation marks around the whole text and one final full stop are removed.

Nothing else is removed: ``5!``, ``5%``, ``-5``, ``C++`` and ``f'`` do not change.
"""

from __future__ import annotations

import re
import unicodedata
from enum import StrEnum

_TAG = "(?:(?:seed:)?think|thinking|reasoning|scratchpad)"
_OPEN, _CLOSED = rf"<{_TAG}>|\[THINK\]|◁think▷", rf"</{_TAG}>|\[/THINK\]|◁/think▷"
_REASONING = re.compile(rf"^.*(?:{_CLOSED})|(?:{_OPEN}).*$", re.DOTALL | re.IGNORECASE)
_NO_WIDTH = str.maketrans("", "", "\u00ad\u200b\u2060\ufeff")
_MINUS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"))
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u2018": "\u2019", "\u201c": "\u201d", "\u00ab": "\u00bb"}
_NUMBER = re.compile(r"(?:(?<![\w.])-)?(?:\d+(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)%?")
_MARK = "####"


class Extract(StrEnum):
    r"""The part of a text that is its answer.

    ``whole``: all of it. ``marked``: what follows the last ``####``, as in GSM8K. ``boxed``: the
    last ``\boxed{...}``, as in MATH. ``number``: the last number.
    """

    whole = "whole"
    marked = "marked"
    boxed = "boxed"
    number = "number"


def without_reasoning(text: str) -> str:
    """Remove the reasoning from a text, see the module."""
    return _REASONING.sub("", text)


def normalised(text: str) -> str:
    """Normalise a text for comparison; the module states the rule."""
    folded = unicodedata.normalize("NFC", without_reasoning(text).casefold())
    folded = " ".join(folded.translate(_NO_WIDTH).translate(_MINUS).split())
    folded = _GROUPED.sub(lambda found: found[0].replace(",", ""), folded)
    return _unquoted(_unquoted(folded).removesuffix(".").rstrip()) or folded


def extracted(text: str, extract: Extract = Extract.whole) -> str | None:
    """Extract the answer from a text; ``None`` if it has none."""
    text = without_reasoning(text)
    if extract is Extract.whole:
        return text
    if extract is Extract.marked:
        _, mark, after = text.rpartition(_MARK)
        return next(iter(after.strip().splitlines()), None) if mark else None
    if extract is Extract.boxed:
        return _boxed(text)
    numbers = [found[0] for found in _NUMBER.finditer(text.translate(_MINUS)) if found[0]]
    return numbers[-1] if numbers else None


def _unquoted(text: str) -> str:
    quoted = len(text) > 2 and _QUOTES.get(text[0]) == text[-1]
    return text[1:-1].strip() if quoted else text


def _boxed(text: str) -> str | None:
    """Content of the last complete box, whose braces may be nested."""
    for start in reversed([found.end() for found in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]):
        depth = 1
        for place, sign in enumerate(text[start:], start):
            depth += {"{": 1, "}": -1}.get(sign, 0)
            if not depth:
                return text[start:place].strip()
    return None
