"""Try to break every certificate: ``python -m tests.attack.certificates --problems 10000``.

Each problem is solved from good and bad starts, with loose and tight tolerances, and gets a front.
The larger gap, the limit gap with growth, and T2 with T12 are tested in turn. Every bound is
compared with an oracle that shares no code with the solver (`tests/attack/_oracle.py`); on some
problems cvxpy adds points. A bound fails if the oracle contradicts it. The counts of the last full
run, by promise, are stored in `certificates.json` beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tests.attack._adversary import FAMILIES, adversarial
from tests.attack._oracle import Long, Oracle
from tests.attack._outcome import Outcome
from tradeoff.convex import LogLinear, minimise, minimise_max_gap, pareto_front
from tradeoff.convex.certify import Point
from tradeoff.errors import InputError
from tradeoff.progress import tqdm
from tradeoff.theory import certificates, forgetting, growth, sequential

PROMISE = "No bound, certificate, front or score is contradicted by an independent oracle."
TRIES, FULL = 120, 1000

STORED = Path(__file__).with_suffix(".json")
GRID = np.array([0.0, 1e-7, 0.1, 0.5, 0.9, 1.0])
WITH_CVXPY = 100
"""cvxpy also solves one problem in this number."""


class Tally:
    """Counts of tries and failures of every promise, and the accuracy of the oracle."""

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.stopped: Counter[str] = Counter()
        self.examples: list[str] = []
        self.widths: list[float] = []

    def check(self, promise: str, holds: Any, seed: int, told: Any = "") -> None:
        self.tries[promise] += 1
        if not bool(np.all(holds)):
            self.failures[promise] += 1
            self.examples.append(f"{promise}: problem {seed}: {told}")

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        self.tries += other.tries
        self.failures += other.failures
        self.stopped += other.stopped
        self.examples += other.examples
        self.widths += other.widths

    def summary(self, **about: Any) -> dict[str, Any]:
        promises = {
            name: {"tries": n, "failures": self.failures[name]} for name, n in self.tries.items()
        }
        sharp = float(np.mean(np.array(self.widths) < 1e-9)) if self.widths else 0.0
        return {
            **about,
            "families": list(FAMILIES),
            "promises": promises,
            "failures": sum(self.failures.values()),
            "solves_by_outcome": dict(self.stopped),
            "oracle_width_median": float(np.median(self.widths)),
            "oracle_within_1e-9": sharp,
            "examples": self.examples[:20],
        }


def attack(seed: int, tally: Tally, cvxpy: bool = False) -> None:
    """Test all bounds on one problem."""
    problem, rng = adversarial(seed), np.random.default_rng([13, seed])
    oracle = Oracle(problem)
    lam = float(rng.choice([0.0, 1.0, 0.5, rng.random()]))
    weights = np.array([1 - lam, lam])
    tight = minimise(problem, lam, tolerance=0.0)
    oracle.add(tight.theta)
    outside = problem.radius * 10.0 ** rng.uniform(0, 3) * rng.normal(size=problem.dimension)
    found = [
        tight,
        minimise(problem, lam, start=1.5 * tight.theta),
        minimise(problem, lam, start=outside, max_iterations=int(rng.integers(0, 4))),
        minimise(problem, lam, start=outside, tolerance=1e-2),
    ]
    front = pareto_front(problem, solves=int(rng.integers(2, 4)), accuracy=1e-3)
    ends = [minimise(problem, float(i), tolerance=0.0) for i in (0, 1)]
    for minimum in [*found, *front.minima, *ends]:
        oracle.add(minimum.theta)
    if cvxpy:
        oracle.add(_with_cvxpy(problem, lam))
    oracle.polish(weights)
    _minima(seed, problem, oracle, found, tally)
    _fronts(seed, problem, oracle, front, rng, tally)
    turn, inner = seed // len(FAMILIES) % 3, float(np.clip(lam, 0.02, 0.98))
    if turn == 0:
        _larger_gap(seed, problem, oracle, inner, tally)
    elif turn == 1:
        _limits(seed, problem, oracle, inner, rng, tally)
    else:
        _theory(seed, problem, lam, rng, tally)


def _minima(seed: int, problem: LogLinear, oracle: Oracle, found: list[Any], tally: Tally) -> None:
    for minimum in found:
        weights = np.array([1 - minimum.lam, minimum.lam], dtype=Long)
        low, high = oracle.enclosure(weights)
        exact = oracle.losses(minimum.theta)
        tally.widths.append(float((high - low) / max(Long(1), abs(high))))
        tally.stopped[minimum.stopped] += 1
        tally.check("certificate of a minimum", minimum.lower <= high, seed, minimum)
        gap = weights @ exact - low
        inside = np.sqrt(np.sum(np.asarray(minimum.theta, dtype=Long) ** 2)) <= problem.radius * (
            1 + Long(1e-15)
        )
        tally.check("parameters inside the ball", inside, seed, minimum)
        off = np.abs(exact - minimum.losses) <= minimum.rounding
        tally.check("losses within their rounding", off, seed, (minimum, exact, minimum.rounding))
        tally.check(
            "a converged minimum is one",
            not minimum.converged or gap <= minimum.certificate + (high - low),
            seed,
            minimum,
        )


def _fronts(
    seed: int,
    problem: LogLinear,
    oracle: Oracle,
    front: Any,
    rng: np.random.Generator,
    tally: Tally,
) -> None:
    grid = np.concatenate([GRID, rng.random(2)])
    lower, upper = front.value_bounds(grid)
    bounds = np.array([oracle.enclosure([1 - w, w]) for w in grid])
    known = np.array(oracle.known)
    tally.check("front, lower bound", lower <= bounds[:, 1], seed, lower - bounds[:, 1])
    tally.check("front, upper bound", upper >= bounds[:, 0], seed, upper - bounds[:, 0])
    units = (1 - grid) * front.ranges[0] + grid * front.ranges[1]
    worst = np.max((upper - bounds[:, 1]) / units)
    tally.check("error of a front", worst <= front.error * (1 + 1e-9) + 1e-12, seed, worst)
    tally.check("bounds at the ends", front.end_bounds <= known.min(axis=0), seed, front)
    thetas = [oracle.inside(problem.radius * rng.normal(size=problem.dimension)) for _ in range(4)]
    exact = np.array([oracle.losses(theta) for theta in thetas])
    score = front.score(exact.astype(float))
    # The gap of a policy is below the quotient at any weight with a lower bound of V ...
    above = np.min(((exact @ [1 - grid, grid]) - bounds[:, 0]) / units, axis=1)
    tally.check("front gap, from below", score.front_gap <= above + 1e-9 * (1 + above), seed, above)
    # ... and no policy is nearer to the front than to points that are known to be attained.
    excess = np.max(np.min((exact[:, None] - known) / front.ranges, axis=2), axis=1)
    over = score.front_gap_upper - excess
    tally.check("front gap, from above", over >= -1e-9 * (1 + np.abs(excess)), seed, over)
    corner = front.nadir + front.ranges
    inner, outer = front.hypervolume_bounds(corner)
    attained = _staircase(known.astype(float), corner)
    tally.check("hypervolume, from above", outer >= attained * (1 - 1e-9), seed, (outer, attained))
    unattained = _beyond(bounds[:, 0].astype(float), grid, corner, front.points)
    scale = 1e-9 * float(np.prod(corner - front.ideal) + 1e-300)
    tally.check("hypervolume, from below", inner <= unattained + scale, seed, (inner, unattained))


def _staircase(points: np.ndarray, corner: np.ndarray) -> float:
    """Area that attained points dominate, without their convex hull."""
    area, height = 0.0, corner[1]
    for x, y in points[np.lexsort((points[:, 1], points[:, 0]))]:
        if x < corner[0] and y < height:
            area += (corner[0] - x) * (height - y)
            height = y
    return float(area)


def _beyond(values: np.ndarray, grid: np.ndarray, corner: np.ndarray, points: np.ndarray) -> float:
    """Area up to the corner on the attainable side of every line of the oracle, in fine strips."""
    sft = np.linspace(max(0.0, values[0]), corner[0], 400) if corner[0] > values[0] else np.zeros(1)
    inner = (grid > 0) & (grid <= 1)
    floor = np.max((values[inner] - np.outer(sft, 1 - grid[inner])) / grid[inner], axis=1)
    height = np.maximum(corner[1] - floor, 0.0)
    # Heights rise with the SFT loss: the right end of each strip bounds it.
    return float(np.sum(np.diff(sft) * height[1:]))


def _larger_gap(seed: int, problem: LogLinear, oracle: Oracle, lam: float, tally: Tally) -> None:
    found = minimise_max_gap(problem, lam, max_solves=4)
    oracle.add(found.theta)
    pair = np.array([1 - lam, lam], dtype=Long)
    ends = [oracle.enclosure(w) for w in ([1, 0], [0, 1])]
    least, most = (np.array([end[i] for end in ends]) for i in (0, 1))
    high = min(np.max(pair * (losses - least)) for losses in oracle.known)
    here = np.max(pair * (oracle.losses(found.theta) - most))
    tally.check("certificate of the larger gap", found.lower <= high, seed, found)
    tally.check("value of the larger gap", found.value + found.certificate >= here, seed, found)


def _limits(
    seed: int,
    problem: LogLinear,
    oracle: Oracle,
    lam: float,
    rng: np.random.Generator,
    tally: Tally,
) -> None:
    first = "sft" if rng.random() < 0.5 else "preference"
    objective = int(first == "sft")
    fine = sequential.limit_gap(problem, lam, first)
    for tolerance in [10.0 ** rng.uniform(-8, 0)]:
        rough = sequential.limit_gap(problem, lam, first, tolerance=tolerance)
        (low, high), (least, most) = rough.enclosure, fine.enclosure
        tally.check(
            "limit gap, enclosures meet", low <= most and least <= high, seed, (rough, fine)
        )
        apart = float(np.linalg.norm(rough.last.theta - fine.last.theta))
        near = apart <= (rough.distance + fine.distance) * (1 + 1e-12)
        tally.check("distance to the minimiser", near, seed, (apart, rough.distance, fine.distance))
    tally.check("limit gap, T2", fine.lower.holds and fine.upper.holds, seed, fine)
    weights = np.array([1 - lam, lam], dtype=Long)
    oracle.add(fine.last.theta)
    low, high = oracle.enclosure(weights)
    here = weights @ oracle.losses(fine.last.theta)
    # The gap at the computed point, which may leave the enclosure by an amount that the distance
    # allows.
    ok = fine.enclosure[0] <= here - low and here - high <= fine.enclosure[1]
    tally.check("limit gap, at the point found", ok, seed, (fine, here - low, here - high))
    try:
        known = growth.growth(problem, objective)
    except InputError:
        return
    bottom = oracle.enclosure(np.eye(2)[objective])[0]
    for _ in range(4):
        s = oracle.inside(
            problem.radius * 10.0 ** rng.uniform(-3, 0) * rng.normal(size=problem.dimension)
        )
        rise = oracle.losses(s)[objective] - bottom
        bound = known.mu / 2 * np.sum((s - known.minimum.theta) ** 2)
        tally.check("growth", rise >= bound - known.rounding(problem.radius), seed, (rise, bound))


def _theory(
    seed: int, problem: LogLinear, lam: float, rng: np.random.Generator, tally: Tally
) -> None:
    theta = problem.project(problem.radius * rng.normal(size=problem.dimension))
    tally.check("T2 from above", certificates.upper_certificate(problem, lam, theta).holds, seed)
    tally.check("T2 from below", certificates.lower_certificate(problem, lam, theta).holds, seed)
    trained = int(rng.integers(2))
    rate = forgetting.forgetting_rate(problem, 0.5 * theta, trained)
    tally.check("T12, rate", rate.holds, seed, rate)
    step = forgetting.forgetting_step(problem, 0.5 * theta, 0.1, trained)
    tally.check("T12, step", step.holds, seed, step)
    for objective in (0, 1):
        modulus = growth.strong_convexity(problem, objective)
        model = problem.local_model(theta, np.eye(2)[objective])
        least = np.linalg.eigvalsh(model.hessian())[0]
        noise = Point.at(problem, theta, np.eye(2)[objective]).rounding.hessian
        tally.check("strong convexity", modulus <= least + noise, seed, (modulus, least))


def _with_cvxpy(problem: LogLinear, lam: float) -> np.ndarray:
    """Minimise by an independent model and solver; the centre if that fails."""
    import cvxpy as cp

    theta = cp.Variable(problem.dimension)
    z = problem.features @ theta
    spans = zip(problem.offsets[:-1], problem.offsets[1:], problem.prompt_weights, strict=True)
    sft = cp.sum([w * cp.log_sum_exp(z[a:b]) for a, b, w in spans if w > 0])
    r = problem.beta * (problem.dense_differences @ theta - problem.margin_shift)
    s = problem.label_smoothing
    preference = problem.preference_weights @ ((1 - s) * cp.logistic(-r) + s * cp.logistic(r))
    objective = cp.Minimize((1 - lam) * (sft - problem.demonstrated @ z) + lam * preference)
    try:
        cp.Problem(objective, [cp.norm(theta) <= problem.radius]).solve(solver=cp.CLARABEL)
    except cp.SolverError:
        return np.zeros(problem.dimension)
    found = theta.value
    usable = found is not None and np.all(np.isfinite(found))
    return np.asarray(found) if usable else np.zeros(problem.dimension)


def attacked(numbers: Sequence[int]) -> Tally:
    """Test all bounds on some problems."""
    tally = Tally()
    for seed in numbers:
        try:
            attack(seed, tally, cvxpy=seed % WITH_CVXPY == 0)
        except Exception as error:
            tally.check("no error", False, seed, repr(error))
    return tally


def run(tries: int, seed: int) -> Outcome:
    """Test all bounds on `tries` problems; each compared bound is counted."""
    tally, outcome = attacked(np.arange(tries) + seed * tries), Outcome()
    for promise, count in tally.tries.items():
        outcome.add(promise, tries=count)
    for text in tally.examples:
        outcome.add(text.split(":")[0], text, tries=0)
    return outcome


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack.certificates")
    parser.add_argument("--problems", type=int, default=10_000, help="how many to try")
    parser.add_argument("--first", type=int, default=0, help="number of the first problem")
    parser.add_argument("--jobs", type=int, default=1, help="processes; the counts do not change")
    parser.add_argument("--store", action="store_true", help=f"write {STORED.name}")
    given = parser.parse_args(arguments)
    numbers = np.arange(given.first, given.first + given.problems)
    parts = [part.tolist() for part in np.array_split(numbers, max(1, given.problems // 10))]
    tally = Tally()
    with (
        ProcessPoolExecutor(given.jobs) as pool,
        tqdm(total=given.problems, desc="problems", mininterval=1.0) as bar,
    ):
        for part, found in zip(parts, pool.map(attacked, parts), strict=True):
            tally.add(found)
            bar.update(len(part))
            bar.set_postfix(failures=sum(tally.failures.values()))
    command = "python -m tests.attack.certificates"
    command += f" --problems {given.problems} --first {given.first}"
    summary = tally.summary(command=command, problems=given.problems, first=given.first)
    print(f"{'promise':34}{'tries':>9}{'failures':>10}")
    for name, counts in summary["promises"].items():
        print(f"{name:34}{counts['tries']:9}{counts['failures']:10}")
    print(*summary["examples"], sep="\n")
    print(f"{summary['failures']} failures in {sum(tally.tries.values())} checks")
    if given.store:
        STORED.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    return int(summary["failures"] > 0)


if __name__ == "__main__":
    sys.exit(main())
