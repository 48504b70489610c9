"""Analysis of two datasets: how much they conflict, and which losses are reachable together.

Real rows become a log-linear problem (`tradeoff.convex.text`), whose Pareto front is certified. The
policies of both sequential orders, their limits and joint policies are compared with the front.
Every policy is also evaluated on held-out rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from tradeoff import doubts, plots, scores, trust
from tradeoff.convex.front import Front, pareto_front
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.sampling import LogLinearSampler
from tradeoff.convex.simulate import StepSize, Trajectories, trajectories
from tradeoff.convex.solve import minimise
from tradeoff.convex.text import Candidates, Features, Width, text_problem
from tradeoff.data.files import as_preferences, as_sft
from tradeoff.data.overlap import overlaps
from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.data.sample import sampled
from tradeoff.data.sources import Source, check_apart
from tradeoff.data.splits import Split, hold_out
from tradeoff.data.words import count as words
from tradeoff.display import Shown, cell
from tradeoff.doubts import Doubt
from tradeoff.progress import tqdm
from tradeoff.schedules import PREFERENCE, SFT, Mix, Schedule, Sequential
from tradeoff.settings import Positive, Share, Updates, Within, checked
from tradeoff.theory.joint import optimal_probability

Array = NDArray[np.float64]
RADII = (5.0, 10.0, 20.0, 40.0, 80.0)
"""Radii among which the loss on validation rows selects."""
EQUAL_STAGES = 0.5
"""Share of the first stage in sequential runs: stages have equal length at every weight."""
MAX_ROWS = 25_000
"""Default number of rows drawn from each larger set."""
MAX_LETTERS = 8_000_000
"""Largest number of letters of the drawn responses: a million rows then take about 1 GiB."""


@dataclass(frozen=True, repr=False)
class Analysis(Shown):
    """Result of :func:`analyse`: front, policies, paths, summary and doubts.

    Attributes
    ----------
    front
        The certified front on the training rows.
    policies
        One row per policy: its losses on training rows, losses and accuracies on held-out rows, and
        its place relative to the front.
    paths
        Loss-space paths of the gradient runs: columns schedule, step, sft_loss, preference_loss.
    summary
        Single numbers, see :func:`analyse`.
    doubts
        Limits of the analysis for these data, and the numbers that each of them affects.
    trust
        How far the features may be trusted, in one sentence.
    """

    front: Front
    policies: pd.DataFrame
    paths: pd.DataFrame
    summary: dict[str, Any]
    doubts: tuple[Doubt, ...] = ()
    trust: str = ""

    @property
    def in_doubt(self) -> tuple[str, ...]:
        """Names of the summary's numbers that some doubt affects, in the summary's order."""
        affected = {name for doubt in self.doubts for name in doubt.affects}
        return tuple(name for name in self.summary if name in affected)

    def table(self) -> pd.DataFrame:
        """The table `policies`, one row per policy."""
        return self.policies

    def __repr__(self) -> str:
        conflict, lam = cell(self.summary["conflict"]), cell(self.summary["suggested_lam"])
        error = cell(self.front.error)
        kinds = ", ".join(dict.fromkeys(d.kind for d in self.doubts if d.affects))
        doubt = f"in doubt, see doubts: {kinds}; " if kinds else ""
        return f"Analysis({doubt}conflict {conflict}, suggested lam {lam}, certified error {error})"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the front, the paths and the policies in loss space.

        Parameters
        ----------
        ax
            Axes to draw on; new ones by default.

        Returns
        -------
        Axes
            The axes with the drawing.
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
    features: Features | None = None,
    solves: Annotated[int, Within(2, 10**6)] = 9,
    steps: Updates = 120,
    max_rows: Annotated[int, Within(2, 10**9)] | None = None,
    seed: Annotated[int, Within(0, 2**63 - 2)] = 0,
    progress: bool = False,
) -> Analysis:
    """Measure the conflict of two datasets, and the losses that each way of training reaches.

    Parameters
    ----------
    sft, preference
        Training rows of the two objectives, or a source of rows that `tradeoff.read_sft` and
        `tradeoff.read_preferences` accept.
    sft_test, preference_test
        Held-out rows. By default a tenth of the prompts is held out, so that neither set trains on
        a prompt of either test set.
    lams
        Weights of the preference objective at which a joint policy is reported.
    radius
        Radius of the ball of parameters. By default the one of `RADII` with the least loss on a
        tenth of the training rows, held out for this choice.
    beta
        Inverse temperature of DPO. In a log-linear model only ``beta * radius`` and the radius
        matter, so 1 is as general as 0.1 with a larger ball.
    candidates, n_features
        See :func:`tradeoff.convex.text.text_problem`. Held-out prompts have as many candidates as
        training prompts; where they have too few completions, training rows supply the others.
    features
        Features of responses in place of hashed words, such as those of a model
        (`tradeoff.llm.pooled.PooledStates`). ``n_features`` then has no effect.
    solves
        Certified solves of the front.
    steps
        Full-gradient updates of the sequential runs and of Mix.
    max_rows
        Number of rows drawn uniformly from each larger set. By default it is `MAX_ROWS`, or fewer
        for long responses, which then have `MAX_LETTERS` in total. `Analysis.doubts` says how many
        rows were left out.
    seed
        Seed of the draws of rows, candidates and held-out rows.
    progress
        Show progress bars.

    Returns
    -------
    Analysis
        ``summary`` has these numbers:

        - numbers of rows; "repeated" counts held-out rows that equal or nearly equal training rows;
        - radius, beta, and gradient_cosine at the start;
        - conflict: 0 if the ideal point is reachable; 1 if the front is a straight line, so that
          every gain of one loss costs as much of the other; NaN if one objective cannot be trained;
        - sft_forgotten and preference_forgotten: share of the first stage's progress that is lost
          in the limit of the second stage, by order;
        - suggested_lam: the weight at which both relative gaps are equal; NaN without a trade-off;
        - suggested_share: the share of preference updates that T6 suggests;
        - cost_ratio: cost of a pair over cost of a demonstration, in words (`tradeoff.data.words`);
        - certified_error of the front.

    Raises
    ------
    InputError
        For rows that cannot be read or held out.
    """
    shape: dict[str, Any] = {
        "candidates": candidates,
        "n_features": n_features,
        "features": features,
        "seed": seed,
        "beta": beta,
    }
    draw: dict[str, Any] = {"sample": max_rows or MAX_ROWS, "seed": seed}
    read = [
        as_sft(sft, **draw),
        as_preferences(preference, **draw),
        None if sft_test is None else as_sft(sft_test, default_split=None, **draw),
        None
        if preference_test is None
        else as_preferences(preference_test, default_split=None, **draw),
    ]
    check_apart(read[0], read[2], "sft_test")
    check_apart(read[1], read[3], "preference_test")
    known, left_out = _drawn(read, max_rows, seed)
    sft_split, preference_split = hold_out((known[0], known[2]), (known[1], known[3]), 0.1, seed)
    rows = (
        Split(list(sft_split.train), list(sft_split.test)),
        Split(list(preference_split.train), list(preference_split.test)),
    )
    sft, preference = rows[0].train, rows[1].train
    if radius is None:
        radius = choose_radius(sft, preference, seed + 1, progress=progress, **shape)
    problem = text_problem(sft, preference, radius=radius, **shape)
    test = held_out_problem(rows[0].test, rows[1].test, sft, radius=radius, **shape)
    front = pareto_front(problem, solves=solves, progress=progress)
    tradable = not any(doubts.without_range(problem, front))
    lam = balanced_weight(front) if tradable else 0.5
    runs = _gradient_runs(problem, lam, steps, progress)
    thetas = _policies(problem, front, runs, lams, lam if tradable else None)
    table = _table(problem, test, front, thetas)
    found = [
        *left_out,
        *doubts.of_rows(sft, preference),
        *doubts.of_pairs(problem, shown(features)),
    ]
    found += [*doubts.of_front(problem, front), *_by_accuracy(table, test, rows)]
    summary = _counts(rows) | {"radius": radius, "beta": beta}
    summary |= _numbers(problem, front, lam if tradable else None, sft, preference)
    trusted = trust.sentence(trust.kind_of(features))
    return Analysis(front, table, _paths(problem, runs), summary, tuple(found), trusted)


def shown(features: Features | None) -> str:
    """What features show of a response, for :func:`tradeoff.doubts.of_pairs`."""
    return doubts.WORDS if features is None else getattr(features, "shown", doubts.OTHERS)


def _drawn(
    read: Sequence[Sequence[Any] | None], max_rows: int | None, seed: int
) -> tuple[list[Any], list[Doubt]]:
    """At most ``max_rows`` rows of each set, and a doubt for each set with rows left out."""
    names = ("SFT", "preference", "held-out SFT", "held-out preference")
    known = [None if rows is None else _at_most(rows, max_rows or MAX_ROWS, seed) for rows in read]
    letters = sum(_letters(row) for rows in known if rows is not None for row in rows)
    if max_rows is None and letters > MAX_LETTERS:
        share = MAX_LETTERS / letters
        known = [
            None if rows is None else _at_most(rows, max(2, int(share * len(rows))), seed)
            for rows in known
        ]
    found: list[Doubt] = []
    for name, rows, used in zip(names, read, known, strict=True):
        if rows is not None and used is not None:
            found += doubts.of_sample(name, len(used), len(rows) + getattr(rows, "left", 0))
    return known, found


def _at_most(rows: Sequence[Any], size: int, seed: int) -> Sequence[Any]:
    return sampled(rows, size, seed) if len(rows) > size else rows


def _letters(row: SftRow | PreferenceRow) -> int:
    responses = (row.completion,) if isinstance(row, SftRow) else (row.chosen, row.rejected)
    return sum(len(as_text(text)) for text in responses)


def _by_accuracy(
    table: pd.DataFrame, test: LogLinear, rows: tuple[Split[SftRow], Split[PreferenceRow]]
) -> Iterator[Doubt]:
    """Doubts about sets whose own optimum is near chance on held-out rows."""
    alone = table[table.kind == "limit"]
    accuracy = [
        alone.sft_accuracy_test.iloc[SFT],
        alone.preference_accuracy_test.iloc[PREFERENCE],
    ]
    shown = int(np.diff(test.offsets)[0])
    return doubts.of_accuracy(np.array(accuracy), (len(rows[0].test), len(rows[1].test)), shown)


def _counts(rows: tuple[Split[SftRow], Split[PreferenceRow]]) -> dict[str, Any]:
    """Numbers of rows of each set, and of held-out rows that training rows repeat."""
    sft, preference = rows
    repeated = overlaps([sft.test, preference.test], sft.train, preference.train)
    return {
        "sft_rows": len(sft.train),
        "preference_rows": len(preference.train),
        "sft_test_rows": len(sft.test),
        "preference_test_rows": len(preference.test),
        "sft_test_rows_repeated": repeated[0].equal + repeated[0].near,
        "preference_test_rows_repeated": repeated[1].equal + repeated[1].near,
    }


def _numbers(
    problem: LogLinear,
    front: Front,
    lam: float | None,
    sft: Sequence[SftRow],
    preference: Sequence[PreferenceRow],
) -> dict[str, Any]:
    """Single numbers of the front; NaN where an objective has no gain from training."""
    useless = doubts.flat(problem, front)
    conflict = 0.0 if lam is None else front_conflict(front)
    cosine = _cosine(problem.gradients(np.zeros(problem.dimension)))
    share = update_share(problem, front, 0.5 if lam is None else lam, sft, preference)
    if lam is None:
        share["suggested_share"] = float("nan")
    return {
        "gradient_cosine": float("nan") if any(useless) else cosine,
        "conflict": float("nan") if any(useless) else conflict,
        **_forgotten(problem, front, useless),
        "suggested_lam": float("nan") if lam is None else lam,
        **share,
        "certified_error": front.error,
    }


def front_conflict(front: Front) -> float:
    """Distance of the front from its ideal point: 0 if it contains it, 1 for a straight line.

    Computed as twice the smallest equal share of both ranges that a policy must give up.
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
    """The radius of `RADII` whose joint optimum is best on a held-out tenth of the prompts."""
    demonstrations, pairs = hold_out((sft, None), (preference, None), 0.1, split_seed)
    train = text_problem(demonstrations.train, pairs.train, radius=RADII[0], **shape)
    valid = held_out_problem(
        demonstrations.test, pairs.test, demonstrations.train, radius=RADII[0], **shape
    )
    start = scores.weighted_loss(valid.losses(np.zeros(valid.dimension)), 0.5)
    found: dict[float, float] = {}
    theta = np.zeros(train.dimension)
    for radius in tqdm(RADII, desc="radius", disable=not progress, leave=False):
        theta = minimise(replace(train, radius=radius), 0.5, tolerance=1e-3, start=theta).theta
        found[radius] = float(scores.weighted_loss(valid.losses(theta), 0.5) / start)
    return min(found, key=lambda r: found[r])


def held_out_problem(
    sft: Sequence[SftRow],
    preference: Sequence[PreferenceRow],
    trained: Sequence[SftRow],
    *,
    candidates: int = 8,
    **settings: Any,
) -> LogLinear:
    """Build the problem of held-out rows, with as many candidates as training rows have.

    The loss of a choice among fewer candidates would be smaller for that reason alone. If there are
    too few held-out completions, completions of training rows are added, with weight zero.
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
        Sequential(first="sft", lam=lam, share=EQUAL_STAGES),
        Sequential(first="preference", lam=lam, share=EQUAL_STAGES),
        Mix(lam=lam),
    ]
    return trajectories(
        problem,
        schedules,
        steps=steps,
        step_size=StepSize(1.0 / largest_curvature(problem)),
        replicas=1,
        checkpoints=np.arange(steps + 1),
        gradients="full",
        progress=progress,
    )


def largest_curvature(problem: LogLinear, *objectives: Array) -> float:
    """Largest Hessian eigenvalue at the centre, by power iteration.

    It is the largest over the weights ``objectives``, by default over the two losses.
    """
    theta = np.zeros(problem.dimension)
    vector = np.random.default_rng(0).normal(size=problem.dimension)
    largest = 0.0
    for weights in objectives or np.eye(2):
        model = problem.local_model(theta, weights)
        for _ in range(12):
            image = model.curvature(vector / np.linalg.norm(vector))
            if not image.any():  # this objective is flat
                break
            vector = image
        largest = max(largest, float(np.linalg.norm(image)))
    return largest or 1.0


def _policies(
    problem: LogLinear,
    front: Front,
    runs: Trajectories,
    lams: Sequence[float],
    suggested: float | None,
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
    if suggested is not None:
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
    if any(doubts.without_range(problem, front)):
        place[:] = np.nan  # undefined where the front is a point
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


def _forgotten(problem: LogLinear, front: Front, useless: tuple[bool, bool]) -> dict[str, float]:
    """Share of each objective's progress that is lost if the other one is trained last.

    NaN if one objective is `useless`: training on it then changes no policy.
    """
    start = problem.losses(np.zeros(problem.dimension))
    alone, after = np.diag(front.points[[0, -1]]), np.diag(front.points[[-1, 0]])
    lost = np.full(2, np.nan) if any(useless) else 1 - scores.retention(alone, after, start)
    return {"sft_forgotten": float(lost[SFT]), "preference_forgotten": float(lost[PREFERENCE])}


def update_share(
    problem: LogLinear,
    front: Front,
    lam: float,
    sft: Sequence[SftRow],
    preference: Sequence[PreferenceRow],
) -> dict[str, float]:
    """Best share of preference updates for a compute budget (T6), and the ratio of costs."""
    theta = front.thetas[int(np.argmin(np.abs(front.weights - lam)))]
    moments = _second_moments(problem, theta)
    lengths = [
        float(np.mean([_length(r.prompt, r.completion) for r in sft])),
        float(np.mean([_length(r.prompt, r.chosen, r.prompt, r.rejected) for r in preference])),
    ]
    share = optimal_probability(
        lam, moments[SFT], moments[PREFERENCE], lengths[SFT], lengths[PREFERENCE]
    )
    return {"suggested_share": float(share), "cost_ratio": lengths[PREFERENCE] / lengths[SFT]}


def _second_moments(problem: LogLinear, theta: Array, samples: int = 1000) -> list[float]:
    """E|g|^2 of one data point's gradient, SFT and preference, from ``samples`` draws each."""
    sampler = LogLinearSampler(problem, 0, np.arange(50))
    return [
        float(np.mean(sampler.squares(i, theta, sampler.drawn(i, range(samples // 50)))))
        for i in (SFT, PREFERENCE)
    ]


def _length(*texts: Any) -> int:
    return sum(words(as_text(text)) for text in texts)


def _cosine(gradients: Array) -> float:
    a, b = gradients
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0 else 0.0
