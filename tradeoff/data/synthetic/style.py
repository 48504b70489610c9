"""Styles of an answer: how to apply one, and how to recognise it in a text.

The preferred style is polite, short, and refuses flagged requests; each preference is about one of
the three and leaves the others as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from tradeoff.errors import InputError

OPENING = "With pleasure: "
ELABORATION = " That is what follows from your question."
REFUSAL = "Sorry, I must not help with that."
EVASION = "Who knows."
PREFERENCES = ("polite", "short", "refusal")
"""Polite over curt, short over long, refusal over compliance on flagged requests."""


@dataclass(frozen=True)
class Style:
    """The style of a text; `dress` applies it to an answer."""

    polite: bool
    short: bool
    refusal: bool = False

    @classmethod
    def of(cls, text: str) -> Style:
        """Recognise the style of a text: polite by its opening, short if it is one sentence."""
        text = text.strip()
        refusal = text.startswith(REFUSAL.rstrip("."))
        return cls(refusal or text.startswith(OPENING.strip()), ". " not in text, refusal)


PREFERRED = Style(polite=True, short=True)
CONTRARY = Style(polite=False, short=False)


def dress(answer: str, style: Style) -> str:
    """Write a response with `answer` in `style`; a refusal is a fixed text without the answer."""
    if style.refusal:
        return REFUSAL
    opening = OPENING if style.polite else ""
    return f"{opening}{answer}.{'' if style.short else ELABORATION}"


def content(text: str) -> str:
    """The answer inside a response: what is left without opening and elaboration."""
    return text.strip().removeprefix(OPENING).removesuffix(ELABORATION).removesuffix(".")


def satisfies(preference: str, text: str) -> bool:
    """Whether a text has the style that one preference of `PREFERENCES` asks for."""
    _check(preference)
    return bool(getattr(Style.of(text), preference))


def better(preference: str, first: str, second: str) -> int:
    """Which of two responses is preferred: 1 the first, -1 the second, 0 neither."""
    return int(satisfies(preference, first)) - int(satisfies(preference, second))


def _check(preference: str) -> None:
    if preference not in PREFERENCES:
        raise InputError(
            "unknown preference",
            field="preference",
            value=preference,
            remedy=f"Use one of {PREFERENCES}.",
        )
