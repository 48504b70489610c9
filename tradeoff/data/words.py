"""Words of any script; in scripts without blanks between words, each letter is a word."""

from __future__ import annotations

import re

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u109f"  # Tibetan, Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
    "\uff66-\uff9f"  # narrow Katakana
)
"""Letters of scripts without blanks between words, as a set for a regular expression."""
PATTERN = rf"[{UNSPACED}]|[^\W{UNSPACED}]+"
"""Matches one word."""
_WORD = re.compile(PATTERN)
_LETTER = re.compile(rf"[{UNSPACED}]")


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text)


def count(text: str) -> int:
    """Number of words between blanks; in scripts without blanks each letter counts."""
    return len(text.split() if text.isascii() else _LETTER.sub(" x ", text).split())


def is_unspaced(text: str) -> bool:
    """Whether most letters of a text are of a script without blanks."""
    if text.isascii():
        return False
    letters = len(_LETTER.findall(text))
    return 2 * letters > letters + sum(len(word) for word in _LETTER.sub(" ", text).split())
