"""Prompts, drawn without repetition from one side of the train / held-out split.

Each prompt opens with the name of the person who asks. Demonstrations answer some people in the
preferred style, and the others in the contrary style. `Language.conflict` is the share of prompts
from the others. So a demonstration is a function of its prompt at every level of conflict, and
exact match can always reach 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tradeoff import draws
from tradeoff.data.synthetic.settings import Language
from tradeoff.data.synthetic.skills import SKILLS, Skill, SkillProblem
from tradeoff.errors import InputError

ASKERS = (
    ("Ann", "Eve", "Ida", "Mia", "Ada", "Lea", "Zoe", "Una"),
    ("Ben", "Tom", "Max", "Jon", "Sam", "Rob", "Leo", "Kai"),
)
"""Names of people who are answered in the preferred style, and in the contrary style."""
TRAIN, TEST = 0, 1
"""The sides of the split."""
_SPLIT, _CONFLICT = 0, 1


@dataclass(frozen=True)
class Prompt:
    """A problem and the name of who asks it; `contrary` if the demonstration has that style."""

    skill: Skill
    problem: SkillProblem
    asker: str
    contrary: bool

    @property
    def text(self) -> str:
        """The text that the model reads; a response starts on the next line."""
        return f"{self.asker}: {self.problem.question}\n"


def draw_prompts(
    language: Language, name: str, count: int, side: int, *, stream: int = 0, repeat: bool = False
) -> list[Prompt]:
    """Prompts of a skill from one side of the split, in random order.

    Parameters
    ----------
    language
        Its seed, conflict and held-out share are used.
    name
        Name of the skill.
    count
        How many prompts.
    side
        `TRAIN` or `TEST`; the side depends on the problem, not on who asks.
    stream
        Draws of different streams are independent.
    repeat
        Whether a prompt may come twice.

    Raises
    ------
    InputError
        If that side has too few different prompts.
    """
    skill, number = SKILLS[name], list(SKILLS).index(name)
    people = len(ASKERS[0])
    total = skill.size * people
    share = language.held_out if side == TEST else 1 - language.held_out
    rng = np.random.default_rng((language.seed, number, side, stream))
    enough = int(1.2 * count / share) + 200
    for size in (enough, 2 * enough) if repeat else (min(total, enough), total):
        codes = rng.choice(total, size, replace=repeat)
        held_out = _uniform(language, number, _SPLIT, codes // people) < language.held_out
        found = codes[held_out == (side == TEST)][:count]
        if len(found) == count:
            break
    else:
        raise InputError(
            f"the skill {name!r} has only {len(found)} prompts on this side of the split",
            field="test_rows" if side == TEST else "sft_rows",
            value=count,
            remedy="Ask for fewer rows, or use more skills.",
        )
    # The draw depends on the prompt alone: more conflict only makes more prompts contrary.
    contrary = _uniform(language, number, _CONFLICT, found) < language.conflict
    return [
        Prompt(skill, skill.problem(code // people), ASKERS[turned][code % people], turned)
        for code, turned in zip(found.tolist(), contrary.tolist(), strict=True)
    ]


def _uniform(
    language: Language, skill: int, stream: int, counter: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Uniform draws, one for each counter; they depend on seed, skill and stream only."""
    return draws.uniform(draws.keys(language.seed, skill, stream), counter)
