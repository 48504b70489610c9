"""DR-Tune: the last layer also classifies the features of an earlier policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from tradeoff.methods.anchors.base import Anchor, Sees
from tradeoff.methods.hooks import Array, Moment, State, copied
from tradeoff.schedules import FORWARD
from tradeoff.settings import Count, NotNegative


@dataclass(frozen=True, kw_only=True)
class DrTune(Anchor):
    """Holds the last layer by the loss of demonstrations on features of an earlier policy.

    These are turned and shifted to where the policy's own features are, so that the last layer can
    classify both.

    Attributes
    ----------
    weight, stages
        Factor of that loss, and where it acts.
    count
        Demonstrations whose features are remembered: the last ones that were drawn. With language
        models these are tokens of responses, and the feature of each is what its logits come from.

    Notes
    -----
    Card S41. The published code turns the features anew in every tenth update; here it is in each.
    Each update in which it acts costs two forward passes, of the policy and of the earlier one.
    Where the output layer is also the embedding, the embedding moves with it.
    """

    name: ClassVar[str] = "dr_tune"
    title: ClassVar[str] = "DR-Tune"
    source: ClassVar[str] = "arXiv 2308.12058"
    sees: ClassVar[Sees] = "features"
    weight: NotNegative = 1.0
    count: Count = 256

    def start(self, weights: Array) -> State:
        return {"anchor": copied(weights)}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        return weights, {"anchor": copied(weights)} if moment.begins else state

    def direct(
        self, gradient: Array, weights: Array, state: State, moment: Moment
    ) -> tuple[Array, State]:
        if not self.acts(moment) or moment.name != self.policy(moment).head:
            return gradient, state
        xp, seen = array_namespace(weights), self.policy(moment).features_of(moment)
        for name, values in seen.items():
            known = [state[name]] if name in state else []
            seen[name] = xp.concat([*known, values], axis=-2)[..., -self.count :, :]
        features = calibrated(seen["own"], seen["earlier"], seen["labels"])
        head = xp.reshape(weights, (*weights.shape[:-1], -1, features.shape[-1]))
        logits = features @ xp.matrix_transpose(head)
        odds = xp.exp(logits - xp.max(logits, axis=-1, keepdims=True))
        missed = odds / xp.sum(odds, axis=-1, keepdims=True) - seen["labels"]
        slope = xp.matrix_transpose(missed) @ features / features.shape[-2]
        return gradient + self.weight * xp.reshape(slope, weights.shape), {**state, **seen}

    def costs(self, moment: Moment) -> tuple[float, float]:
        return 2 * FORWARD * self.acts(moment), 0.0

    def unsupported(self, scale: str) -> str | None:
        if scale == "convex":
            return "features do not move there"
        if scale == "llm":
            return "hooks there see weights and gradients, not features"
        return super().unsupported(scale)


def calibrated(own: Array, earlier: Array, labels: Array) -> Array:
    """Features (..., n, w) of an earlier policy, brought to where a policy's own ones are.

    Parameters
    ----------
    own, earlier
        (..., n, w) features of the same prompts.
    labels
        (..., n, K) ones at the demonstrated response to each prompt, else zeros.

    Returns
    -------
    Array
        (..., n, w): of length one they are turned by the orthogonal matrix that brings them
        nearest to the own ones of length one, shifted by the mean difference for their label, and
        given the own ones' mean length.
    """
    xp = array_namespace(own)
    first, second = unit(earlier), unit(own)
    left, _, right = xp.linalg.svd(xp.matrix_transpose(first) @ second, full_matrices=False)
    turned = first @ (left @ right)
    counts = xp.sum(labels, axis=-2)[..., None]
    sums = xp.matrix_transpose(labels) @ (second - turned)
    shift = sums / xp.where(counts > 0, counts, xp.ones_like(counts))
    length = xp.mean(xp.sum(own * own, axis=-1, keepdims=True) ** 0.5, axis=-2, keepdims=True)
    return unit(turned + labels @ shift) * length


def unit(vectors: Array) -> Array:
    """Vectors (..., w) of length one; zeros stay."""
    xp = array_namespace(vectors)
    length = xp.sum(vectors * vectors, axis=-1, keepdims=True) ** 0.5
    return vectors / xp.where(length > 0, length, xp.ones_like(length))
