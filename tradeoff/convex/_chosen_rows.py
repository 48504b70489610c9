"""Training rows of a log-linear problem, selected by the data part of a method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradeoff.convex._padded import padded
from tradeoff.convex.log_linear import LogLinear
from tradeoff.errors import InputError
from tradeoff.methods.transforms import Documents, Transform
from tradeoff.methods.transforms.retrieved import Expanded, InContext
from tradeoff.methods.transforms.written import Prompts, Written
from tradeoff.schedules import PREFERENCE, SFT


@dataclass(frozen=True, eq=False)
class ProblemRows:
    """Training rows of one objective, in the form that a transform takes.

    Attributes
    ----------
    problem, objective
        The problem, and the objective: SFT is 0, PREFERENCE is 1.
    start
        (d,) parameters before training.
    """

    problem: LogLinear
    objective: int
    start: NDArray[np.float64]

    @property
    def _responses(self) -> NDArray[np.int64]:
        """(n, sides) rows of the problem's responses."""
        if self.objective == SFT:
            return self.problem.demonstrations[:, None]
        return np.stack([self.problem.chosen, self.problem.rejected], axis=1)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n, sides) ones: every response counts as one token."""
        return np.ones_like(self._responses)

    def log_probs(self) -> NDArray[np.float64]:
        """(n, sides) log-probabilities at the start."""
        return np.asarray(self.problem.log_probs(self.start)[self._responses])


def trained_on(problem: LogLinear, transform: Transform, start: NDArray[np.float64]) -> LogLinear:
    """The problem with only the rows that a transform keeps, and their weights."""
    if isinstance(transform, Written):
        return _written(problem, transform, start)
    if isinstance(transform, Expanded):
        return _expanded(problem, transform)
    sft, pairs = (
        transform.chosen(ProblemRows(problem, objective, start)) for objective in (SFT, PREFERENCE)
    )
    of_pairs = ("chosen", "rejected", "pair_weights", "reference_margins")
    places = {"demonstrations": sft, "demonstration_weights": sft, **dict.fromkeys(of_pairs, pairs)}
    given = {name: getattr(problem, name) for name in places}
    chosen: dict[str, Any] = {
        name: None if values is None else values[places[name]] for name, values in given.items()
    }
    return replace(problem, **chosen)


def _written(problem: LogLinear, transform: Written, start: NDArray[np.float64]) -> LogLinear:
    """The problem with demonstrations, or pairs, that a transform writes: rows with weights."""
    _check_dense(problem, transform)
    rows = problem.demonstrations
    prompts = problem.prompt_of_row[rows]
    place, present = (each[prompts] for each in padded(problem.offsets))
    features = np.asarray(problem.features)
    given = Prompts(
        np.where(present, problem.log_probs(start)[place], -np.inf),
        rows - place[:, 0],
        prompts,
        features[rows],
        features[problem.chosen],
    )
    law = np.where(present, transform.law(given), 0.0) * problem.sft_weights[:, None]
    if transform.pairs:
        return _against(problem, place, law, start)
    weights = np.bincount(place.ravel(), weights=law.ravel(), minlength=len(features))
    kept = np.flatnonzero(weights)
    if not len(kept):
        raise InputError(
            f"{transform.label} leaves no demonstrations",
            field="data",
            value=transform.name,
            remedy="Leave out fewer of them.",
        )
    return replace(problem, demonstrations=kept, demonstration_weights=weights[kept])


def documents_of(problem: LogLinear, transform: Transform) -> Documents:
    """Prompts, responses and demonstrations of a problem, as a transform looks them up.

    Raises
    ------
    InputError
        If the features are not dense.
    """
    _check_dense(problem, transform)
    place, present = padded(problem.offsets)
    features = np.where(present[..., None], np.asarray(problem.features)[place], 0.0)
    return Documents(features, present, np.where(present, problem.demonstrated[place], 0.0))


def added_logits(problem: LogLinear, transform: InContext) -> NDArray[np.float64]:
    """(N,) what demonstrations in the prompt add to the logits of all responses."""
    given = documents_of(problem, transform)
    return np.asarray(transform.added(given)[given.present])


def _expanded(problem: LogLinear, transform: Expanded) -> LogLinear:
    """The problem with new prompts after its own ones, and their answers as demonstrations."""
    new = transform.new(documents_of(problem, transform))
    if not len(new.present):
        return problem
    sizes, own = new.present.sum(axis=1), len(problem.features)
    law = new.weights[new.present]
    answers = np.flatnonzero(law)
    return replace(
        problem,
        features=np.concatenate([problem.features, new.features[new.present]]),
        offsets=np.concatenate([problem.offsets, own + np.cumsum(sizes)]),
        demonstrations=np.concatenate([problem.demonstrations, own + answers]),
        demonstration_weights=np.concatenate([problem.sft_weights, law[answers]]),
    )


def _check_dense(problem: LogLinear, transform: Transform) -> None:
    if not problem.is_dense:
        raise InputError(
            "responses are written on problems with dense features alone",
            field="data",
            value=transform.name,
            remedy="Give features as an array, or use another method.",
        )


def _against(
    problem: LogLinear, place: NDArray[np.int64], law: Any, start: NDArray[np.float64]
) -> LogLinear:
    """The problem with pairs of demonstrations and other responses (n, K), by weights (n, K)."""
    chosen = np.broadcast_to(problem.demonstrations[:, None], place.shape)
    # A response beside itself would have no slope.
    used = (law > 0) & (chosen != place)
    weights = law[used] / law.sum()
    return replace(
        problem,
        chosen=chosen[used],
        rejected=place[used],
        pair_weights=weights,
        reference=start,
        reference_margins=None,
    )
