"""A limit of the convex theory: with token-by-token responses DPO is not convex.

A trained last layer W gives log pi(y|x) = sum over t of log softmax(W h_t)[y_t]. Each term is
concave in W, so f_SFT stays convex. But in log pi(chosen) - log pi(rejected) the normalisers
belong to different prefixes and do not cancel: a margin is a difference of concave functions. They
cancel for one-token responses, and for a policy over whole candidate responses
(:class:`tradeoff.convex.LogLinear`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray

from tradeoff import objectives
from tradeoff.theory.checked import Checked

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Response:
    """A response as input of the last layer: hidden states and tokens.

    Attributes
    ----------
    hidden
        (T, k) state h_t from which token t is predicted.
    tokens
        (T,) the tokens.
    """

    hidden: Float[np.ndarray, "T k"]
    tokens: Int[np.ndarray, " T"]

    def log_prob(self, weights: Float[np.ndarray, "V k"]) -> float:
        """Log pi(y|x) under the last layer W = ``weights``."""
        logits = self.hidden @ weights.T
        normalisers = np.logaddexp.reduce(logits, axis=1)
        return float((logits[np.arange(len(self.tokens)), self.tokens] - normalisers).sum())


@dataclass(frozen=True, eq=False)
class TokenProblem:
    """SFT and DPO for one trained last layer; parameters are W, flattened.

    Attributes
    ----------
    demonstrations
        Responses to imitate.
    pairs
        (chosen, rejected) responses.
    vocabulary, width
        Shape (V, k) of W.
    beta
        Inverse temperature of DPO; the reference policy is W = 0.
    """

    demonstrations: tuple[Response, ...]
    pairs: tuple[tuple[Response, Response], ...]
    vocabulary: int
    width: int
    beta: float = 1.0

    @property
    def dimension(self) -> int:
        """Number of parameters V k."""
        return self.vocabulary * self.width

    def sft(self, theta: ArrayLike) -> float:
        """f_SFT: the mean over responses of minus their log-probability, in nats."""
        w = np.asarray(theta, dtype=float).reshape(self.vocabulary, self.width)
        return float(objectives.sft(np.array([r.log_prob(w) for r in self.demonstrations])))

    def dpo(self, theta: ArrayLike) -> float:
        """f_DPO: the mean DPO loss of the pairs, in nats."""
        w = np.asarray(theta, dtype=float).reshape(self.vocabulary, self.width)
        zero = np.zeros_like(w)
        margins = [
            objectives.margin(a.log_prob(w), b.log_prob(w), a.log_prob(zero), b.log_prob(zero))
            for a, b in self.pairs
        ]
        return float(np.mean(objectives.dpo(np.array(margins), self.beta)))


@dataclass(frozen=True)
class Convexity:
    """Midpoint test on random segments: a violation is f(mid) - (f(a) + f(b))/2 > 0.

    Attributes
    ----------
    share
        Fraction of segments that violate convexity by more than rounding.
    depth
        Largest violation, in nats; 0 if none.
    relative_depth
        Largest violation over the range of f seen.
    segments
        Number of segments tried.
    """

    share: float
    depth: float
    relative_depth: float
    segments: int


def midpoint_violations(
    loss: Callable[[Array], float],
    dimension: int,
    radius: float,
    *,
    segments: int = 2000,
    seed: int = 0,
) -> Convexity:
    """Measure how far a function is from convex on a ball.

    Both ends of each segment are drawn uniformly from the ball.
    """
    rng = np.random.default_rng(seed)
    ends = rng.normal(size=(2, segments, dimension))
    ends *= radius / np.linalg.norm(ends, axis=-1, keepdims=True)
    ends *= rng.random((2, segments, 1)) ** (1 / dimension)
    values = np.array([[loss(theta) for theta in side] for side in ends])
    middle = np.array([loss(theta) for theta in ends.mean(axis=0)])
    excess = middle - values.mean(axis=0)
    spread = float(np.ptp(values))
    over = excess > 1e-12 * (1 + np.abs(middle))
    depth = float(max(excess.max(), 0.0)) if over.any() else 0.0
    return Convexity(float(over.mean()), depth, depth / spread if spread > 0 else 0.0, segments)


def counterexample(beta: float = 1.0) -> TokenProblem:
    """Smallest problem on which DPO is not convex: two tokens, one hidden unit, length two.

    The second step of the rejected response "00" has the state h = 1. Every other state is h = 0,
    so that both tokens are equally likely for every W. With w = W[1] - W[0] the margin against the
    reference W = 0 is m(w) = log(1 + exp(w)) - log 2. It is convex in w, but the theorem needs a
    linear margin. At w = 0, f_DPO'' = (beta/4)(beta/4 - 1/2) = beta (beta - 2)/16 < 0 for beta < 2.
    """
    zero, one = np.zeros((1, 1)), np.ones((1, 1))
    chosen = Response(np.concatenate([zero, zero]), np.array([1, 1]))
    rejected = Response(np.concatenate([zero, one]), np.array([0, 0]))
    return TokenProblem((rejected,), ((chosen, rejected),), vocabulary=2, width=1, beta=beta)


def single_token(problem: TokenProblem) -> TokenProblem:
    """The same data cut to the first token, where DPO is convex."""

    def cut(response: Response) -> Response:
        return Response(response.hidden[:1], response.tokens[:1])

    pairs = tuple((cut(a), cut(b)) for a, b in problem.pairs)
    shown = tuple(cut(r) for r in problem.demonstrations)
    return TokenProblem(shown, pairs, problem.vocabulary, problem.width, problem.beta)


def midpoint_violation(beta: float = 1.0, half: float = 1.0) -> Checked:
    """Check that the counterexample violates convexity at the midpoint w = 0.

    ``measured`` is f_DPO(0) = log 2, ``bound`` the mean of f_DPO at w = -+ ``half``. A convex
    function would have ``measured`` <= ``bound``. Source: ours.
    """
    problem = counterexample(beta)
    ends = [problem.dpo(np.array([-w / 2, w / 2])) for w in (-half, half)]
    middle = problem.dpo(np.zeros(2))
    mean = float(np.mean(ends))
    known = {"beta": beta, "second derivative at 0": beta * (beta - 2) / 16, "depth": middle - mean}
    return Checked(middle, mean, "lower", known, 0.0)


def random_tokens(
    seed: int = 0,
    *,
    vocabulary: int = 4,
    width: int = 3,
    length: int = 3,
    demonstrations: int = 8,
    pairs: int = 8,
    beta: float = 1.0,
) -> TokenProblem:
    """Problem with random states and tokens; both responses of a pair share their first state."""
    rng = np.random.default_rng(seed)

    def draw(first: Array | None = None) -> Response:
        hidden = rng.normal(size=(length, width))
        hidden[0] = hidden[0] if first is None else first
        return Response(hidden, rng.integers(vocabulary, size=length))

    shown = tuple(draw() for _ in range(demonstrations))
    states = rng.normal(size=(pairs, width))
    compared = tuple((draw(state), draw(state)) for state in states)
    return TokenProblem(shown, compared, vocabulary, width, beta)
