"""The user's own question: how much do two datasets conflict, and what is reachable?

Real rows become a log-linear problem (`tradeoff.convex.text`), whose Pareto front is certified.
On it stand the two sequential orders, their limits and the joint policies; every policy is judged
on held-out rows too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from tradeoff import plots, scores
from tradeoff.convex.front import Front, pareto_front
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.sampling import LogLinearSampler
from tradeoff.convex.simulate import StepSize, Trajectories, trajectories
from tradeoff.convex.solve import minimise
from tradeoff.convex.text import Candidates, Width, text_problem
from tradeoff.data.files import as_preferences, as_sft
from tradeoff.data.overlap import overlaps
from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.data.sources import Source, check_apart
from tradeoff.data.splits import hold_out
from tradeoff.display import Shown, cell
from tradeoff.progress import tqdm
from tradeoff.schedules import PREFERENCE, SFT, Mix, Schedule, Sequential
from tradeoff.settings import Positive, Share, Updates, Within, checked
from tradeoff.theory.joint import optimal_probability

Array = NDArray[np.float64]
RADII = (5.0, 10.0, 20.0, 40.0, 80.0)
"""Radii among which validation rows choose."""


@dataclass(frozen=True, repr=False)
class Analysis(Shown):
    """What two datasets make reachable together.

    Attributes
    ----------
    front
        The certified front on the training rows.
    policies
        One row per policy: its losses and accuracies on training and held-out rows, and its
        place relative to the front.
    paths
        Loss-space paths of the gradient runs: columns schedule, step, sft_loss, preference_loss.
    summary
        Single numbers, see :func:`analyse`.
    """

    front: Front
    policies: pd.DataFrame
    paths: pd.DataFrame
    summary: dict[str, Any]

    def table(self) -> pd.DataFrame:
        """The policies: one row each, see `policies`."""
        return self.policies

    def __repr__(self) -> str:
        conflict, lam = cell(self.summary["conflict"]), cell(self.summary["suggested_lam"])
        error = cell(self.front.error)
        return f"Analysis(conflict {conflict}, suggested lam {lam}, certified error {error})"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the front, the paths and the policies in loss space.

        Parameters
        ----------
        ax
            Axes to draw on; new ones by default.

        Returns
        -------
        Axes
            Those drawn on.
        """
        ax = plots.axes() if ax is None else ax
        ax.plot(*self.front.inner.T, **plots.FRONT)
        ax.plot(*self.front.ideal, **plots.IDEAL)
        x, y = self.front.ideal.tolist()
        plots.label_line(ax, x, y, "ideal point")
        for label, path in self.paths.groupby("schedule", observed=True, sort=False):
            look = plots.look(str(label))
            xy = path[["sft_loss", "preference_loss"]].to_numpy()
            ax.plot(*xy.T, **look.line_style(markevery=[-1], label=str(label)))
        for name, policy in self.policies[
            self.policies.kind.isin(["joint", "suggested"])
        ].iterrows():
            suggested = policy.kind == "suggested"
            point = (policy.sft_loss, policy.preference_loss)
            ax.plot(*point, "o", color="k", markersize=8 if suggested else 3, fillstyle="none")
            ax.annotate(
                str(name).removeprefix("joint "),
                point,
                xytext=(-5, -5) if suggested else (4, 3),
                textcoords="offset points",
                ha="right" if suggested else "left",
                va="top" if suggested else "bottom",
                fontsize=7,
            )
        ax.set(xlabel="SFT loss (nats)", ylabel="preference loss (nats)")
        ax.legend(loc="upper right")
        return ax


@checked
def analyse(
    sft: Sequence[SftRow] | Source,
    preference: Sequence[PreferenceRow] | Source,
    *,
    sft_test: Sequence[SftRow] | Source | None = None,
    preference_test: Sequence[PreferenceRow] | Source | None = None,
    lams: Sequence[Share] = (0.25, 0.5, 0.75),
    radius: Positive | None = None,
    beta: Positive = 1.0,
    candidates: Candidates = 8,
    n_features: Width = 2**14,
    solves: Annotated[int, Within(2, 10**6)] = 9,
    steps: Updates = 120,
    seed: Annotated[int, Within(0, 2**63 - 2)] = 0,
    progress: bool = False,
) -> Analysis:
    """Measure the conflict of two datasets and what each way of training reaches.

    Parameters
    ----------
    sft, preference
        Training rows of the two objectives, or what `tradeoff.read_sft` and
        `tradeoff.read_preferences` read them from.
    sft_test, preference_test
        Held-out rows; where they are not given, a tenth of the prompts is set aside, so that
        neither set trains on a prompt that either is tested on.
    lams
        Weights of the preference objective at which a joint policy is reported.
    radius
        Radius of the ball of parameters; by default the one of `RADII` that does best on a tenth
        of the training rows, set aside for the choice.
    beta
        Inverse temperature of DPO. In a log-linear model only ``beta * radius`` and the radius
        matter, so 1 is as general as 0.1 with a larger ball.
    candidates, n_features
        See :func:`tradeoff.convex.text.text_problem`. Held-out prompts have as many candidates as
        those trained on: where their own completions are too few, training rows lend some.
    solves
        Certified solves of the front.
    steps
        Full-gradient updates of the sequential runs and of Mix.
    seed
        Draws the candidates and the rows set aside.
    progress
        Show progress bars.

    Returns
    -------
    Analysis
        ``summary`` holds: rows (counts; repeated: held-out rows that training rows equal or nearly
        repeat), radius, beta, gradient_cosine (at the start), conflict
        (0: the ideal point is reachable; 1: every gain of one loss is paid in full by the other),
        sft_forgotten and preference_forgotten (share of the first stage's progress lost in the
        limit of the second, by order), suggested_lam (where both relative gaps are equal),
        suggested_share (of preference updates, T6), cost_ratio (of a pair to a demonstration, in
        words), certified_error.
    """
    shape: dict[str, Any] = {
        "candidates": candidates,
        "n_features": n_features,
        "seed": seed,
        "beta": beta,
    }
    sft, preference = as_sft(sft), as_preferences(preference)
    given = (
        None if sft_test is None else as_sft(sft_test),
        None if preference_test is None else as_preferences(preference_test),
    )
    check_apart(sft, given[0], "sft_test")
    check_apart(preference, given[1], "preference_test")
    sft_split, preference_split = hold_out((sft, given[0]), (preference, given[1]), 0.1, seed)
    sft, preference = list(sft_split.train), list(preference_split.train)
    sft_test, preference_test = list(sft_split.test), list(preference_split.test)
    repeated = overlaps([sft_test, preference_test], sft, preference)
    if radius is None:
        radius = choose_radius(sft, preference, seed + 1, progress=progress, **shape)
    problem = text_problem(sft, preference, radius=radius, **shape)
    test = _held_out(sft_test, preference_test, sft, radius=radius, **shape)
    front = pareto_front(problem, solves=solves, progress=progress)
    lam = balanced_weight(front)
    runs = _gradient_runs(problem, lam, steps, progress)
    thetas = _policies(problem, front, runs, lams, lam)
    summary = {
        "sft_rows": len(sft),
        "preference_rows": len(preference),
        "sft_test_rows": len(sft_test),
        "preference_test_rows": len(preference_test),
        "sft_test_rows_repeated": repeated[0].equal + repeated[0].near,
        "preference_test_rows_repeated": repeated[1].equal + repeated[1].near,
        "radius": radius,
        "beta": beta,
        "gradient_cosine": _cosine(problem.gradients(np.zeros(problem.dimension))),
        "conflict": front_conflict(front),
        **_forgotten(problem, front),
        "suggested_lam": lam,
        **_suggested_share(problem, front, lam, sft, preference),
        "certified_error": front.error,
    }
    return Analysis(front, _table(problem, test, front, thetas), _paths(problem, runs), summary)


def front_conflict(front: Front) -> float:
    """How far the front stays from its ideal point: 0 touches it, 1 is a straight line.

    Twice the smallest equal share of both ranges that has to be given up.
    """
    points = (front.inner - front.ideal) / front.ranges
    give = np.interp(0.0, points[:, 0] - points[:, 1], points[:, 0])
    return float(min(1.0, 2 * give))


def balanced_weight(front: Front) -> float:
    """The weight whose optimum gives up the same share of both ranges."""
    points = (front.points - front.ideal) / front.ranges
    return float(np.interp(0.0, points[:, 0] - points[:, 1], front.weights))


def choose_radius(
    sft: Sequence[SftRow],
    preference: Sequence[PreferenceRow],
    split_seed: int = 0,
    *,
    progress: bool = False,
    **shape: Any,
) -> float:
    """The radius of `RADII` whose joint optimum is best on a tenth of the prompts, set aside."""
    demonstrations, pairs = hold_out((sft, None), (preference, None), 0.1, split_seed)
    train = text_problem(demonstrations.train, pairs.train, radius=RADII[0], **shape)
    valid = _held_out(
        demonstrations.test, pairs.test, demonstrations.train, radius=RADII[0], **shape
    )
    start = scores.weighted_loss(valid.losses(np.zeros(valid.dimension)), 0.5)
    found: dict[float, float] = {}
    theta = np.zeros(train.dimension)
    for radius in tqdm(RADII, desc="radius", disable=not progress, leave=False):
        theta = minimise(replace(train, radius=radius), 0.5, tolerance=1e-3, start=theta).theta
        found[radius] = float(scores.weighted_loss(valid.losses(theta), 0.5) / start)
    return min(found, key=lambda r: found[r])


def _held_out(
    sft: Sequence[SftRow],
    preference: Sequence[PreferenceRow],
    trained: Sequence[SftRow],
    *,
    candidates: int = 8,
    **settings: Any,
) -> LogLinear:
    """Pose held-out rows with as many candidates as the rows trained on have.

    The loss of a choice among fewer would be smaller by that alone. Where completions are too few,
    rows trained on lend theirs, and have no weight themselves.
    """
    pool = {as_text(row.completion): row for row in trained}
    own = {as_text(row.completion) for row in sft}
    candidates = min(candidates, len(pool))
    others = [row for completion, row in pool.items() if completion not in own]
    lent = others[: max(0, candidates - len(own))]
    if lent:
        settings["demonstration_weights"] = np.repeat([1.0, 0.0], [len(sft), len(lent)])
    return text_problem([*sft, *lent], preference, candidates=candidates, **settings)


def _gradient_runs(problem: LogLinear, lam: float, steps: int, progress: bool) -> Trajectories:
    schedules: list[Schedule] = [
        Sequential(first="sft", lam=lam),
        Sequential(first="preference", lam=lam),
        Mix(lam=lam),
    ]
    return trajectories(
        problem,
        schedules,
        steps=steps,
        step_size=StepSize(1.0 / _curvature(problem)),
        replicas=1,
        checkpoints=np.arange(steps + 1),
        gradients="full",
        progress=progress,
    )


def _curvature(problem: LogLinear) -> float:
    """Largest Hessian eigenvalue of either loss at the centre, by power iteration."""
    theta = np.zeros(problem.dimension)
    vector = np.random.default_rng(0).normal(size=problem.dimension)
    largest = 0.0
    for weights in np.eye(2):
        model = problem.local_model(theta, weights)
        for _ in range(12):
            vector = model.curvature(vector / np.linalg.norm(vector))
        largest = max(largest, float(np.linalg.norm(vector)))
    return largest


def _policies(
    problem: LogLinear,
    front: Front,
    runs: Trajectories,
    lams: Sequence[float],
    suggested: float,
) -> dict[tuple[str, str], Array]:
    """Parameters of every reported policy, by (name, kind)."""
    policies = {("start", "start"): np.zeros(problem.dimension)}
    for name, k in (("SFT alone", 0), ("DPO alone", -1)):
        policies[name, "limit"] = front.thetas[k]
    for c, schedule in enumerate(runs.schedules):
        policies[f"{schedule.label} ({runs.checkpoints[-1]} steps)", "run"] = runs.last[c, 0, -1]
    weights = sorted(set(lams))
    names = [f"{lam:.3g}" for lam in weights]
    if len(set(names)) < len(names):
        names = [f"{lam}" for lam in weights]
    joint = {(f"joint λ={n}", "joint"): lam for n, lam in zip(names, weights, strict=True)}
    joint[f"suggested λ={suggested:.2g}", "suggested"] = suggested
    for key, lam in joint.items():
        nearest = front.thetas[int(np.argmin(np.abs(front.weights - lam)))]
        tolerance = 1e-4 * float(front.ranges.min())
        policies[key] = minimise(problem, lam, tolerance=tolerance, start=nearest).theta
    return policies


def _table(
    problem: LogLinear, test: LogLinear, front: Front, thetas: dict[tuple[str, str], Array]
) -> pd.DataFrame:
    stacked = np.stack(list(thetas.values()))
    names, kinds = zip(*thetas, strict=True)
    losses, held_out = problem.losses(stacked), test.losses(stacked)
    accuracy = np.array([test.accuracies(theta) for theta in stacked])
    table = pd.DataFrame(
        {
            "kind": kinds,
            "sft_loss": losses[:, SFT],
            "preference_loss": losses[:, PREFERENCE],
            "sft_loss_test": held_out[:, SFT],
            "preference_loss_test": held_out[:, PREFERENCE],
            "sft_accuracy_test": accuracy[:, SFT],
            "preference_accuracy_test": accuracy[:, PREFERENCE],
        },
        index=pd.Index(names, name="policy"),
    )
    place = front.score(losses)[["front_gap", "matched_weight"]]
    return table.join(place.set_index(table.index))


def _paths(problem: LogLinear, runs: Trajectories) -> pd.DataFrame:
    losses = runs.losses(problem)[:, 0]
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "schedule": schedule.label,
                    "step": runs.checkpoints,
                    "sft_loss": path[:, SFT],
                    "preference_loss": path[:, PREFERENCE],
                }
            )
            for schedule, path in zip(runs.schedules, losses, strict=True)
        ],
        ignore_index=True,
    )


def _forgotten(problem: LogLinear, front: Front) -> dict[str, float]:
    """Share of each objective's progress that is lost when the other one ends the training."""
    start = problem.losses(np.zeros(problem.dimension))
    alone, after = np.diag(front.points[[0, -1]]), np.diag(front.points[[-1, 0]])
    lost = 1 - scores.retention(alone, after, start)
    return {"sft_forgotten": float(lost[SFT]), "preference_forgotten": float(lost[PREFERENCE])}


def _suggested_share(
    problem: LogLinear,
    front: Front,
    lam: float,
    sft: Sequence[SftRow],
    preference: Sequence[PreferenceRow],
) -> dict[str, float]:
    """Share of preference updates that makes most of a compute budget, at the balanced weight."""
    theta = front.thetas[int(np.argmin(np.abs(front.weights - lam)))]
    moments = _second_moments(problem, theta)
    words = [
        float(np.mean([_words(r.prompt) + _words(r.completion) for r in sft])),
        float(
            np.mean(
                [2 * _words(r.prompt) + _words(r.chosen) + _words(r.rejected) for r in preference]
            )
        ),
    ]
    share = optimal_probability(
        lam, moments[SFT], moments[PREFERENCE], words[SFT], words[PREFERENCE]
    )
    return {"suggested_share": float(share), "cost_ratio": words[PREFERENCE] / words[SFT]}


def _second_moments(problem: LogLinear, theta: Array, samples: int = 1000) -> list[float]:
    """E|g|^2 of one data point's gradient, SFT and preference, from ``samples`` draws each."""
    sampler = LogLinearSampler(problem, 0, np.arange(50))
    many = np.broadcast_to(theta, (50, problem.dimension))
    return [
        float(
            np.mean(
                [np.sum(sampler.gradient(i, many, t) ** 2, axis=1) for t in range(samples // 50)]
            )
        )
        for i in (SFT, PREFERENCE)
    ]


def _words(text: Any) -> int:
    return len(as_text(text).split())


def _cosine(gradients: Array) -> float:
    a, b = gradients
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0 else 0.0
