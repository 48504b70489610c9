"""Unpaired rows, each a response with a label, as KTO trains on; used only on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tradeoff.data._fields import label
from tradeoff.data.layouts import demonstration, preference_row
from tradeoff.data.record import Record
from tradeoff.data.rows import PreferenceRow, SftRow, Text


@dataclass(frozen=True)
class LabelledRow:
    """A response with a label, desired or not, and without a partner to compare it with."""

    row: SftRow
    desired: bool


def desired_row(record: Record) -> SftRow | None:
    """A demonstration; None for a response whose label says that it is not desired."""
    if label(record) is False:
        record.notes["rows left out whose label is false"] += 1
        return None
    return demonstration(record)


def labelled_or_pair(record: Record) -> LabelledRow | PreferenceRow:
    """A labelled row where there is a label, else a pair."""
    desired = None if record.has("chosen") or record.has("rejected") else label(record)
    if desired is None:
        return preference_row(record)
    return LabelledRow(demonstration(record), desired)


def pair_up(rows: Iterable[LabelledRow | PreferenceRow]) -> tuple[tuple[PreferenceRow, ...], int]:
    """Pair labelled rows of one prompt: the first desired with the first undesired, and so on.

    Returns
    -------
    tuple of PreferenceRow
        The given pairs, then the new ones in the order of their desired responses.
    int
        How many labelled rows found no partner.
    """
    pairs: list[PreferenceRow] = []
    desired: list[SftRow] = []
    others: dict[tuple[Text, str], list[SftRow]] = {}
    for item in rows:
        if isinstance(item, PreferenceRow):
            pairs.append(item)
        elif item.desired:
            desired.append(item.row)
        else:
            others.setdefault((item.row.prompt, item.row.extras), []).append(item.row)
    found = len(desired) + sum(map(len, others.values()))
    queues: dict[tuple[Text, str], Iterator[SftRow]] = {k: iter(v) for k, v in others.items()}
    made = 0
    for row in desired:
        partner = next(queues.get((row.prompt, row.extras), iter(())), None)
        if partner is None or partner.completion == row.completion:
            continue
        responses = row.completion, partner.completion
        pairs.append(PreferenceRow(row.prompt, *responses, extras=row.extras, origin=row.origin))
        made += 1
    return tuple(pairs), found - 2 * made
