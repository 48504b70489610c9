"""Vectors that are learned with a language model, which reads them before each response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from array_api_compat import array_namespace, device
from jaxtyping import Float

from tradeoff.methods.hooks import Array, Moment, State
from tradeoff.methods.parameters.added import EMBEDDING, LATENT, Added, Shapes, Tensors
from tradeoff.schedules import PREFERENCE
from tradeoff.settings import NotNegative, Positive, Within

ROW = 20
"""Tokens of a sequence in which the vectors are counted, about as many as demonstrations have."""


@dataclass(frozen=True, kw_only=True)
class LatentThoughts(Added):
    """Learned vectors between prompt and response, with two losses of what the model makes of them.

    The policy answers after it has read the vectors. From the first update on they are trained by
    both objectives, and are a part of the policy in every evaluation. Updates on demonstrations
    also follow, with the states of the last layer at the vectors as thoughts t, at the end of the
    prompt as q:

    - ``-log softmax(cos(q, t) / temperature)`` of the thought that is most like the mean state of
      the response;
    - ``KL(softmax(mean state of the prompt) || softmax(mean thought))``.

    Attributes
    ----------
    vectors
        Number of vectors. With none this is SFT, whatever the weights.
    contrast, closeness
        Weights of the two losses beside the negative log-likelihood of a token, not negative.
    temperature
        Of the first one, positive.
    frozen
        Whether the network stays as it is, so that the vectors alone are trained.

    Notes
    -----
    Card S14. The published vectors are 32; here responses are short. The three published weights
    are equal, as here. That the vectors do not depend on the prompt is ours. They cost as much as
    tokens, in sequences of 20; the second pass over the demonstrations, which both losses need,
    counts as a gradient.
    """

    name: ClassVar[str] = "lta"
    title: ClassVar[str] = "LTA"
    source: ClassVar[str] = "arXiv 2509.12875"
    by_token: ClassVar[bool] = True
    vectors: Annotated[int, Within(0, 1024)] = 4
    contrast: NotNegative = 1.0
    closeness: NotNegative = 1.0
    temperature: Positive = 0.1
    frozen: bool = False

    @property
    def with_network(self) -> bool:
        return not self.frozen

    def trained(self, shapes: Shapes, rng: np.random.Generator) -> Tensors:
        if not self.vectors:
            return {}
        width = shapes[EMBEDDING][1]
        return {LATENT: rng.normal(size=(self.vectors, width)) / width**0.5}

    @property
    def penalises(self) -> bool:
        return self.vectors > 0 and (self.contrast > 0 or self.closeness > 0)

    def start(self, weights: Array) -> State:
        return {"begun": 0 * weights[..., :1]}

    def begin(self, weights: Array, state: State, moment: Moment) -> tuple[Array, State]:
        return weights, {"begun": 0 * state["begun"] + 1}

    def output(self, weights: Array, state: State, moment: Moment) -> Array:
        """The weights; before the first update without vectors, as the policy is given."""
        if moment.name != LATENT:
            return weights
        return array_namespace(weights).where(state["begun"] > 0, weights, 0 * weights)

    def costs(self, moment: Moment) -> tuple[float, float]:
        longer = self.vectors / ROW
        again = (1 + longer) if self.penalises else 0.0
        sft = 0.0 if moment.objective == PREFERENCE else longer + again
        return sft, longer if moment.objective in (None, PREFERENCE) else 0.0

    def gradient_cost(self, shapes: Shapes, read: float, scored: float) -> float:
        return 1.0  # :meth:`costs` has all.

    def penalty(self, shares: Float[Array, "L B E"], objective: int) -> Array:
        """What is added to the loss of some demonstrations, a number.

        Parameters
        ----------
        shares
            (B, 3 + N, width) states of B demonstrations: at the end of the prompt, means over
            prompt and response, and at the N vectors.
        objective
            Whose rows these are: those of SFT.
        """
        xp = array_namespace(shares)
        end, prompt, response = (shares[:, k, :] for k in range(3))
        thoughts = shares[:, 3:, :]
        best = xp.argmax(_cosines(response, thoughts), axis=-1)
        own = xp.arange(thoughts.shape[1], device=device(best)) == best[:, None]
        likely = _log_softmax(_cosines(end, thoughts) / self.temperature)
        contrast = -xp.sum(xp.where(own, likely, 0 * likely), axis=-1)
        of_prompt, of_thoughts = _log_softmax(prompt), _log_softmax(xp.mean(thoughts, axis=1))
        apart = xp.sum(xp.exp(of_prompt) * (of_prompt - of_thoughts), axis=-1)
        return xp.mean(self.contrast * contrast + self.closeness * apart)

    def unsupported(self, scale: str) -> str | None:
        if scale == "convex":
            return "a policy over listed responses reads no tokens before them"
        if scale == "llm":
            return "the trainer has the weights of one model alone"
        return super().unsupported(scale)


def _cosines(one: Array, many: Array) -> Array:
    """(B, N) cosines of vectors (B, width) and (B, N, width)."""
    xp = array_namespace(one)
    product = xp.sum(one[:, None, :] * many, axis=-1)
    sizes = xp.sum(one * one, axis=-1)[:, None] * xp.sum(many * many, axis=-1)
    return product / (sizes + 1e-24) ** 0.5


def _log_softmax(values: Array) -> Array:
    xp = array_namespace(values)
    shifted = values - xp.max(values, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
