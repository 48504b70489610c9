"""An independent bound on every minimum: duality, evaluated in extended precision.

Nothing here uses the package's losses, gradients or solver, only the arrays of a problem. For any
probabilities p and any t in [0, 1],

    log sum exp z >= p . z + H(p)   and   log(1 + exp u) >= t u + h(t),

with the entropies H and h. In f_lambda they give a function that is linear in theta, and its
minimum on the ball is known. So any p and t give a lower bound on f_lambda*, and a feasible theta
gives an upper bound. Neither bound depends on how its p, t or theta was found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Long = np.longdouble


class Oracle:
    """Losses, dual bounds and enclosures of one log-linear problem in extended precision."""

    def __init__(self, problem: Any) -> None:
        self.radius, self.beta = Long(problem.radius), Long(problem.beta)
        self.flip = Long(problem.label_smoothing)
        phi = np.asarray(problem.dense_features, dtype=Long)
        self.phi, self.starts = phi, problem.offsets[:-1]
        self.prompt = np.repeat(np.arange(len(self.starts)), np.diff(problem.offsets))
        self.delta = phi[problem.chosen] - phi[problem.rejected]
        self.shift = np.zeros(len(self.delta), dtype=Long)
        if problem.reference is not None:
            self.shift = self.delta @ np.asarray(problem.reference, dtype=Long)
        if problem.reference_margins is not None:
            self.shift = np.asarray(problem.reference_margins, dtype=Long)
        self.shown = np.zeros(len(phi), dtype=Long)
        np.add.at(
            self.shown,
            problem.demonstrations,
            _weights(problem.demonstration_weights, problem.demonstrations),
        )
        self.pairs = _weights(problem.pair_weights, problem.chosen)
        self.prompts = np.add.reduceat(self.shown, self.starts)
        self.points: list[np.ndarray] = []
        self.known: list[np.ndarray] = []

    def inside(self, theta: Any) -> np.ndarray:
        """Project to the ball, in extended precision."""
        point = np.asarray(theta, dtype=Long)
        norm = np.sqrt(np.sum(point * point))
        return point * (self.radius / norm * (1 - Long(2) ** -60)) if norm > self.radius else point

    def losses(self, theta: np.ndarray) -> np.ndarray:
        """(2,) SFT and preference loss at theta."""
        z = self.phi @ np.asarray(theta, dtype=Long)
        peak = np.maximum.reduceat(z, self.starts)
        below = z - peak[self.prompt]
        odds = np.where(below == 0, Long(0), np.exp(below))
        ties = np.add.reduceat((below == 0).astype(Long), self.starts) - 1
        others = np.add.reduceat(odds, self.starts) + ties
        sft = self.prompts @ np.log1p(others) - self.shown @ below
        r = self.beta * (self.delta @ np.asarray(theta, dtype=Long) - self.shift)
        dpo = (1 - self.flip) * _softplus(-r) + self.flip * _softplus(r)
        return np.array([sft, self.pairs @ dpo])

    def gradient(self, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
        p, t = self._duals(theta)
        slope = weights[0] * (self.prompts[self.prompt] * p - self.shown)
        pull = weights[1] * self.beta * self.pairs * (self.flip - t)
        return slope @ self.phi + pull @ self.delta

    def _duals(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = self.phi @ np.asarray(theta, dtype=Long)
        e = np.exp(z - np.maximum.reduceat(z, self.starts)[self.prompt])
        p = e / np.add.reduceat(e, self.starts)[self.prompt]
        r = self.beta * (self.delta @ np.asarray(theta, dtype=Long) - self.shift)
        return p, np.exp(-_softplus(r))

    def dual(self, theta: np.ndarray, weights: np.ndarray) -> Any:
        """Lower bound on min ``weights @ losses``, from the dual variables at theta."""
        p, t = self._duals(theta)
        # s log(1 + e^r) has the dual variable 1 - t; the sum of both terms is linear in r.
        entropy = -_xlogx(p) @ self.prompts[self.prompt]
        bits = -_xlogx(t) - _xlogx(1 - t)
        slope = -t * (1 - self.flip) + (1 - t) * self.flip
        constant = weights[0] * entropy
        constant += weights[1] * (self.pairs @ (bits - slope * self.beta * self.shift))
        v = (weights[0] * (self.prompts[self.prompt] * p - self.shown)) @ self.phi
        v = v + (weights[1] * self.beta * self.pairs * slope) @ self.delta
        bound = constant - self.radius * np.sqrt(np.sum(v * v))
        size = abs(constant) + self.radius * np.sqrt(np.sum(v * v)) + self._size(weights)
        return bound - 64 * len(self.phi) * np.finfo(Long).eps * size

    def _size(self, weights: np.ndarray) -> Any:
        longest = np.sqrt(np.max(np.sum(self.phi**2, axis=1)))
        return longest * self.radius * (weights[0] + 2 * weights[1] * self.beta)

    def add(self, theta: Any) -> None:
        """Store a point, which every later enclosure may use."""
        self.points.append(self.inside(theta))
        self.known.append(self.losses(self.points[-1]))

    def enclosure(self, weights: Any) -> tuple[Any, Any]:
        """Bounds (lower, upper) on min ``weights @ losses`` over the ball."""
        weights = np.asarray(weights, dtype=Long)
        values = np.array(self.known) @ weights
        near = np.argsort(values)[:3]  # good points give good dual variables
        least = weights[0] * 0  # losses are never negative
        return max([least, *(self.dual(self.points[i], weights) for i in near)]), values[near[0]]

    def polish(self, weights: Any, steps: int = 4) -> None:
        """Improve the best known point by descent, and store the result."""
        weights = np.asarray(weights, dtype=Long)
        best = int(np.argmin(np.array(self.known) @ weights))
        theta, value, length = self.points[best], weights @ self.known[best], Long(1)
        for _ in range(steps):
            gradient = self.gradient(theta, weights)
            trial = self.inside(theta - length * gradient)
            there = weights @ self.losses(trial)
            if there < value:
                theta, value, length = trial, there, 4 * length
            else:
                length /= 16
        self.add(theta)


def _weights(given: Any, rows: np.ndarray) -> np.ndarray:
    values = np.ones(len(rows), dtype=Long) if given is None else np.asarray(given, dtype=Long)
    return values / values.sum()


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, Long(0)) + np.log1p(np.exp(-np.abs(x)))


def _xlogx(p: np.ndarray) -> np.ndarray:
    p = np.maximum(p, Long(0))
    return p * np.log(np.where(p > 0, p, Long(1)))
