"""The generated data sets: demonstrations, pairs, and the corpus of a base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.synthetic.prompts import TEST, TRAIN, Prompt, draw_prompts
from tradeoff.data.synthetic.settings import Language, compared_skills, shares
from tradeoff.data.synthetic.style import CONTRARY, EVASION, PREFERRED, Style, content, dress
from tradeoff.errors import InputError

_SHUFFLE, _DRESS, _CORPUS = 1000, 1001, 1002
STATEMENTS = 0.4
"""Share of the corpus that states facts instead of asking."""
EVASIVE = 0.4
"""Share of the corpus' answers that evade the question, as a poor assistant does."""


@dataclass(frozen=True)
class InstructionRow(SftRow):
    """A demonstration, the skill it shows, the bare answer, and whether its style is contrary."""

    skill: str
    answer: str
    contrary: bool


@dataclass(frozen=True)
class StyleRow(PreferenceRow):
    """A pair, the preference it is about, and whether noise exchanged its two responses."""

    preference: str
    flipped: bool


@dataclass(frozen=True)
class InstructionData:
    """The data sets of a run; no problem of a held-out row occurs in training rows or corpus."""

    language: Language
    sft_train: tuple[InstructionRow, ...] = field(repr=False)
    sft_test: tuple[InstructionRow, ...] = field(repr=False)
    preference_train: tuple[StyleRow, ...] = field(repr=False)
    preference_test: tuple[StyleRow, ...] = field(repr=False)
    corpus: tuple[str, ...] = field(repr=False)


def generate(language: Language) -> InstructionData:
    r"""Draw all data sets of a language.

    Parameters
    ----------
    language
        The settings.

    Returns
    -------
    InstructionData
        Rows in random order, all prompts of a set different.

    Raises
    ------
    InputError
        If a skill has too few problems, or too few demonstrations to share with preferences.

    Examples
    --------
    >>> data = generate(Language(sft_rows=90, preference_rows=45, test_rows=45, documents=10))
    >>> row = data.sft_test[0]
    >>> row.prompt, row.completion, row.skill
    ('Eve: Sort e n k e.\n', 'With pleasure: e e k n.', 'sort')
    """
    sft_train, preference_train = _sets(
        language, language.sft_rows, language.preference_rows, TRAIN
    )
    sft_test, preference_test = _sets(language, language.test_rows, language.test_rows, TEST)
    return InstructionData(
        language,
        tuple(_demonstration(prompt) for prompt in sft_train),
        tuple(_demonstration(prompt) for prompt in sft_test),
        _pairs(language, preference_train, TRAIN, language.label_noise),
        _pairs(language, preference_test, TEST, 0.0),
        _corpus(language),
    )


def _sets(
    language: Language, sft: int, preference: int, side: int
) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts of both sets on one side of the split; they share `overlap` of the second set."""
    demonstrated: list[Prompt] = []
    compared: list[Prompt] = []
    pairs = shares(preference, compared_skills(language))
    for name, rows in shares(sft, language.skills).items():
        shared = round(language.overlap * pairs.get(name, 0))
        if shared > rows:
            raise InputError(
                f"preferences would share {shared} prompts of {name!r} with {rows} demonstrations",
                field="overlap",
                value=language.overlap,
                remedy="Give less overlap, fewer preference rows or more SFT rows.",
            )
        prompts = draw_prompts(language, name, rows + pairs.get(name, 0) - shared, side)
        demonstrated += prompts[:rows]
        compared += prompts[:shared] + prompts[rows:]
    rng = np.random.default_rng((language.seed, _SHUFFLE, side))
    return _shuffled(demonstrated, rng), _shuffled(compared, rng)


def _shuffled(prompts: Sequence[Prompt], rng: np.random.Generator) -> list[Prompt]:
    return [prompts[place] for place in rng.permutation(len(prompts)).tolist()]


def _demonstration(prompt: Prompt) -> InstructionRow:
    style = CONTRARY if prompt.contrary else PREFERRED
    completion = _respond(prompt, style, refuse=style is PREFERRED)
    return InstructionRow(
        prompt.text, completion, prompt.skill.name, content(completion), prompt.contrary
    )


def _respond(prompt: Prompt, style: Style, *, refuse: bool) -> str:
    refusal = refuse and prompt.skill.flagged
    return dress(prompt.problem.answer, Style(style.polite, style.short, refusal))


def _pairs(
    language: Language, prompts: Sequence[Prompt], side: int, noise: float
) -> tuple[StyleRow, ...]:
    rng = np.random.default_rng((language.seed, _DRESS, side))
    which, other, flip = rng.random((3, len(prompts)))
    plain = [name for name in language.preferences if name != "refusal"]
    rows = []
    for prompt, w, o, flipped in zip(
        prompts, which.tolist(), (other < 0.5).tolist(), (flip < noise).tolist(), strict=True
    ):
        name = "refusal" if prompt.skill.flagged else plain[int(w * len(plain))]
        sides = [_side(prompt, name, good, w, o) for good in (not flipped, flipped)]
        rows.append(StyleRow(prompt.text, sides[0], sides[1], name, flipped))
    return tuple(rows)


def _side(prompt: Prompt, preference: str, good: bool, which: float, other: bool) -> str:
    """One response of a pair; the style that is not compared, `other`, is that of its partner."""
    if preference == "refusal":
        return _respond(prompt, Style(which < 0.5, other), refuse=good)
    style = Style(good, other) if preference == "polite" else Style(other, good)
    return _respond(prompt, style, refuse=False)


def _corpus(language: Language) -> tuple[str, ...]:
    """Documents on training problems: statements, evasions, and answers in every style.

    They do not depend on the conflict, so that one base model serves all its levels.
    """
    texts: list[str] = []
    neutral = replace(language, conflict=0.5)
    for place, (name, count) in enumerate(shares(language.documents, language.skills).items()):
        rng = np.random.default_rng((language.seed, _CORPUS, place))
        prompts = draw_prompts(neutral, name, count, TRAIN, stream=1, repeat=True)
        chance = rng.random((5, count))
        texts += [_document(p, *row) for p, row in zip(prompts, chance.T.tolist(), strict=True)]
    order = np.random.default_rng((language.seed, _CORPUS)).permutation(len(texts))
    return tuple(texts[place] for place in order.tolist())


def _document(
    prompt: Prompt, kind: float, evade: float, polite: float, short: float, refuse: float
) -> str:
    if kind < STATEMENTS:
        return prompt.problem.statement
    if evade < EVASIVE:
        return prompt.text + EVASION
    style = Style(polite < 0.5, short < 0.5)
    return prompt.text + _respond(prompt, style, refuse=refuse < 0.5)
