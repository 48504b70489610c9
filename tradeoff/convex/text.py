"""Real text as a log-linear problem: each prompt chooses among a few responses.

A response y to a prompt x has the features

    phi(x, y) = [psi(y), overlap(x, y) psi(y), dense(x, y)],

where psi(y) has hashed words, word pairs and character triples (norm at most 1). overlap and the
entries of dense lie in [0, 1], so that |phi| <= sqrt(5). Features ignore case; words are those of
`tradeoff.data.words`. Hashing needs no vocabulary, so training and held-out rows have the same
features, and parameters trained on one can be evaluated on the other. Another psi can take the
place of hashed words, such as the states of a language model (`tradeoff.llm.pooled`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from tradeoff.convex._crossed import CrossedFeatures
from tradeoff.convex.log_linear import LogLinear
from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.data.words import PATTERN, words
from tradeoff.errors import InputError
from tradeoff.extras import needing
from tradeoff.settings import Positive, Seed, Within, checked

Candidates = Annotated[int, Within(2, 10**6)]
Width = Annotated[int, Within(2, 2**24)]
Features = Callable[[Sequence[str]], Any]
"""Maps n responses to (n, m) features psi, whose rows have a norm of at most 1."""
_LONG = 10_000
"""Characters of the shortest response whose length feature is 1."""


class TextArrays(NamedTuple):
    """Data for `LogLinear`: features, and the feature rows of the data points."""

    features: CrossedFeatures
    offsets: Int[np.ndarray, " P1"]
    demonstrations: Int[np.ndarray, " M"]
    chosen: Int[np.ndarray, " J"]
    rejected: Int[np.ndarray, " J"]


@checked
def text_problem(
    sft_rows: Sequence[SftRow],
    preference_rows: Sequence[PreferenceRow],
    *,
    radius: Positive,
    candidates: Candidates = 8,
    seed: Seed = 0,
    n_features: Width = 2**14,
    pool: Collection[str] = (),
    features: Features | None = None,
    **settings: Any,
) -> LogLinear:
    """Build the convex problem of SFT and DPO on real rows.

    Parameters have the same meaning in all problems with the same ``n_features``.

    Parameters
    ----------
    sft_rows, preference_rows
        Data of the two objectives, at least one row each.
    radius
        Radius of the ball of parameters.
    candidates
        Responses of an SFT prompt: its completion and ``candidates - 1`` different ones of other
        rows, or as many as there are.
    seed
        Seed of the draw of these completions.
    n_features
        Width of psi; d = 2 n_features + 3.
    pool
        Further responses that may be alternatives of SFT prompts, such as those of the pairs.
        Without them the SFT loss does not depend on features that no demonstration has.
    features
        psi in place of hashed words; ``n_features`` then has no effect.
    **settings
        ``beta``, ``label_smoothing``, ``reference`` and other attributes of `LogLinear`.

    Raises
    ------
    InputError
        If there are no rows or fewer than two distinct completions, a parameter is out of range, or
        scikit-learn is not installed.
    """
    arrays = assemble(
        sft_rows,
        preference_rows,
        candidates=candidates,
        seed=seed,
        n_features=n_features,
        pool=pool,
        features=features,
    )
    return LogLinear(*arrays, radius=radius, **settings)


@checked
def assemble(
    sft_rows: Sequence[SftRow],
    preference_rows: Sequence[PreferenceRow],
    *,
    candidates: Candidates = 8,
    seed: Seed = 0,
    n_features: Width = 2**14,
    pool: Collection[str] = (),
    features: Features | None = None,
) -> TextArrays:
    """Arrange the responses of all prompts; parameters and errors are those of `text_problem`.

    The prompts of the SFT rows come first, each completion before its alternatives. Then come the
    prompts of the preference rows, each chosen response before the rejected one.
    """
    _check_arguments(sft_rows, preference_rows)
    identity: dict[str, int] = {}  # distinct responses, those of SFT first
    own = _number([row.completion for row in sft_rows], identity)
    _number(pool, identity)
    shown = draw_candidates(own, len(identity), min(candidates, len(identity)), seed)
    chosen = _number([row.chosen for row in preference_rows], identity)
    rejected = _number([row.rejected for row in preference_rows], identity)

    sizes = np.repeat([shown.shape[1], 2], [len(sft_rows), len(preference_rows)])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    response = np.concatenate([shown.ravel(), np.column_stack([chosen, rejected]).ravel()])
    prompts = [as_text(row.prompt) for row in sft_rows]
    prompts += [as_text(row.prompt) for row in preference_rows]
    responses = list(identity)
    dense = relate(prompts, responses, np.repeat(np.arange(len(prompts)), sizes), response)
    psi = hash_texts(responses, n_features) if features is None else _given(features, responses)
    crossed = CrossedFeatures(psi, response, dense[:, :1], dense)
    starts = np.split(offsets[:-1], [len(sft_rows)])
    return TextArrays(crossed, offsets, starts[0], starts[1], starts[1] + 1)


def draw_candidates(
    own: Int[np.ndarray, " M"], pool: int, candidates: int, seed: int
) -> Int[np.ndarray, "M K"]:
    """For each response its own number, then distinct others drawn from ``range(pool)``."""
    rng = np.random.default_rng(seed)
    taken = own[:, None]
    for size in range(1, candidates):
        drawn = rng.integers(pool - size, size=len(own))
        # `drawn` numbers the responses not taken yet; each smaller taken number adds one.
        for passed in np.sort(taken, axis=1).T:
            drawn += drawn >= passed
        taken = np.column_stack([taken, drawn])
    return taken


def hash_texts(texts: Sequence[str], n_features: int) -> sp.csr_array:
    """Map texts to (n, n_features) psi: words and word pairs, then character triples.

    Each half has norm 1/sqrt(2), or 0 where a text has no such parts.
    """
    with needing("text"):
        from sklearn.feature_extraction.text import HashingVectorizer

    width = n_features // 2
    by_word = HashingVectorizer(n_features=width, ngram_range=(1, 2), token_pattern=PATTERN)
    by_triple = HashingVectorizer(
        n_features=n_features - width, ngram_range=(3, 3), analyzer="char_wb"
    )
    halves = [vectorizer.transform(texts) for vectorizer in (by_word, by_triple)]
    found = sp.csr_array(sp.hstack(halves, format="csr"))
    found.data *= np.sqrt(0.5)
    return found


def relate(
    prompts: Sequence[str],
    responses: Sequence[str],
    prompt: Int[np.ndarray, " N"],
    response: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "N 3"]:
    """Dense features of prompt ``prompt[i]`` and response ``response[i]``.

    Columns, all in [0, 1]: the share of the response's words that the prompt has (its overlap);
    common words over words of either (Jaccard); the log length of the response in characters.
    Words are distinct and in lower case.
    """
    asked = [frozenset(words(text.lower())) for text in prompts]
    said = [frozenset(words(text.lower())) for text in responses]
    pairs = zip(prompt.tolist(), response.tolist(), strict=True)
    common = np.array([len(asked[x] & said[y]) for x, y in pairs], dtype=float)
    n_asked = np.array([len(words) for words in asked])[prompt]
    n_said = np.array([len(words) for words in said])[response]
    length = np.log1p([len(text) for text in responses]) / np.log1p(_LONG)
    overlap = common / np.maximum(n_said, 1)
    jaccard = common / np.maximum(n_asked + n_said - common, 1)
    return np.column_stack([overlap, jaccard, np.minimum(length, 1)[response]])


def _number(texts: Collection[Any], identity: dict[str, int]) -> Int[np.ndarray, " n"]:
    """The number of each text in ``identity``; new texts are added to it."""
    numbers = [identity.setdefault(as_text(text), len(identity)) for text in texts]
    return np.array(numbers, dtype=np.int64)


def _given(features: Features, responses: list[str]) -> sp.csr_array:
    """The features that a caller computes, one row of finite numbers for each response."""
    found = features(responses)
    found = found if sp.issparse(found) else np.asarray(found, dtype=float)
    if found.ndim != 2 or found.shape[0] != len(responses):
        raise InputError(
            f"not one row of features for each of {len(responses)} responses",
            field="features",
            value=found.shape,
            remedy="Return an (n, m) array for n responses.",
        )
    psi = sp.csr_array(found, dtype=float)
    if not np.isfinite(psi.data).all():
        row = int(np.searchsorted(psi.indptr, np.argmin(np.isfinite(psi.data)), side="right"))
        remedy = "Return finite features for every response."
        raise InputError(
            "not a finite number",
            row=row,
            field="features",
            value=responses[row - 1],
            remedy=remedy,
        )
    return psi


def _check_arguments(
    sft_rows: Sequence[SftRow],
    preference_rows: Sequence[PreferenceRow],
) -> None:
    for name, rows in (("sft_rows", sft_rows), ("preference_rows", preference_rows)):
        if not len(rows):
            raise InputError("there are no rows", field=name, remedy="Give at least one.")
    if len({as_text(row.completion) for row in sft_rows}) < 2:
        count = len(sft_rows)
        raise InputError(
            "all completions are the same" if count > 1 else "one row alone has no alternatives",
            field="sft_rows",
            value=f"{count} {'row' if count == 1 else 'rows'}",
            remedy="Give rows with at least two different completions; of few rows, most are held "
            "out.",
        )
