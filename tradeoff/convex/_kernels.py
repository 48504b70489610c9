"""Compiled runs of dense log-linear problems: `reference.run` on the same draws, fast.

Threads take blocks of runs. Runs are independent, so the number of threads changes no result. Each
update of a block has three phases:

1. the runs write their logits into one array, one run after another;
2. a polynomial exponential is applied to the whole array, which takes most of the time. The
   compiler vectorises this loop, which it cannot do with a call of libm;
3. the runs make their steps.

The kernels are one file because numba's cache notices changes of this file only. It misses those
of `draws.py`, whose functions it compiles in: after an edit there, remove `__pycache__`.
"""

from __future__ import annotations

import inspect
import itertools
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from tradeoff import draws
from tradeoff.convex.log_linear import LogLinear
from tradeoff.convex.reference import LEAST_PULL
from tradeoff.convex.setting import Setting
from tradeoff.progress import tqdm
from tradeoff.schedules import PREFERENCE, SFT, Plan, Rule

Array = NDArray[np.float64]
Index = NDArray[np.int64]

# The first call of get_num_threads starts numba's OpenMP threads. It also sets the number of
# threads of the calling thread, for torch too, to all of the machine's. So a thread that ends at
# once makes this call.
_starter = Thread(target=numba.get_num_threads)
_starter.start()
_starter.join()

BLOCK = 32
"""Runs per block: enough logits for one exponential loop, few enough to stay in the L1 cache."""

LARGER_GAP, WITHIN_LIMIT = int(Rule.LARGER_GAP), int(Rule.WITHIN_LIMIT)
SMOOTH_GAP = int(Rule.SMOOTH_GAP)
GOLDEN = draws.GOLDEN

# The full set would also assume that no number is NaN or infinite, and gains little.
REASSOCIATE = {"contract", "reassoc", "arcp", "nsz"}
# For code that cancels rounding errors on purpose: regrouping terms would undo it.
EXACT = {"contract"}
FAST = {"fastmath": REASSOCIATE, "error_model": "numpy", "no_cfunc_wrapper": True}
# Only compiled code calls these. Wrappers for calls from Python would take a quarter of the time
# that everything takes to compile.
INNER = {"no_cfunc_wrapper": True, "no_cpython_wrapper": True}
PART = {**FAST, **INNER}
INLINE = {**PART, "forceinline": True}

# The test suite wraps functions to check shapes; numba needs the functions themselves.
_mix = njit(**INNER)(inspect.unwrap(draws.mix))
_to_unit = njit(**INNER)(inspect.unwrap(draws.to_unit))


class Data(NamedTuple):
    """The problem as arrays; cumulative weights are empty where the weights are uniform."""

    features: Array
    offsets: Index
    demonstrations: Index
    prompts: Index  # of the demonstrations
    differences: Array
    shift: Array
    cumulative_demonstrations: Array
    cumulative_pairs: Array
    radius: float
    beta: float
    smoothing: float


class Totals(NamedTuple):
    """Data for exact losses: features by column, and equal data points merged into one."""

    responses: Array  # (d, N)
    offsets: Index
    prompt_weights: Array
    demonstrated: Array  # (1, d) weighted mean of the demonstrated features
    pairs: Array  # (d, U) differences of the distinct pairs
    shift: Array
    pair_weights: Array
    beta: float
    smoothing: float


class Plans(NamedTuple):
    """The plans of all configurations, stacked along the first axis."""

    rule: Index
    probability: Array
    weights: Array
    both: NDArray[np.bool_]  # whether an update follows both objectives
    restart: NDArray[np.bool_]
    alphas: Array
    pair: Array  # weights of the gaps
    refresh: Index  # 0: never
    samples: Index
    minima: Array
    allowed: Array  # largest gap of SFT at which WITHIN_LIMIT follows preferences
    temperature: Array


class Block(NamedTuple):
    """State of the runs of one block; the first axis is the run."""

    keys: NDArray[np.uint64]  # by stream
    theta: Array
    total: Array  # sum of the iterates, weighted by share
    mass: Array  # sum of the shares
    share: Array
    weights: Array  # of both gradients in this update
    point: Index  # data point of each objective
    line: Array  # logits of the prompts drawn, then their exponentials
    lines: Array  # the same memory as (., 4)
    odds: Array  # minus beta times the margin of the pair drawn, then its exponential
    known: Array  # loss values that the rule last evaluated
    counts: Index
    scratch: Array  # logits of all responses, margins of all pairs
    scratch_lines: Array


def run(setting: Setting) -> tuple[Array, Array, Index]:
    """Run all configurations and replicas.

    Parameters
    ----------
    setting
        A dense :class:`LogLinear` problem with stochastic gradients.

    Returns
    -------
    last, average, counts
        (C, R, K, d), (C, R, K, d) and (C, R, K, 2), as `reference.run` returns them.
    """
    problem: LogLinear = setting.problem
    exact = any(PREFERENCE in p.watched and p.gaps.samples == 0 for p in setting.plans)
    data, totals, plans = _data(problem), _totals(problem, exact), _plans(setting)
    replicas = np.arange(setting.replicas)
    keys = np.stack([draws.keys(setting.seed, replicas, s) for s in range(5)], axis=-1)
    shape = (len(setting.plans), setting.replicas, len(setting.checkpoints))
    last, average = np.empty((2, *shape, problem.dimension))
    counts = np.empty((*shape, 2), dtype=np.int64)

    def run_block(c: int, first: int) -> None:
        runs = slice(first, first + BLOCK)
        block = _new_block(problem, keys[runs], setting.start)
        records = (last[c, runs], average[c, runs], counts[c, runs])
        _run_block(data, totals, plans, c, block, setting.start, setting.checkpoints, *records)

    # Python threads are enough, because the compiled code releases the GIL. A free thread takes the
    # next block, so slow configurations do not hold up the others.
    blocks = list(itertools.product(range(shape[0]), range(0, setting.replicas, BLOCK)))
    pool = ThreadPoolExecutor(numba.get_num_threads())
    try:
        done = pool.map(run_block, *zip(*blocks, strict=True))
        hidden = not setting.progress
        for _ in tqdm(done, desc="blocks", total=len(blocks), disable=hidden, leave=False):
            pass
    finally:
        # Interrupted, it waits for no block.
        pool.shutdown(wait=False, cancel_futures=True)
    return last, average, counts


def _data(problem: LogLinear) -> Data:
    shown = np.asarray(problem.demonstrations, dtype=np.int64)
    cumulative = [np.zeros(0) if c is None else c for c in problem.cumulative_weights]
    return Data(
        features=_floats(problem.features),
        offsets=np.asarray(problem.offsets, dtype=np.int64),
        demonstrations=shown,
        prompts=problem.prompt_of_row[shown],
        differences=_floats(problem.pair_differences),
        shift=_floats(problem.margin_shift),
        cumulative_demonstrations=cumulative[SFT],
        cumulative_pairs=cumulative[PREFERENCE],
        radius=float(problem.radius),
        beta=float(problem.beta),
        smoothing=float(problem.label_smoothing),
    )


def _totals(problem: LogLinear, wanted: bool) -> Totals:
    """Merged data; without pairs where no plan needs exact losses, since merging takes time."""
    pairs = np.column_stack([problem.chosen, problem.rejected, problem.margin_shift])
    distinct, first, group = np.unique(
        pairs[: None if wanted else 0], axis=0, return_index=True, return_inverse=True
    )
    weights = problem.preference_weights[: len(group)]
    return Totals(
        responses=_floats(problem.features.T),
        offsets=np.asarray(problem.offsets, dtype=np.int64),
        prompt_weights=problem.prompt_weights,
        demonstrated=_floats(problem.demonstrated[None] @ problem.features),
        pairs=_floats(problem.pair_differences[first].T),
        shift=_floats(distinct[:, 2]),
        # An empty count would be of integers, for which the kernels would be compiled again.
        pair_weights=_floats(np.bincount(group, weights=weights, minlength=len(distinct))),
        beta=float(problem.beta),
        smoothing=float(problem.label_smoothing),
    )


def _plans(setting: Setting) -> Plans:
    def stack(values: list[Any], dtype: type = float) -> NDArray[Any]:
        return np.ascontiguousarray(np.stack([np.asarray(v, dtype=dtype) for v in values]))

    plans: list[Plan] = setting.plans
    return Plans(
        rule=stack([p.rule for p in plans], np.int64),
        probability=stack([p.probability for p in plans]),
        weights=stack([p.weights for p in plans]),
        both=stack([p.together for p in plans], np.bool_),
        restart=stack([p.clock == 1 for p in plans], np.bool_),
        alphas=_floats(setting.alphas),
        pair=stack([p.gaps.weights for p in plans]),
        refresh=stack([p.gaps.refresh or 0 for p in plans], np.int64),
        samples=stack([p.gaps.samples for p in plans], np.int64),
        minima=stack([setting.optima + np.asarray(p.gaps.optimum_error) for p in plans]),
        allowed=stack([p.allowed(setting.base) for p in plans]),
        temperature=stack([p.gaps.temperature for p in plans]),
    )


def _new_block(problem: LogLinear, keys: NDArray[np.uint64], start: Array) -> Block:
    runs, widest = len(keys), int(np.diff(problem.offsets).max())
    lines = np.zeros((runs * -(-widest // 4), 4))
    scratch = np.zeros((-(-max(problem.features.shape[0], len(problem.chosen)) // 4), 4))
    return Block(
        keys=keys,
        theta=np.tile(start, (runs, 1)),
        total=np.zeros((runs, len(start))),
        mass=np.zeros(runs),
        share=np.ones(runs),
        weights=np.zeros((runs, 2)),
        point=np.zeros((runs, 2), dtype=np.int64),
        line=lines.reshape(-1),
        lines=lines,
        odds=np.zeros(runs),
        known=np.zeros((runs, 2)),
        counts=np.zeros((runs, 2), dtype=np.int64),
        scratch=scratch.reshape(-1),
        scratch_lines=scratch,
    )


def _floats(array: Any) -> Array:
    return np.ascontiguousarray(array, dtype=float)


# ---------------------------------------------------------------------- runs and blocks


@njit(**FAST, nogil=True, cache=True)
def _run_block(
    data: Data,
    totals: Totals,
    plans: Plans,
    c: int,
    block: Block,
    start: Array,
    checkpoints: Index,
    last: Array,
    average: Array,
    counts: Index,
) -> None:
    for k in range(len(checkpoints)):
        for t in range(checkpoints[k - 1] if k > 0 else 0, checkpoints[k]):
            if plans.restart[c, t]:
                block.total.fill(0.0)
                block.mass.fill(0.0)
            if plans.rule[c] == LARGER_GAP:
                _follow_larger_gap(data, totals, plans, c, t, block)
            elif plans.rule[c] == SMOOTH_GAP:
                _follow_smooth_gap(data, totals, plans, c, t, block)
            elif plans.rule[c] == WITHIN_LIMIT:
                _follow_within_limit(data, totals, plans, c, t, block)
            else:
                _follow(plans, c, t, block)
            filled = _draw_points(data, t, block)
            _exponentials(block.line, 4 * filled)
            _exponentials(block.odds, len(block.odds))
            _step(data, plans.alphas[c, t], block)
        _record(start, block, k, last, average, counts)


@njit(**PART)
def _record(start: Array, block: Block, k: int, last: Array, average: Array, counts: Index) -> None:
    for r in range(len(block.theta)):
        for i in range(len(start)):
            last[r, k, i] = block.theta[r, i]
            average[r, k, i] = block.total[r, i] / block.mass[r] if block.mass[r] > 0 else start[i]
        counts[r, k, SFT] = block.counts[r, SFT]
        counts[r, k, PREFERENCE] = block.counts[r, PREFERENCE]


# ---------------------------------------------------------------------- which objective


@njit(**PART)
def _follow(plans: Plans, c: int, t: int, block: Block) -> None:
    """Gradient weights of the rules BOTH and DRAW."""
    sft, preference = plans.weights[c, t, SFT], plans.weights[c, t, PREFERENCE]
    both, probability = plans.both[c, t], plans.probability[c, t]
    for r in range(len(block.theta)):
        drawn = _uniform(block.keys[r, draws.OBJECTIVE], t) < probability
        block.weights[r, SFT] = sft if both or not drawn else 0.0
        block.weights[r, PREFERENCE] = preference if both or drawn else 0.0


@njit(**PART)
def _follow_larger_gap(
    data: Data, totals: Totals, plans: Plans, c: int, t: int, block: Block
) -> None:
    """Gradient and averaging weights of the rule LARGER_GAP."""
    refresh, samples = plans.refresh[c], plans.samples[c]
    fresh = t == 0 or (refresh > 0 and t % refresh == 0)
    for r in range(len(block.theta)):
        chosen = _larger_gap(plans, c, block.known, r)
        for i in range(2):
            if fresh or i == chosen:
                block.known[r, i] = _value(data, totals, samples, i, t, block, r)
        if fresh:
            chosen = _larger_gap(plans, c, block.known, r)
        taken, pair = plans.weights[c, t, chosen], plans.pair[c, chosen]
        block.weights[r, 1 - chosen] = 0.0
        block.weights[r, chosen] = taken
        block.share[r] = taken / pair if pair > 0 else 1.0


@njit(**PART)
def _follow_smooth_gap(
    data: Data, totals: Totals, plans: Plans, c: int, t: int, block: Block
) -> None:
    """Gradient and averaging weights of the rule SMOOTH_GAP."""
    refresh, samples = plans.refresh[c], plans.samples[c]
    fresh = t == 0 or (refresh > 0 and t % refresh == 0)
    for r in range(len(block.theta)):
        if fresh:
            for i in range(2):
                block.known[r, i] = _value(data, totals, samples, i, t, block, r)
        sft, preference = _pulls(plans, c, block.known, r)
        u = _uniform(block.keys[r, draws.OBJECTIVE], t)
        chosen = PREFERENCE if u * (sft + preference) < preference else SFT
        if not fresh:
            block.known[r, chosen] = _value(data, totals, samples, chosen, t, block, r)
        block.weights[r, 1 - chosen] = 0.0
        block.weights[r, chosen] = plans.weights[c, t, chosen]
        block.share[r] = 1.0 / max(sft + preference, LEAST_PULL)


@njit(fastmath=EXACT, error_model="numpy", forceinline=True)
def _pulls(plans: Plans, c: int, known: Array, r: int) -> tuple[float, float]:
    """What `Plan.pulls` returns."""
    first, second = plans.pair[c, SFT], plans.pair[c, PREFERENCE]
    sft = (known[r, SFT] - plans.minima[c, SFT]) * first / plans.temperature[c]
    preference = (known[r, PREFERENCE] - plans.minima[c, PREFERENCE]) * second
    preference /= plans.temperature[c]
    peak = max(sft, preference)
    a, b = np.exp(sft - peak), np.exp(preference - peak)
    return first * a / (a + b), second * b / (a + b)


@njit(**PART)
def _follow_within_limit(
    data: Data, totals: Totals, plans: Plans, c: int, t: int, block: Block
) -> None:
    """Gradient and averaging weights of the rule WITHIN_LIMIT."""
    refresh, samples = plans.refresh[c], plans.samples[c]
    fresh = t == 0 or (refresh > 0 and t % refresh == 0)
    for r in range(len(block.theta)):
        within = _within_limit(plans, c, block.known, r)
        if fresh or not within:
            block.known[r, SFT] = _value(data, totals, samples, SFT, t, block, r)
        if fresh:
            within = _within_limit(plans, c, block.known, r)
        block.weights[r, SFT] = 0.0 if within else plans.weights[c, t, SFT]
        block.weights[r, PREFERENCE] = plans.weights[c, t, PREFERENCE] if within else 0.0
        block.share[r] = 1.0 if within else 0.0


@njit(**INNER, fastmath=EXACT, forceinline=True)
def _within_limit(plans: Plans, c: int, known: Array, r: int) -> bool:
    return known[r, SFT] - plans.minima[c, SFT] <= plans.allowed[c]


@njit(**INNER, fastmath=EXACT, forceinline=True)
def _larger_gap(plans: Plans, c: int, known: Array, r: int) -> int:
    sft = (known[r, SFT] - plans.minima[c, SFT]) * plans.pair[c, SFT]
    preference = known[r, PREFERENCE] - plans.minima[c, PREFERENCE]
    return PREFERENCE if preference * plans.pair[c, PREFERENCE] > sft else SFT


@njit(**INLINE)
def _value(
    data: Data, totals: Totals, samples: int, objective: int, t: int, block: Block, r: int
) -> float:
    """Loss of one objective at the iterate of run r, exact or estimated."""
    if samples > 0:
        return _estimate(data, objective, t, samples, block, r)
    if objective == SFT:
        return _exact_sft(totals, block.theta, r, block.scratch)
    return _exact_preference(totals, block.theta, r, block.scratch)


# ---------------------------------------------------------------------- one update


@njit(**PART)
def _draw_points(data: Data, t: int, block: Block) -> int:
    """Draw data points, write logits and rewards, and return the number of lines filled."""
    theta, weights, keys, point, at = block.theta, block.weights, block.keys, block.point, 0
    for r in range(len(theta)):
        if weights[r, SFT] != 0:
            u = _uniform(keys[r, draws.SFT_SAMPLE], t)
            i = _pick(u, len(data.prompts), data.cumulative_demonstrations)
            point[r, SFT] = i
            low, high = data.offsets[data.prompts[i]], data.offsets[data.prompts[i] + 1]
            _centred_logits(data.features, low, high, theta, r, block.lines, at)
            at += _lines(high - low)
        if weights[r, PREFERENCE] != 0:
            u = _uniform(keys[r, draws.PREFERENCE_SAMPLE], t)
            j = _pick(u, len(data.shift), data.cumulative_pairs)
            point[r, PREFERENCE] = j
            block.odds[r] = data.beta * (data.shift[j] - _dot(data.differences, j, theta, r))
    return at


@njit(**PART)
def _step(data: Data, alpha: float, block: Block) -> None:
    """Add the iterates to their averages, then move them."""
    theta, weights, lines, at = block.theta, block.weights, block.lines, 0
    for r in range(len(theta)):
        block.mass[r] += block.share[r]
        _add(block.total, r, block.share[r], theta, r)
        if weights[r, SFT] != 0:
            i = block.point[r, SFT]
            low, high = data.offsets[data.prompts[i]], data.offsets[data.prompts[i] + 1]
            shown = data.demonstrations[i] - low
            total = _sum(lines, at, high - low)
            lines[at + shown // 4, shown % 4] -= total  # here the slope is p - 1 instead of p
            scale = -alpha * weights[r, SFT] / total
            _add_lines(theta, r, scale, lines, at, data.features, low, high)
            at += _lines(high - low)
            block.counts[r, SFT] += 1
        if weights[r, PREFERENCE] != 0:
            slope = data.beta * (data.smoothing - block.odds[r] / (1.0 + block.odds[r]))
            scale = -alpha * weights[r, PREFERENCE] * slope
            _add(theta, r, scale, data.differences, block.point[r, PREFERENCE])
            block.counts[r, PREFERENCE] += 1
        _project(theta, r, data.radius)


@njit(**INLINE)
def _centred_logits(
    features: Array, low: int, high: int, theta: Array, r: int, lines: Array, at: int
) -> float:
    """Write logits minus the largest of them, and -inf to fill the last line."""
    peak = -np.inf
    for g in range(_lines(high - low)):
        a, b, c, d = _four_rows(low + 4 * g, high)
        za, zb, zc, zd = 0.0, 0.0, 0.0, 0.0
        for k in range(theta.shape[1]):
            za += theta[r, k] * features[a, k]
            zb += theta[r, k] * features[b, k]
            zc += theta[r, k] * features[c, k]
            zd += theta[r, k] * features[d, k]
        lines[at + g, 0] = za
        lines[at + g, 1] = zb if a < b else -np.inf
        lines[at + g, 2] = zc if b < c else -np.inf
        lines[at + g, 3] = zd if c < d else -np.inf
        peak = max(peak, max(max(za, zb), max(zc, zd)))
    for g in range(_lines(high - low)):
        for i in range(4):
            lines[at + g, i] -= peak
    return peak


@njit(**INLINE)
def _add_lines(
    theta: Array,
    r: int,
    scale: float,
    lines: Array,
    at: int,
    features: Array,
    low: int,
    high: int,
) -> None:
    """Add rows of features, four at a time, with the entries of the lines as factors."""
    for g in range(_lines(high - low)):
        a, b, c, d = _four_rows(low + 4 * g, high)
        fa, fb = scale * lines[at + g, 0], scale * lines[at + g, 1]
        fc, fd = scale * lines[at + g, 2], scale * lines[at + g, 3]
        for k in range(theta.shape[1]):
            theta[r, k] += (
                fa * features[a, k]
                + fb * features[b, k]
                + fc * features[c, k]
                + fd * features[d, k]
            )


@njit(**INLINE)
def _lines(size: int) -> int:
    """Lines of four that hold ``size`` numbers."""
    return (size + 3) // 4


@njit(**INLINE)
def _four_rows(row: int, high: int) -> tuple[int, int, int, int]:
    """``row`` and the next three; the prompt's last row is repeated where there are no more."""
    return row, min(row + 1, high - 1), min(row + 2, high - 1), min(row + 3, high - 1)


@njit(**INLINE)
def _sum(lines: Array, at: int, size: int) -> float:
    total = 0.0
    for g in range(_lines(size)):
        total += (lines[at + g, 0] + lines[at + g, 1]) + (lines[at + g, 2] + lines[at + g, 3])
    return total


@njit(**INLINE)
def _project(theta: Array, r: int, radius: float) -> None:
    square = _dot(theta, r, theta, r)
    if square > radius * radius:
        shrink = radius / np.sqrt(square)
        for k in range(theta.shape[1]):
            theta[r, k] *= shrink


@njit(**INLINE)
def _dot(a: Array, i: int, b: Array, j: int) -> float:
    total = 0.0
    for k in range(a.shape[1]):
        total += a[i, k] * b[j, k]
    return total


@njit(**INLINE)
def _add(into: Array, i: int, factor: float, rows: Array, j: int) -> None:
    for k in range(into.shape[1]):
        into[i, k] += factor * rows[j, k]


# ---------------------------------------------------------------------- loss values


@njit(**INLINE)
def _exact_sft(totals: Totals, theta: Array, r: int, line: Array) -> float:
    size = len(totals.prompt_weights)
    _combine(totals.responses, theta, r, line)
    value = -_dot(totals.demonstrated, 0, theta, r)
    for x in range(size):
        peak = -np.inf
        for y in range(totals.offsets[x], totals.offsets[x + 1]):
            peak = max(peak, line[y])
        for y in range(totals.offsets[x], totals.offsets[x + 1]):
            line[y] -= peak
        value += totals.prompt_weights[x] * peak
    _exponentials(line, totals.offsets[size])
    for x in range(size):
        total = 0.0
        for y in range(totals.offsets[x], totals.offsets[x + 1]):
            total += line[y]
        line[x] = total  # overwrites an entry that is no longer needed: x <= offsets[x]
    for x in range(size):
        value += totals.prompt_weights[x] * _log(line[x])
    return value


@njit(**INLINE)
def _exact_preference(totals: Totals, theta: Array, r: int, line: Array) -> float:
    _combine(totals.pairs, theta, r, line)
    value = 0.0
    for j in range(len(totals.shift)):
        reward = totals.beta * (line[j] - totals.shift[j])
        value += totals.pair_weights[j] * _logistic_loss(reward, totals.smoothing)
    return value


@njit(**INLINE)
def _combine(columns: Array, theta: Array, r: int, line: Array) -> None:
    """``line = theta[r] @ columns``, column by column, which needs no sum across a vector."""
    size = columns.shape[1]
    line[:size] = 0.0
    for k in range(len(columns)):
        factor = theta[r, k]
        for i in range(size):
            line[i] += factor * columns[k, i]


@njit(**INLINE)
def _estimate(data: Data, objective: int, t: int, samples: int, block: Block, r: int) -> float:
    """Mean loss of ``samples`` fresh data points at the iterate of run r."""
    key = block.keys[r, draws.SFT_ESTIMATE + objective]
    value = 0.0
    for s in range(samples):
        u = _uniform(key, t * samples + s)
        if objective == PREFERENCE:
            j = _pick(u, len(data.shift), data.cumulative_pairs)
            margin = _dot(data.differences, j, block.theta, r) - data.shift[j]
            value += _logistic_loss(data.beta * margin, data.smoothing)
        else:
            i = _pick(u, len(data.demonstrations), data.cumulative_demonstrations)
            value += _demonstration_loss(data, i, block, r)
    return value / samples


@njit(**INLINE)
def _demonstration_loss(data: Data, i: int, block: Block, r: int) -> float:
    low, high = data.offsets[data.prompts[i]], data.offsets[data.prompts[i] + 1]
    _centred_logits(data.features, low, high, block.theta, r, block.scratch_lines, 0)
    own = block.scratch[data.demonstrations[i] - low]
    _exponentials(block.scratch, 4 * _lines(high - low))
    return _log(_sum(block.scratch_lines, 0, high - low)) - own


# ---------------------------------------------------------------------- draws, exp and log


@njit(**INLINE)
def _uniform(key: np.uint64, counter: int) -> float:
    return _to_unit(_mix(key + np.uint64(counter) * GOLDEN))


@njit(**INLINE)
def _pick(u: float, size: int, cumulative: Array) -> int:
    """Data point of a draw in [0, 1); bisection where data points have weights."""
    if len(cumulative) == 0:
        return int(u * size)
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if cumulative[middle] <= u:
            low = middle + 1
        else:
            high = middle
    return min(low, size - 1)


@intrinsic  # type: ignore[untyped-decorator]
def _float_of_bits(context, bits):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _bits_of_float(context, number):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


@njit(**INNER, fastmath=EXACT)
def _exponentials(line: Array, size: int) -> None:
    for i in range(size):
        line[i] = _exp(line[i])


@njit(**INNER, fastmath=EXACT, forceinline=True)
def _exp(x: float) -> float:
    """exp(x) within 1 ulp: x = k log 2 + r, and a Taylor polynomial for exp(r).

    Adding 3 * 2**51 rounds to an integer, which is then in the lowest bits. log 2 is split into
    two parts (Cody and Waite), so that k times the first is exact.
    """
    x = min(max(x, -708.0), 708.0)  # outside, the result would be subnormal or infinite
    shifted = x * 1.4426950408889634 + 6755399441055744.0
    k = shifted - 6755399441055744.0
    r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10
    p = 1 / 479001600
    p = p * r + 1 / 39916800
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 1 / 2
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _float_of_bits((_bits_of_float(shifted) + 1023) << 52)


@njit(**INNER, fastmath=EXACT, error_model="numpy", forceinline=True)
def _log(x: float) -> float:
    """log(x) for x >= 1 within 1 ulp, as in fdlibm's e_log.c: x = 2**k (1 + f), s = f / (2 + f)."""
    bits = _bits_of_float(x)
    k = (bits - 0x3FE6A09E667F3BCD) >> 52  # so that 1 + f lies in [sqrt(1/2), sqrt(2))
    f = _float_of_bits(bits - (k << 52)) - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = 1.479819860511658591e-01
    p = p * z + 1.531383769920937332e-01
    p = p * z + 1.818357216161805012e-01
    p = p * z + 2.222219843214978396e-01
    p = p * z + 2.857142874366239149e-01
    p = p * z + 3.999999999940941908e-01
    p = p * z + 6.666666666666735130e-01
    half = 0.5 * f * f
    return k * 0.6931471803691238 - ((half - (s * (half + p * z) + k * 1.9082149292705877e-10)) - f)


@njit(**INNER, fastmath=EXACT, forceinline=True)
def _logistic_loss(reward: float, smoothing: float) -> float:
    """DPO's loss of beta times a margin."""
    return max(-reward, 0.0) + _log(1.0 + _exp(-abs(reward))) + smoothing * reward
