"""The settings of the instruction language and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tradeoff.data.synthetic.skills import SKILLS
from tradeoff.data.synthetic.style import PREFERENCES
from tradeoff.errors import InputError
from tradeoff.settings import Seed, Share, Within, check

Number = Annotated[int, Within(0, 10**8), "It counts rows."]


@dataclass(frozen=True, kw_only=True)
class Language:
    """Settings of the generated data.

    Attributes
    ----------
    seed
        Fixes every row. The same seed draws the same problems at every level of conflict.
    conflict
        Probability, in [0, 1], that a prompt comes from someone whom demonstrations answer in the
        style that the preferences reject. At 0 the two objectives agree; at 1 they contradict each
        other wherever both apply.
    overlap
        Share of the preference prompts, in [0, 1], that are prompts of demonstrations too.
    label_noise
        Probability, in [0, .5), that a training pair has chosen and rejected exchanged. Held-out
        pairs are clean.
    sft_rows, preference_rows, test_rows, documents
        Sizes of the training sets, of each of the two held-out sets, and of the corpus.
    held_out
        Share of all problems that only the held-out sets may use.
    skills, preferences
        Names that take part, out of `SKILLS` and `PREFERENCES`, in equal shares.
    """

    seed: Seed = 0
    conflict: Share = 0.5
    overlap: Share = 0.5
    label_noise: Annotated[float, Within(0, 0.5, "[)")] = 0.0
    sft_rows: Number = 8000
    preference_rows: Number = 4000
    test_rows: Number = 900
    documents: Number = 40_000
    held_out: Annotated[float, Within(0, 1, "()")] = 0.2
    skills: tuple[str, ...] = tuple(SKILLS)
    preferences: tuple[str, ...] = PREFERENCES

    def __post_init__(self) -> None:
        check(self)
        _check_names(self, "skills", tuple(SKILLS))
        _check_names(self, "preferences", PREFERENCES)
        self._check_preferences_apply()

    def _check_preferences_apply(self) -> None:
        kinds = {"refusal" if SKILLS[name].flagged else "polite or short" for name in self.skills}
        wanted = {"refusal" if p == "refusal" else "polite or short" for p in self.preferences}
        if missing := wanted - kinds:
            raise InputError(
                f"no skill has prompts for {missing.pop()}",
                field="preferences",
                value=self.preferences,
                remedy="Refusal needs the skill 'flagged', the other preferences another one.",
            )


def compared_skills(language: Language) -> tuple[str, ...]:
    """The skills with prompts for some preference of the language."""
    refusal, other = "refusal" in language.preferences, set(language.preferences) - {"refusal"}
    return tuple(
        name for name in language.skills if (refusal if SKILLS[name].flagged else bool(other))
    )


def shares(total: int, names: tuple[str, ...]) -> dict[str, int]:
    """Split a number as evenly as possible; the first names get the remainder."""
    each, rest = divmod(total, len(names))
    return {name: each + (place < rest) for place, name in enumerate(names)}


def _check_names(language: Language, name: str, known: tuple[str, ...]) -> None:
    chosen = getattr(language, name)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        remedy = f"Give different names out of {known}, at least one."
        raise InputError("unknown, repeated or no name", field=name, value=chosen, remedy=remedy)
