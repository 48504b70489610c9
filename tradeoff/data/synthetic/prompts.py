"""Who asks what: prompts drawn without repetition from one side of the train / held-out split.

Each prompt opens with the name of who asks. To some, demonstrations answer in the preferred
style; to the others in the contrary one. `Language.conflict` is the share of prompts that come
from the others: a demonstration is thus a function of its prompt at every level of conflict, and
exact match can reach 1 at each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tradeoff import draws
from tradeoff.data.synthetic.settings import Language
from tradeoff.data.synthetic.skills import SKILLS, Problem, Skill
from tradeoff.errors import InputError

ASKERS = (
    ("Ann", "Eve", "Ida", "Mia", "Ada", "Lea", "Zoe", "Una"),
    ("Ben", "Tom", "Max", "Jon", "Sam", "Rob", "Leo", "Kai"),
)
"""Who is answered in the preferred style, and who in the contrary one."""
TRAIN, TEST = 0, 1
"""The sides of the split."""
_SPLIT, _CONFLICT = 0, 1


@dataclass(frozen=True)
class Prompt:
    """A problem as someone asks it; `contrary` if demonstrations answer them contrarily."""

    skill: Skill
    problem: Problem
    asker: str
    contrary: bool

    @property
    def text(self) -> str:
        """What the model reads; a response starts on the next line."""
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
        Of the skill.
    count
        How many prompts.
    side
        `TRAIN` or `TEST`; the side belongs to the problem, whoever asks.
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
    # The draw belongs to the prompt: more conflict only turns more of them contrary.
    contrary = _uniform(language, number, _CONFLICT, found) < language.conflict
    return [
        Prompt(skill, skill.problem(code // people), ASKERS[turned][code % people], turned)
        for code, turned in zip(found.tolist(), contrary.tolist(), strict=True)
    ]


def _uniform(
    language: Language, skill: int, stream: int, counter: NDArray[np.int64]
) -> NDArray[np.float64]:
    """A draw for each counter that depends on nothing else but the seed and the skill."""
    return draws.uniform(draws.keys(language.seed, skill, stream), counter)
