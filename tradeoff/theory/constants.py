"""T1: the constants of a log-linear problem, from which every other bound is computed.

Delta is the largest distance between the features of two responses to one prompt. The gradient of
one data point has norm at most Delta (SFT) or beta Delta_w (DPO). Its Hessian is at most
Delta^2/4 or beta^2 Delta_w^2/4. The mean losses are smoother than their worst data point, so
`Constants` also has the smaller constants of the means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from tradeoff import objectives
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.solve import DENSE_DIMENSION
from tradeoff.schedules import PREFERENCE, SFT
from tradeoff.settings import Within
from tradeoff.theory.checked import Checked

Array = NDArray[np.float64]
BLOCK = 4096
"""Feature rows held in memory at once."""
Horizon = Annotated[float, Within(1, 1e308)]
"""A number of updates for which a bound is evaluated; a run is not needed."""
Objective = Annotated[int, Within(0, 1)]
"""SFT or PREFERENCE."""


@dataclass(frozen=True)
class Constants:
    """T1's constants of one problem; in tuples, index 0 is SFT and 1 is PREFERENCE.

    Attributes
    ----------
    delta
        Largest distance between two responses' features of one demonstrated prompt.
    delta_w
        Largest |phi(chosen) - phi(rejected)| of a pair of positive weight.
    sft_gradient, preference_gradient
        Bounds on the norm of one data point's gradient, anywhere.
    sft_smoothness, preference_smoothness
        Bounds on one data point's Hessian, anywhere.
    mean_sft_smoothness, mean_preference_smoothness
        Bounds on the Hessians of the two mean losses.
    loss_ranges
        Upper bounds on the (SFT, DPO) loss of one data point, over the data and the ball. Losses
        are not negative, so these bound their ranges too.
    diameter
        D = 2 R.
    """

    delta: float
    delta_w: float
    sft_gradient: float
    preference_gradient: float
    sft_smoothness: float
    preference_smoothness: float
    mean_sft_smoothness: float
    mean_preference_smoothness: float
    loss_ranges: tuple[float, float]
    diameter: float

    @property
    def gradients(self) -> tuple[float, float]:
        """(G_SFT, G_DPO)."""
        return self.sft_gradient, self.preference_gradient

    def smoothness(self, lam: float) -> float:
        """L_lambda of the mean loss f_lambda."""
        return lam * self.mean_preference_smoothness + (1 - lam) * self.mean_sft_smoothness

    def second_moment(self, lam: float) -> float:
        """Bound on E|g|^2 of ALRIGHT: lam G_DPO^2 + (1 - lam) G_SFT^2."""
        return lam * self.preference_gradient**2 + (1 - lam) * self.sft_gradient**2

    def mixed_second_moment(self, lam: float) -> float:
        """Bound on E|g|^2 of Mix: (lam G_DPO + (1 - lam) G_SFT)^2."""
        return (lam * self.preference_gradient + (1 - lam) * self.sft_gradient) ** 2

    def weighted_gradient(self, lam: float) -> float:
        """G_max of MAXRIGHT: max of lam G_DPO and (1 - lam) G_SFT."""
        return max(lam * self.preference_gradient, (1 - lam) * self.sft_gradient)


def constants(problem: LogLinear) -> Constants:
    """Compute T1's constants, one block of prompts at a time.

    Notes
    -----
    One SFT gradient is E_pi phi - phi(y), at most the distance from phi(y) to the farthest other
    response: G_SFT needs only distances from demonstrated responses, and can be below Delta.
    One SFT Hessian is Cov_pi(phi): along a unit vector the features span at most Delta, and a
    variable of range Delta has variance at most Delta^2/4 (Popoviciu). The DPO slope is
    beta (sigma - 1 + s), at most beta (1 - s) for label smoothing s < 1/2. Its curvature is at
    most beta^2/4 for every s.

    Mean losses. DPO: beta^2/4 times the top eigenvalue of the weighted mean of delta delta'. SFT:
    the smaller of the mean of Delta_x^2/4 and the top eigenvalue of the weighted mean of
    sum_y (phi_y - mean)(phi_y - mean)'/2, since diag(p) - pp' <= (I - 11'/n)/2 (Boehning 1992).
    Source: arXiv 2410.15483, Section 4 (boundedness); constants ours.
    """
    spans, reach, span_by_prompt = _spans(problem)
    mean_sft, mean_preference = _mean_smoothness(problem, span_by_prompt)
    weight = problem.prompt_weights
    lengths = np.sqrt(_squared_norms(problem.pair_differences))
    used = problem.preference_weights > 0
    delta_w = float(lengths[used].max())
    beta, flat = problem.beta, 1 - problem.label_smoothing
    margins = (problem.radius * lengths + np.abs(problem.margin_shift))[used].max()
    widest = float(np.log(np.diff(problem.offsets)[weight > 0].max()) + problem.radius * spans)
    return Constants(
        delta=spans,
        delta_w=delta_w,
        sft_gradient=reach,
        preference_gradient=beta * flat * delta_w,
        sft_smoothness=spans**2 / 4,
        preference_smoothness=(beta * delta_w) ** 2 / 4,
        mean_sft_smoothness=mean_sft,
        mean_preference_smoothness=mean_preference,
        loss_ranges=(widest, float(objectives.dpo(np.array(-margins), beta))),
        diameter=2 * problem.radius,
    )


def step_over(length: float, slope: float) -> float:
    """Return ``length / slope``, or ``length`` where the slope is zero.

    A loss is flat, and any step is right, where both responses of every pair have equal features.
    """
    return length / slope if slope > 0 else length


def blocks(problem: LogLinear) -> Iterator[tuple[int, Any]]:
    """Yield each demonstrated prompt and its (n_x, d) features, reading BLOCK rows at once."""
    wanted = np.flatnonzero(problem.prompt_weights > 0)
    sizes = np.diff(problem.offsets)[wanted]
    groups = (np.cumsum(sizes) - sizes) // BLOCK
    for group in np.unique(groups):
        prompts = wanted[groups == group]
        index = [np.arange(problem.offsets[x], problem.offsets[x + 1]) for x in prompts]
        rows = problem.rows(np.concatenate(index))
        ends = np.cumsum([len(i) for i in index]).tolist()
        for prompt, end, own in zip(prompts.tolist(), ends, index, strict=True):
            yield prompt, rows[end - len(own) : end]


def distances(rows: Any) -> Float[np.ndarray, "n n"]:
    """Distances between all pairs of rows, dense or sparse."""
    if sp.issparse(rows):
        gram = (rows @ rows.T).toarray()
    else:
        centred = np.asarray(rows) - rows[0]
        gram = centred @ centred.T
    norms = np.diagonal(gram)
    return np.asarray(np.sqrt(np.maximum(norms[:, None] + norms - 2 * gram, 0.0)))


def gradient_norms(problem: LogLinear, thetas: Float[np.ndarray, "B d"]) -> tuple[Checked, Checked]:
    """T1, first half: compare the gradient norms of single data points with (G_SFT, G_DPO).

    Each ``measured`` is the (B,) largest norm over the data points of positive weight.
    """
    c = constants(problem)
    found = np.array([[_largest_norm(problem, i, theta) for i in (SFT, PREFERENCE)]
                      for theta in thetas])  # fmt: skip
    limits = np.broadcast_to(c.gradients, found.shape)
    values = {"delta": c.delta, "delta_w": c.delta_w, "beta": problem.beta}
    sft, preference = (
        Checked(found[:, i], limits[:, i], "upper", values, 1e-7 * (1 + limits[0, i]))
        for i in (SFT, PREFERENCE)
    )
    return sft, preference


def smoothness(problem: LogLinear, lam: float, thetas: Float[np.ndarray, "B d"]) -> Checked:
    """T1, second half: the top eigenvalue of the Hessian of f_lambda never exceeds L_lambda."""
    c = constants(problem)
    weights = np.array([1 - lam, lam])
    tops = [np.linalg.eigvalsh(problem.local_model(t, weights).hessian())[-1] for t in thetas]
    bound = np.full(len(tops), c.smoothness(lam))
    values = {"L_SFT": c.mean_sft_smoothness, "L_DPO": c.mean_preference_smoothness, "lam": lam}
    return Checked(np.array(tops), bound, "upper", values, 1e-7 * (1 + c.smoothness(lam)))


def sample_gradients(problem: LogLinear, objective: int, theta: ArrayLike) -> tuple[Any, Array]:
    """Gradient of every data point of positive weight, (n, d), and the (n,) weights.

    The gradients are sparse if the features are. For exhaustive checks on problems that fit in
    memory.
    """
    z = problem.logits(theta)
    if objective == PREFERENCE:
        margins = z[problem.chosen] - z[problem.rejected] - problem.margin_shift
        slope = objectives.dpo_slope(margins, problem.beta, problem.label_smoothing)
        used = problem.preference_weights > 0
        scale = sp.diags_array(slope[used])
        return scale @ problem.pair_differences[used], problem.preference_weights[used]
    used = problem.sft_weights > 0
    shown = problem.demonstrations[used]
    x = problem.prompt_of_row[shown]
    p = problem.probabilities(z)
    # Demonstrated prompts come in order from `blocks`, so a search finds each one's mean.
    means = {x: p[problem.offsets[x] : problem.offsets[x + 1]] @ phi for x, phi in blocks(problem)}
    position = np.searchsorted(list(means), x)
    own = problem.rows(shown)
    gradients = np.stack(list(means.values()))[position]
    gradients = gradients - (own.toarray() if sp.issparse(own) else own)
    return gradients, problem.sft_weights[used]


def _largest_norm(problem: LogLinear, objective: int, theta: Array) -> float:
    return float(np.sqrt(_squared_norms(sample_gradients(problem, objective, theta)[0]).max()))


def _spans(problem: LogLinear) -> tuple[float, float, Array]:
    """Delta, the largest distance from a demonstrated response, and the (P,) spans of prompts."""
    spans, reach = np.zeros(len(problem.offsets) - 1), 0.0
    for prompt, rows in blocks(problem):
        apart = distances(rows)
        spans[prompt] = apart.max()
        first, last = problem.offsets[prompt], problem.offsets[prompt + 1]
        reach = max(reach, float(apart[problem.demonstrated[first:last] > 0].max()))
    return float(spans.max()), reach, spans


def _mean_smoothness(problem: LogLinear, spans: Array) -> tuple[float, float]:
    """Bounds on the Hessians of the mean losses; see :func:`constants`."""
    weights, prompt = problem.prompt_weights, problem.prompt_of_row
    sizes = np.diff(problem.offsets)

    def sft(v: Array) -> Array:
        u = problem.features @ v
        means = (np.add.reduceat(u, problem.offsets[:-1], axis=0).T / sizes).T
        return np.asarray(problem.features.T @ ((u - means[prompt]).T * weights[prompt] / 2).T)

    def preference(v: Array) -> Array:
        delta = problem.pair_differences
        return np.asarray(delta.T @ ((delta @ v).T * problem.preference_weights).T)

    d = problem.dimension
    boehning = _largest_eigenvalue(sft, d)
    popoviciu = float(weights @ spans**2) / 4
    return min(boehning, popoviciu), problem.beta**2 / 4 * _largest_eigenvalue(preference, d)


def _largest_eigenvalue(product: Callable[[Array], Array], d: int) -> float:
    """Top eigenvalue of a symmetric (d, d) matrix given by its matrix-vector product."""
    if d <= DENSE_DIMENSION:
        return float(np.linalg.eigvalsh(product(np.eye(d)))[-1])
    operator = LinearOperator((d, d), matvec=lambda v: product(v.ravel()), dtype=float)
    start = np.cos(np.arange(d))  # fixed, so that the value is repeatable
    values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=1e-10)
    # A Ritz value may lie below the eigenvalue; its residual, tiny here, is added to it.
    return float(values[0] + np.linalg.norm(product(vectors[:, 0]) - values[0] * vectors[:, 0]))


def _squared_norms(rows: Any) -> Array:
    if sp.issparse(rows):
        return np.asarray(rows.multiply(rows).sum(axis=1)).ravel()
    return np.asarray(np.einsum("nd,nd->n", rows, rows))
