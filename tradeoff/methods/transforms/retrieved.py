"""Demonstrations that are looked up: as examples in a prompt, or to answer prompts that are new.

Responses to different prompts are alike by the cosine of their features. Where features are those
of a prompt for the label of a response, and zero for other labels, responses are alike that have
one label, and as much as their prompts are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from tradeoff._deferred import sparse as sp
from tradeoff.methods.transforms.base import Transform
from tradeoff.settings import Count, NotNegative, Seed, Share, Within

Several = Annotated[int, Within(0, 1024)]
AT_ONCE = 256
"""Rows that are compared with all rows at once."""


@dataclass(frozen=True, eq=False)
class Documents:
    """P prompts with up to n responses each, and which of these are demonstrated.

    Attributes
    ----------
    features
        (P, n, d) of each response; zeros where a prompt has no more of them.
    present
        (P, n) whether there is such a response.
    weights
        (P, n) weight with which each response is demonstrated; zeros for those that are not.
    vectors
        (P, dx) prompts that have one vector each, see :meth:`labelled`; else None.
    """

    features: Float[np.ndarray, "P n d"]
    present: Bool[np.ndarray, "P n"]
    weights: Float[np.ndarray, "P n"]
    vectors: Float[np.ndarray, "P dx"] | None = None

    @classmethod
    def labelled(
        cls, vectors: Float[np.ndarray, "P dx"], weights: Float[np.ndarray, "P n"]
    ) -> Documents:
        """Prompts that are vectors, with the same n labels as responses to each.

        Parameters
        ----------
        vectors
            (P, dx) the prompts.
        weights
            (P, n) weight with which each label is demonstrated.
        """
        labels = weights.shape[1]
        each = np.einsum("pd,kl->pkld", vectors, np.eye(labels))
        present = np.ones(weights.shape, dtype=bool)
        return cls(
            each.reshape(*weights.shape, labels * vectors.shape[1]), present, weights, vectors
        )

    @property
    def shown(self) -> Bool[np.ndarray, " P"]:
        """(P,) whether a prompt has demonstrations."""
        return np.asarray(self.weights.sum(axis=1) > 0)

    def support(
        self, features: Float[np.ndarray, "Q m d"], count: int, own: bool
    ) -> Float[np.ndarray, "Q m"]:
        """(Q, m) how much the demonstrations of the nearest prompts speak for each response.

        The mean over these prompts of the mean cosine between the features of the response and of
        the prompt's demonstrations. It does not depend on the order of demonstrations.

        Parameters
        ----------
        features
            (Q, m, d) of the responses to Q prompts; zeros where there is none.
        count
            How many prompts with demonstrations are looked at: the nearest ones, by the cosine of
            the sums of features over the responses.
        own
            Whether prompt x may be looked at for the x-th of the Q prompts.
        """
        places = np.flatnonzero(self.shown)
        near = _unit(features.sum(axis=1)) @ _unit(self.features[places].sum(axis=1)).T
        if not own:
            near[places[None, :] == np.arange(len(features))[:, None]] = -np.inf
        order = np.argsort(-near, axis=1, kind="stable")[:, :count]
        used = np.isfinite(np.take_along_axis(near, order, axis=1))
        share = self.weights[places] / self.weights[places].sum(axis=1, keepdims=True)
        means = np.einsum("pn,pnd->pd", share, _unit(self.features[places]))
        looked = (used[..., None] * means[order]).sum(axis=1) / np.maximum(
            used.sum(axis=1, keepdims=True), 1
        )
        return np.asarray(np.einsum("qmd,qd->qm", _unit(features), looked))


@dataclass(frozen=True, kw_only=True)
class Retrieved(Transform):
    """Looks demonstrations up by the features of their responses."""

    def unsupported(self, scale: str) -> str | None:
        if scale == "llm":
            return "the trainer chooses rows, whose prompts stay as they are"
        return super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class InContext(Retrieved):
    """Each demonstration is trained with other demonstrations before it in the prompt.

    The policy that is evaluated sees the prompt alone. On convex problems and with small networks a
    demonstration in the prompt multiplies the odds of each response by ``exp(strength)`` to the
    power of its likeness to the demonstrated one. So to the logits of each response its share in
    the nearest demonstrations is added, weighted by likeness. A language model reads the tokens of
    the nearest demonstrations, the nearest last, and then those of the row.

    Attributes
    ----------
    count
        How many demonstrations are shown, never those of the same prompt: the nearest ones. 0: SFT.
        There it is one for each of the nearest prompts, averaged over which one it is. For
        language models, near by the cosine of the numbers of each token, and as many as fit into
        the longest sequence.
    strength
        In nats, not negative: how far the policy follows what it is shown. 0: SFT, at a higher
        cost. Language models do so as they have learned.

    Notes
    -----
    Card S26, a transfer of an abstract. That small policies follow what they are shown, and how
    far, is ours: it is fixed and not learned. A gradient of a demonstration costs
    ``1 + count`` gradients, as the prompt has so many times the tokens.
    """

    name: ClassVar[str] = "in_context"
    title: ClassVar[str] = "SFT in context"
    count: Several = 2
    strength: NotNegative = 2.0

    @property
    def sft_cost(self) -> float:
        return 1.0 + self.count

    def added(self, given: Documents) -> Float[np.ndarray, "P n"]:
        """What is added to the logits of each response (P, n) where demonstrations are trained."""
        return self.strength * given.support(given.features, self.count, own=False)

    def shown(self, prompts: Sequence[Int[np.ndarray, " _"]]) -> list[list[int]]:
        """Places of the rows that are shown before each row, the nearest last.

        Parameters
        ----------
        prompts
            Tokens of the prompt of each row.
        """
        table = _counts(prompts)
        same = np.unique([tokens.tobytes() for tokens in prompts], return_inverse=True)[1]
        found: list[list[int]] = []
        for first in range(0, len(prompts), AT_ONCE):
            rows = slice(first, first + AT_ONCE)
            near = (table[rows] @ table.T).toarray()
            near[same[rows, None] == same[None, :]] = -1.0
            order = np.argsort(-near, axis=1, kind="stable")[:, : self.count]
            found += [
                [int(place) for place in reversed(line) if values[place] >= 0]
                for line, values in zip(order.tolist(), near, strict=True)
            ]
        return found

    def unsupported(self, scale: str) -> str | None:
        return None if scale == "llm" else super().unsupported(scale)


@dataclass(frozen=True, kw_only=True)
class Expanded(Retrieved):
    """New prompts beside those of the demonstrations.

    The base of what writes prompts and answers them.
    """

    @abstractmethod
    def new(self, given: Documents) -> Documents:
        """The new prompts and the law of their answers, as weights of responses."""

    @abstractmethod
    def written(
        self, prompts: Sequence[Int[np.ndarray, " _"]], answers: Sequence[Int[np.ndarray, " _"]]
    ) -> list[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]]:
        """New prompts of a language model and their answers, as tokens.

        Parameters
        ----------
        prompts, answers
            Tokens of each demonstration.
        """


@dataclass(frozen=True, kw_only=True)
class SearchInstruct(Expanded):
    """New prompts are written from pairs of old ones, and answered from the nearest documents.

    A new prompt is a mixture of two demonstrated ones with noise: each of its responses has the
    weighted mean of the features of one response to each. The documents are the demonstrations. Its
    answer is the response for which those of the nearest prompts speak most. Small networks have
    prompts that are mixed themselves, and as many answers to each as there are demonstrations to a
    prompt on average, drawn once. A language model has prompts that have each token from one of two
    prompts at the same place, and one answer to each: the response to the nearest prompt, by the
    cosine of the numbers of each token, or of several the one that is most like all of them.

    Attributes
    ----------
    expansion
        New prompts for each demonstrated prompt; for language models, for each demonstration. 0:
        SFT.
    noise
        Standard deviation of what is added to each feature, as a share of the root mean square of
        all features; not negative. For language models, the probability, 1 at most, that a token
        is drawn from those of all prompts.
    error
        Probability that another response is read from the documents, each with equal probability.
    documents
        Prompts whose demonstrations are looked at for an answer.
    seed
        Of the mixtures and the noise, which are the same in all runs.

    Notes
    -----
    Card S36, a transfer. The published documents are those of a search engine; here nothing is
    known but the demonstrations. A new prompt counts as much as a demonstrated one does on average.
    Costs two responses for each new prompt, once: the prompt and its answer.
    """

    name: ClassVar[str] = "search_instruct"
    title: ClassVar[str] = "SearchInstruct"
    expansion: Several = 1
    noise: NotNegative = 0.1
    error: Share = 0.1
    documents: Count = 2
    seed: Seed = 0

    def new(self, given: Documents) -> Documents:
        rng, seeds = np.random.default_rng(self.seed), np.flatnonzero(given.shown)
        first = np.repeat(seeds, self.expansion)
        # Another prompt than the first; itself where there is only one.
        turn = rng.integers(1, max(len(seeds), 2), size=len(first))
        second = seeds[(np.repeat(np.arange(len(seeds)), self.expansion) + turn) % len(seeds)]
        share = rng.uniform(0.5, 1.0, size=(len(first), 1, 1))
        present = given.present[first] & given.present[second]
        if given.vectors is None:
            size = np.sqrt((given.features[given.present] ** 2).mean())
            mixed = self._mixed(given.features, first, second, share, size, rng)
            features, vectors = mixed * present[..., None], None
        else:
            size = np.sqrt((given.vectors**2).mean())
            vectors = self._mixed(given.vectors, first, second, share[..., 0], size, rng)
            features = Documents.labelled(vectors, np.zeros(present.shape)).features
        support = given.support(features, self.documents, own=True)
        best = np.where(present, support, -np.inf).argmax(axis=1)
        right = np.eye(present.shape[1])[best]
        others = present.sum(axis=1, keepdims=True) - 1
        law = (1 - self.error) * right + self.error * (present - right) / others
        return Documents(features, present, law * given.weights.sum() / len(seeds), vectors)

    def written(
        self, prompts: Sequence[Int[np.ndarray, " _"]], answers: Sequence[Int[np.ndarray, " _"]]
    ) -> list[tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]]:
        rng, count = np.random.default_rng(self.seed), len(prompts)
        first = np.repeat(np.arange(count), self.expansion)
        second = (first + rng.integers(1, max(count, 2), size=len(first))) % count
        every, new = np.concatenate(prompts), []
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            mixed, rest = np.array(prompts[one]), prompts[other][: len(prompts[one])]
            taken = rng.random(len(rest)) >= rng.uniform(0.5, 1.0)
            mixed[: len(rest)][taken] = rest[taken]
            drawn = rng.random(len(mixed)) < self.noise
            mixed[drawn] = rng.choice(every, size=int(drawn.sum()))
            new.append(mixed)
        if not new:
            return []
        near, like, best = _counts([*prompts, *new]), _counts(answers), np.empty(len(new), int)
        for start in range(0, len(new), AT_ONCE):
            rows = near[count + start : count + start + AT_ONCE]
            found = (rows @ near[:count].T).toarray()
            looked = np.argsort(-found, axis=1, kind="stable")[:, : self.documents]
            for k, places in enumerate(looked):
                own = like[places]
                # The first of equal ones is the nearest.
                likeness = (own @ own.T).toarray().mean(axis=1).round(12)
                best[start + k] = places[likeness.argmax()]
        wrong = rng.random(len(new)) < self.error
        turn = rng.integers(1, max(count, 2), size=len(new))
        best = np.where(wrong, (best + turn) % count, best)
        return [(prompt, answers[place]) for prompt, place in zip(new, best.tolist(), strict=True)]

    def _mixed(
        self,
        old: Float[np.ndarray, "P ..."],
        first: Int[np.ndarray, " Q"],
        second: Int[np.ndarray, " Q"],
        share: Float[np.ndarray, "Q ..."],
        size: float,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "Q ..."]:
        """Mixtures of two of the old ones each, with noise of a size."""
        noise = self.noise * size * rng.normal(size=(len(first), *old.shape[1:]))
        return np.asarray(share * old[first] + (1 - share) * old[second] + noise)


def _counts(texts: Sequence[Int[np.ndarray, " _"]]) -> sp.csr_array:
    """How often each text has each token, a row a text, of length one."""
    ends = np.concatenate([[0], np.cumsum([len(tokens) for tokens in texts])])
    of = np.unique(np.concatenate(texts), return_inverse=True)[1]
    table = sp.csr_array((np.ones(len(of)), of, ends)).astype(float)
    table.sum_duplicates()
    sizes = np.sqrt(np.asarray(table.power(2).sum(axis=1)).ravel())
    return sp.csr_array(sp.diags_array(1 / np.maximum(sizes, 1)) @ table)


def _unit(vectors: Float[np.ndarray, "... d"]) -> Float[np.ndarray, "... d"]:
    """Vectors of length one; zeros stay."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1.0))
