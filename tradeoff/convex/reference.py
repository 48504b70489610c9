"""The specification of a run, in readable numpy, for any pair of objectives and any method.

`tradeoff.convex._kernels` reproduces it for dense log-linear problems, on the same draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tradeoff import draws
from tradeoff.convex._directions import Directions
from tradeoff.convex._hooks import ConvexHooks
from tradeoff.convex.sampling import Sampler
from tradeoff.convex.setting import Setting, alike
from tradeoff.progress import tqdm
from tradeoff.schedules import SFT, Plan, Rule

Array = NDArray[np.float64]
LEAST_PULL = 1e-9
"""Sums of pulls below this count as this where an iterate is weighed by their inverse."""


def run(setting: Setting) -> tuple[Array, Array, NDArray[np.int64]]:
    """Run all configurations and replicas.

    Returns
    -------
    last, average, counts
        (C, R, K, d), (C, R, K, d) and (C, R, K, 2), see `tradeoff.convex.Trajectories`.
    """
    problem, plans = setting.problem, setting.plans
    configurations, steps = setting.alphas.shape
    directions = Directions(setting)
    hooks = ConvexHooks(setting, directions)
    places = alike(id(plan) for plan in plans)
    grouped = [(plans[members[0]], members) for _, members in places]
    watching = any(plan.watched for plan, _ in grouped)
    # Where all plans follow both objectives, no draw says which.
    drawn = ~np.logical_and.reduce([plan.together for plan, _ in grouped])
    replica = np.tile(np.arange(setting.replicas), configurations)
    sampler = directions.plain(replica) if watching else None
    objective_key = draws.keys(setting.seed, np.arange(setting.replicas), draws.OBJECTIVE)
    shape = (configurations, setting.replicas)
    theta = np.broadcast_to(setting.start, (*shape, problem.dimension)).copy()
    known = np.zeros((*shape, 2))
    mean, mass = theta.copy(), np.zeros(shape)
    count = np.zeros((*shape, 2), dtype=np.int64)
    records: list[tuple[Array, Array, NDArray[np.int64]]] = []
    marks = set(setting.checkpoints.tolist())
    for t in tqdm(range(steps + 1), desc="updates", disable=not setting.progress, leave=False):
        if t in marks:
            records.append((hooks.output(theta, t), mean.copy(), count.copy()))
        if t == steps:
            break
        hooks.begin(theta, t, count)
        u = draws.uniform(objective_key, t) if drawn[t] else np.zeros(setting.replicas)
        weights = np.empty((*shape, 2))
        share = np.ones(shape)
        for plan, members in grouped:
            if plan.together[t]:
                weights[members] = plan.weights[t]
            elif not plan.watched:
                weights[members] = plan.follow(t, u)
            for c in members.tolist() if plan.watched else ():
                values = _values(setting, sampler, theta, c, t)
                weights[c], share[c], known[c] = _follow_values(
                    plan, t, u, values, known[c], setting
                )
            if plan.clock[t] == 1:
                mass[members] = 0.0
        mass += share
        part = np.divide(share, mass, out=np.zeros(shape), where=mass > 0)
        mean += part[..., None] * (theta - mean)
        direction = hooks.direct(directions(theta, weights, t), theta, t)
        theta = problem.project(theta - setting.alphas[:, t, None, None] * direction)
        hooks.finish(theta, t)
        count += directions.followed(weights, t)
    last, average, counts = (np.stack(parts, axis=2) for parts in zip(*records, strict=True))
    return last, average, counts


def _follow_values(
    plan: Plan, t: int, u: Array, values: Array, known: Array, setting: Setting
) -> tuple[Array, Array, Array]:
    """Gradient weights, averaging weights and the values known after the choice."""
    refresh = plan.gaps.refresh
    if t == 0 or (refresh is not None and t % refresh == 0):
        known = values
    gaps = known - (setting.optima + plan.gaps.optimum_error)
    chosen = plan.choose(t, u, gaps, setting.base).astype(int)
    row = np.arange(len(chosen))
    known = known.copy()
    known[row, chosen] = values[row, chosen]
    return plan.follow(t, u, gaps, setting.base), _shares(plan, t, chosen, gaps), known


def _shares(plan: Plan, t: int, chosen: NDArray[np.int64], gaps: Array) -> Array:
    """Averaging weights of the iterates at which runs follow the chosen objectives."""
    if plan.rule is Rule.WITHIN_LIMIT:
        return np.asarray(chosen != SFT, dtype=float)
    if plan.rule is Rule.SMOOTH_GAP:
        return np.asarray(1 / np.maximum(plan.pulls(gaps).sum(-1), LEAST_PULL))
    pair = np.asarray(plan.gaps.weights)[chosen]
    taken = plan.weights[t][chosen]
    return np.asarray(np.divide(taken, pair, out=np.ones_like(pair), where=pair > 0))


def _values(setting: Setting, sampler: Sampler | None, theta: Array, c: int, t: int) -> Array:
    """(R, 2) loss values of configuration c at its current iterates, exact or estimated."""
    samples = setting.plans[c].gaps.samples
    if samples == 0:
        return np.asarray(setting.problem.losses(theta[c]))
    assert sampler is not None, "a plan that looks at losses has a sampler"
    flat = theta.reshape(-1, theta.shape[-1])
    both = [sampler.loss(i, flat, t, samples).reshape(theta.shape[:2])[c] for i in (0, 1)]
    return np.stack(both, axis=-1)
