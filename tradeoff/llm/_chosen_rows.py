"""Selection of training rows of a language model by a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff.errors import InputError
from tradeoff.llm._corpora import Corpora
from tradeoff.llm._data import Example, Pair, Tokenised, fingerprint
from tradeoff.methods import Method
from tradeoff.methods.transforms.retrieved import InContext
from tradeoff.schedules import OBJECTIVES, PREFERENCE, SFT


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Training rows of one objective, as the input of a data transform.

    Attributes
    ----------
    items, objective
        The rows as tokens, and their objective.
    """

    items: Tokenised[Any]
    objective: int

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n, sides) number of tokens of each response that carry loss."""
        sides = 2 if self.objective == PREFERENCE else 1
        found = np.empty((len(self.items), sides), dtype=np.int64)
        for place in range(len(self.items)):
            item = self.items[place]
            sequences = item.sequences if isinstance(item, Pair) else (item.tokens,)
            found[place] = [len(sequence) - item.start for sequence in sequences]
        return found

    def log_probs(self) -> NDArray[np.float64]:
        """Raise an error: rows are chosen before the policy runs."""
        raise InputError(
            "rows are chosen before the policy runs",
            field="data",
            remedy="Give the transform's `unsupported` a reason for language models.",
        )


def choose(data: Corpora, method: Method, max_length: int) -> Corpora:
    """The data sets, with only those training rows that a method keeps.

    Demonstrations have others before them where the method shows some, as many as fit into
    sequences of `max_length` tokens. The chosen rows have their own fingerprint, by which caches
    and checkpoints distinguish them from all rows.

    Raises
    ------
    InputError
        If the method cannot choose rows of language models, or keeps none.
    """
    if "data" not in method.changed():
        return data
    method.check("llm")
    parts: dict[str, Any] = {}
    for objective, name in ((o, OBJECTIVES[o]) for o in (SFT, PREFERENCE)):
        given = data.training(objective)
        places = method.data.chosen(TokenRows(given, objective))
        items = tuple(given[int(place)] for place in places)
        if objective == SFT and isinstance(method.data, InContext):
            items = _in_context(items, method.data, max_length)
        rows = [int(given.rows[int(place)]) for place in places]
        parts[name] = replace(given, items=items, rows=rows, fingerprint=fingerprint(items))
    return replace(data, **parts)


def _in_context(items: Sequence[Example], shows: InContext, max_length: int) -> tuple[Example, ...]:
    """Demonstrations with others before them, whose tokens carry no loss."""
    found = []
    places = shows.shown([item.tokens[: item.start] for item in items])
    for item, shown in zip(items, places, strict=True):
        before: list[NDArray[np.int64]] = []
        room = max_length - len(item.tokens)
        for place in reversed(shown):
            room -= len(items[place].tokens)
            if room < 0:
                break
            before.insert(0, items[place].tokens)
        tokens = np.concatenate([*before, item.tokens])
        found.append(Example(tokens, len(tokens) - item.scored))
    return tuple(found)
