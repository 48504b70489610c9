"""Near duplicates of held-out rows among the training rows, found by MinHash.

Broder, *On the resemblance and containment of documents* (1997): the share of equal minima of two
sets under random orders estimates their Jaccard similarity. Candidates are then compared exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt64

from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.data.words import words

Hashes = UInt64[np.ndarray, " _"]
Row = SftRow | PreferenceRow
NEAR = 0.8
"""Least Jaccard similarity, over runs of words, of two rows that are near duplicates."""
MANY = 200_000
"""Largest number of training rows in which near duplicates are searched (150 microseconds each)."""
_RUN = 5
_BANDS, _PER_BAND = 8, 2
_AT_ONCE = 512


@dataclass(frozen=True)
class Overlap:
    """How many of the held-out rows occur among the training rows.

    Attributes
    ----------
    rows
        Number of held-out rows.
    equal
        Number of rows whose words are those of a training row, in the same order.
    near
        Number of further rows with similarity `NEAR` or more, by runs of five words.
    """

    rows: int
    equal: int
    near: int


def overlap(test: Sequence[Row], *train: Sequence[Row]) -> Overlap:
    """Count the held-out rows that equal or nearly repeat a training row.

    Parameters
    ----------
    test
        Held-out rows, compared by prompt and completion, or by prompt and chosen response.
    train
        Training rows of one or both sets; beyond `MANY` only equal rows are counted.
    """
    return overlaps([test], *train)[0]


def overlaps(tests: Sequence[Sequence[Row]], *train: Sequence[Row]) -> list[Overlap]:
    """Compute `overlap` of several sets with the same training rows in one pass."""
    together = [row for test in tests for row in test]
    if not together:
        return [Overlap(0, 0, 0) for _ in tests]
    few = sum(map(len, train)) <= MANY
    best = _best(together, train) if few else _equal(together, train)
    found, first = [], 0
    for test in tests:
        own = best[first : first + len(test)]
        first += len(test)
        equal = int((own == 1).sum())
        found.append(Overlap(len(test), equal, int((own >= NEAR).sum()) - equal))
    return found


def repeated(rows: Sequence[Row]) -> dict[str, int]:
    """Count rows that equal an earlier row, and pairs that another pair states the other way round.

    The names of the counts are ``repeated_rows`` and ``contradicted_pairs``; zeros are left out.
    """
    hashes = np.fromiter(map(hash, map(_sides, rows)), np.int64, len(rows))
    turned = (hash(_sides(row)[::-1]) for row in rows if isinstance(row, PreferenceRow))
    counts = {
        "repeated_rows": len(rows) - len(np.unique(hashes)),
        "contradicted_pairs": int(np.isin(hashes, np.fromiter(turned, np.int64)).sum()),
    }
    return {name: count for name, count in counts.items() if count}


def _sides(row: Row) -> tuple[object, ...]:
    """The responses of a row, each with its prompt."""
    sides = (row.completion,) if isinstance(row, SftRow) else (row.chosen, row.rejected)
    return tuple((row.prompt, row.extras, side) for side in sides)


def _equal(test: Sequence[Row], train: Sequence[Sequence[Row]]) -> Float[np.ndarray, " _"]:
    """1 for each row whose words are those of a training row, else 0."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(test):
        places[hash(tuple(_words(row)))].append(place)
    best = np.zeros(len(test))
    for rows in train:
        for row in rows:
            for place in places.get(hash(tuple(_words(row))), ()):
                best[place] = float(_words(test[place]) == _words(row)) or best[place]
    return best


def _best(test: Sequence[Row], train: Sequence[Sequence[Row]]) -> Float[np.ndarray, " _"]:
    """Largest similarity of each row with the training rows that share a band with it."""
    signer = _Signer()
    runs: list[Hashes] = []
    keys: list[Int[np.ndarray, "rows bands"]] = []
    for some_runs, some_keys in signer.signed(test):
        runs += some_runs
        keys.append(some_keys)
    table = np.concatenate(keys)
    places: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(_BANDS)]
    for row, bands in enumerate(table.tolist()):
        for band, key in enumerate(bands):
            places[band][key].append(row)
    known = [np.unique(table[:, band]) for band in range(_BANDS)]
    best = np.zeros(len(test))
    for rows in train:
        for some_runs, some_keys in signer.signed(rows):
            for band in range(_BANDS):
                for row in np.flatnonzero(np.isin(some_keys[:, band], known[band])).tolist():
                    for place in places[band][int(some_keys[row, band])]:
                        if best[place] < 1:
                            found = _similarity(runs[place], some_runs[row])
                            best[place] = max(best[place], found)
    return best


def _similarity(first: Hashes, second: Hashes) -> float:
    """Jaccard similarity of two sets of runs; 1 only for equal sequences."""
    if np.array_equal(first, second):
        return 1.0
    shared = len(np.intersect1d(first, second))
    return min(shared / (len(np.unique(first)) + len(np.unique(second)) - shared), 0.999)


def _words(row: Row) -> list[str]:
    answer = row.completion if isinstance(row, SftRow) else row.chosen
    return words(f"{as_text(row.prompt)} {as_text(answer)}".casefold())


class _Signer:
    """MinHash of rows: hashes of their runs of words, and the keys of their bands."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        rng = np.random.default_rng(0)
        draw = rng.integers(1, 2**63, size=(_RUN + _BANDS * _PER_BAND, 1), dtype=np.uint64) * 2 + 1
        self.weights, self.orders = draw[:_RUN, 0], draw[_RUN:]

    def signed(
        self, rows: Sequence[Row]
    ) -> Iterator[tuple[list[Hashes], Int[np.ndarray, "rows bands"]]]:
        """Yield runs and keys, some rows at a time."""
        for first in range(0, len(rows), _AT_ONCE):
            runs = [self._runs(row) for row in rows[first : first + _AT_ONCE]]
            starts = np.cumsum([0, *(len(x) for x in runs[:-1])])
            mixed = np.concatenate(runs)[None] * self.orders
            minima = np.minimum.reduceat(mixed ^ (mixed >> np.uint64(29)), starts, axis=1)
            pairs = minima.reshape(_BANDS, _PER_BAND, len(runs)) * self.weights[:_PER_BAND, None]
            yield runs, np.bitwise_xor.reduce(pairs, axis=1).T.view(np.int64)

    def _runs(self, row: Row) -> Hashes:
        """Hash every run of five words; a shorter text is one run."""
        index = self.words
        ids = np.array([index.setdefault(w, len(index) + 1) for w in _words(row)], np.uint64)
        ids = np.concatenate([ids, np.zeros(max(0, _RUN - len(ids)), np.uint64)])
        found = np.zeros(len(ids) - _RUN + 1, np.uint64)
        for i, weight in enumerate(self.weights):
            found += ids[i : i + len(found)] * weight
            found ^= found >> np.uint64(31)
        return found
