"""Demonstrations made of preference pairs: each prompt with its chosen response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from tradeoff.data.files import Rows
from tradeoff.data.rows import PreferenceRow, SftRow


def chosen_as_sft(pairs: Sequence[PreferenceRow]) -> Sequence[SftRow]:
    """SFT rows from the chosen side of pairs.

    SFT on these rows makes the usual reference of DPO where there are no other demonstrations
    (Rafailov et al., arXiv 2305.18290, section 4). The official code of arXiv 2410.15483 uses such
    a reference in its run of DPO followed by SFT.

    Parameters
    ----------
    pairs
        J pairs, at least one.

    Returns
    -------
    Sequence[SftRow]
        J rows in the order of the pairs. From :class:`tradeoff.data.Rows` come `Rows` with the same
        source.

    Examples
    --------
    >>> from tradeoff.data import PreferenceRow, chosen_as_sft
    >>> chosen_as_sft([PreferenceRow("Say hello.", "Hello!", "No.")])
    (SftRow(prompt='Say hello.', completion='Hello!'),)
    """
    # Fields that both kinds of row have, such as the prompt, are copied.
    shared = {field.name for field in fields(SftRow)} & {
        field.name for field in fields(PreferenceRow)
    }
    rows = tuple(
        SftRow(completion=pair.chosen, **{name: getattr(pair, name) for name in shared})
        for pair in pairs
    )
    if isinstance(pairs, Rows):
        made: Any = replace(pairs, rows=rows)
        return made
    return rows
