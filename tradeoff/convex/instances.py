"""Instances of the convex problems: random ones with a given conflict, and worked examples."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from tradeoff.convex._validate import Radius, check_memory
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.quadratic import Quadratic
from tradeoff.settings import Count, Positive, Seed, Share, Within, checked

Several = Annotated[int, Within(2, 10**6)]
Conflict = Annotated[Share, "0 is equal and 1 opposite."]


@checked
def random_log_linear(
    seed: Seed = 0,
    *,
    prompts: Count = 16,
    responses: Several = 8,
    dimension: Several = 16,
    demonstrations: Count = 64,
    pairs: Count = 64,
    conflict: Conflict = 0.75,
    sharpness: Annotated[float, Within(0, 1e6)] = 2.0,
    radius: Positive = 4.0,
    beta: Positive = 1.0,
    **settings: Any,
) -> LogLinear:
    """Draw an instance whose data come from two policies that disagree.

    Demonstrations are sampled from a policy with parameter theta_S; preference labels follow
    Bradley-Terry with rewards theta_P . phi.

    Parameters
    ----------
    seed
        Seed of all random draws.
    prompts, responses, dimension
        Number of prompts, of responses to each, and of parameters (at least 2).
    demonstrations, pairs
        Number of data points of each objective; a prompt may have several.
    conflict
        Angle between theta_S and theta_P as a share of half a turn: 0 is equal, 1 opposite.
    sharpness
        Norm of theta_S and of theta_P.
    radius, beta, **settings
        Attributes of :class:`~tradeoff.convex.LogLinear`.

    Raises
    ------
    InputError
        If a setting is out of range, or the arrays would not fit into memory.
    """
    sizes = prompts * responses * dimension, demonstrations * responses, pairs
    check_memory("prompts", prompts, sum(sizes), "Use fewer prompts, responses or data points.")
    rng = np.random.default_rng(seed)
    phi, demonstrator, judge = _truth(rng, prompts, responses, dimension, conflict, sharpness)
    x = rng.integers(prompts, size=demonstrations)
    y = np.argmax(phi[x] @ demonstrator + rng.gumbel(size=(demonstrations, responses)), axis=1)
    z = rng.integers(prompts, size=pairs)
    first = rng.integers(responses, size=pairs)
    second = (first + rng.integers(1, responses, size=pairs)) % responses
    reward = 2 * (phi[z, first] - phi[z, second]) @ judge
    wins = rng.random(pairs) < 1 / (1 + np.exp(-reward))
    return LogLinear(
        features=phi.reshape(-1, dimension),
        offsets=np.arange(0, prompts * responses + 1, responses),
        demonstrations=x * responses + y,
        chosen=z * responses + np.where(wins, first, second),
        rejected=z * responses + np.where(wins, second, first),
        radius=radius,
        beta=beta,
        **settings,
    )


@checked
def log_linear_population(
    seed: Seed = 0,
    *,
    prompts: Count = 16,
    responses: Several = 8,
    dimension: Several = 16,
    conflict: Conflict = 0.75,
    sharpness: Annotated[float, Within(0, 1e6)] = 2.0,
    radius: Positive = 4.0,
    beta: Positive = 1.0,
    **settings: Any,
) -> LogLinear:
    """The distribution that :func:`random_log_linear` samples, as a problem with weighted rows.

    Its losses are expectations, the means over infinitely many demonstrations and pairs. So they
    measure how a policy that was trained on sampled rows generalises.

    Parameters
    ----------
    seed, prompts, responses, dimension
        As for :func:`random_log_linear`.
    conflict, sharpness, radius, beta, **settings
        As for :func:`random_log_linear`.

    Raises
    ------
    InputError
        As for :func:`random_log_linear`.
    """
    sizes = prompts * responses * dimension, 4 * prompts * responses**2
    check_memory("prompts", prompts, sum(sizes), "Use fewer prompts or responses.")
    rng = np.random.default_rng(seed)
    phi, demonstrator, judge = _truth(rng, prompts, responses, dimension, conflict, sharpness)
    z = phi @ demonstrator
    odds = np.exp(z - z.max(axis=1, keepdims=True))
    chosen, rejected, wins = every_pair(2 * phi @ judge)
    return LogLinear(
        features=phi.reshape(-1, dimension),
        offsets=np.arange(0, prompts * responses + 1, responses),
        demonstrations=np.arange(prompts * responses),
        chosen=chosen,
        rejected=rejected,
        radius=radius,
        beta=beta,
        demonstration_weights=(odds / odds.sum(axis=1, keepdims=True)).ravel(),
        pair_weights=wins,
        **settings,
    )


def every_pair(
    reward: Float[np.ndarray, "P n"],
) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """All ordered pairs of responses of a prompt, with the law of Bradley-Terry labels.

    Parameters
    ----------
    reward
        Rewards of n responses to each of P prompts.

    Returns
    -------
    chosen, rejected
        (M,) rows (prompt * n + response) of M = P n (n - 1) pairs.
    weights
        (M,) probability that the first is chosen: sigma(r(chosen) - r(rejected)).
    """
    prompts, n = reward.shape
    first, second = np.nonzero(~np.eye(n, dtype=bool))
    start = n * np.arange(prompts)[:, None]
    wins = 1 / (1 + np.exp(reward[:, second] - reward[:, first]))
    return (start + first).ravel(), (start + second).ravel(), wins.ravel()


def binary_example(radius: float = 4.0, beta: float = 1.0) -> LogLinear:
    """One prompt, two responses, one parameter: the preference contradicts the demonstration.

    phi is 1 for the preferred response and 0 for the demonstrated one, so
    f_DPO = log(1 + exp(-beta theta)) and f_SFT = log(1 + exp(theta)); see T3.

    Parameters
    ----------
    radius, beta
        Attributes of :class:`~tradeoff.convex.LogLinear`.
    """
    return LogLinear.from_prompts([[[1.0], [0.0]]], [(0, 1)], [(0, 0, 1)], radius=radius, beta=beta)


@checked
def random_quadratic(
    seed: Seed = 0,
    *,
    dimension: Annotated[int, Within(1, 10**4)] = 2,
    condition: Annotated[float, Within(1, 1e12)] = 10.0,
    distance: Annotated[float, Within(0, 1e6)] = 2.0,
    noise: Annotated[float, Within(0, 1e6)] = 0.3,
    radius: Radius = np.inf,
) -> Quadratic:
    """Draw two quadratics whose Hessians have random axes.

    Parameters
    ----------
    seed
        Seed of all random draws.
    dimension
        Number of parameters.
    condition
        Eigenvalues lie in [1/condition, 1].
    distance
        Distance between the two centres, with the origin halfway between them.
    noise
        Standard deviation of each component of a stochastic gradient.
    radius
        Attribute of :class:`~tradeoff.convex.Quadratic`.
    """
    rng = np.random.default_rng(seed)
    basis = [np.linalg.qr(rng.normal(size=(dimension, dimension)))[0] for _ in range(2)]
    eigenvalues = condition ** -rng.random((2, dimension))
    hessians = np.stack([q * e @ q.T for q, e in zip(basis, eigenvalues, strict=True)])
    direction = rng.normal(size=dimension)
    half = distance / 2 * direction / np.linalg.norm(direction)
    return Quadratic(
        centres=np.stack([-half, half]),
        hessians=(hessians + hessians.transpose(0, 2, 1)) / 2,
        covariances=noise**2 * np.broadcast_to(np.eye(dimension), (2, dimension, dimension)),
        radius=radius,
    )


def _truth(
    rng: np.random.Generator,
    prompts: int,
    responses: int,
    dimension: int,
    conflict: float,
    sharpness: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Features (P, n, d) and the parameters (d,) of the demonstrator and of the judge."""
    phi = rng.normal(size=(prompts, responses, dimension)) / np.sqrt(dimension) * 2
    demonstrator, judge = sharpness * _two_directions(rng, dimension, conflict)
    return phi, demonstrator, judge


def _two_directions(
    rng: np.random.Generator, dimension: int, conflict: float
) -> NDArray[np.float64]:
    """Two unit vectors at angle ``conflict * pi``."""
    basis, _ = np.linalg.qr(rng.normal(size=(dimension, 2)))
    angle = np.pi * conflict
    return np.stack([basis[:, 0], np.cos(angle) * basis[:, 0] + np.sin(angle) * basis[:, 1]])
