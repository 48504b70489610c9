"""How far from convex is DPO in the last layer of a token-by-token model, and does it matter?

Only the last layer of a small pretrained language model is trained. All layers below are fixed, so
their hidden states are data. Measured are midpoint tests between iterates of training runs and on
random segments, the most negative curvature along training, and descents from several starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.linalg import eigh_tridiagonal
from torch import Tensor
from torch.func import grad, vjp

from analysis.dossier import style
from analysis.dossier.evidence import holds_on
from analysis.dossier.mutations import mutate
from analysis.fernando2024.methods import label
from tradeoff import objectives
from tradeoff.data.synthetic import Language, generate
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.networks.batches import pair_batch, sft_batch
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import pretrain
from tradeoff.networks.threads import one_thread
from tradeoff.theory.checked import Checked

Loss = Callable[[Tensor], Tensor]
BETA = 0.1
LOSSES = ("DPO, all tokens", "DPO, one token", "SFT, all tokens")
PATHS = ("sft-dpo", "dpo-sft", "mix", "alright", "preference-only")
COLORS = {"DPO, all tokens": "#D55E00", "DPO, one token": "#0072B2", "SFT, all tokens": "#000000"}
MARKERS = {"DPO, all tokens": "o", "DPO, one token": "^", "SFT, all tokens": "s"}
ROUNDING = 1e-12
"""A midpoint violates convexity if it is above the chord by more than this share of the loss."""
CAPTION = (
    "How far from convex is DPO in the last layer of a token-by-token model? {rows} "
    f"demonstrations and pairs, beta = {BETA:g}. (a) Share of segments whose midpoint is above the "
    "chord; what varies is the pair of ends, n = {segments}; counts have no interval. (b) Least "
    "over largest curvature along each run. (c) Spread of f_λ over descents from {starts} starts "
    "in a ball of twice the distance that training covers. Command: python -m analysis "
    "token_convexity"
)


@dataclass(frozen=True)
class Size:
    """Sizes of the study; the default is the figure's full form."""

    width: int = 32
    layers: int = 2
    pretraining: int = 150
    rows: int = 48
    steps: int = 120
    records: int = 9
    random: int = 120
    lanczos: int = 24
    starts: int = 3
    descent: int = 300
    documents: int = 4000

    @classmethod
    def fast(cls) -> Size:
        return cls(16, 1, 12, 16, 30, 4, 40, 12, 3, 25, 600)


@dataclass(frozen=True, eq=False)
class States:
    """Inputs of the last layer at the counted tokens of all responses, one response after another.

    Attributes
    ----------
    hidden
        (N, k) states from which the tokens are predicted.
    tokens, row
        (N,) the tokens, and the number of each token's response.
    rows
        Number of responses.
    """

    hidden: Tensor
    tokens: Tensor
    row: Tensor
    rows: int

    def some(self, first: int, rows: int) -> States:
        """States of ``rows`` responses, from number ``first`` on."""
        kept = (self.row >= first) & (self.row < first + rows)
        return States(self.hidden[kept], self.tokens[kept], self.row[kept] - first, rows)

    def log_probs(self, head: Tensor) -> Tensor:
        """(rows,) log pi(y|x) under the last layer (V, k)."""
        logits = self.hidden @ head.T
        picked = logits.gather(1, self.tokens[:, None]).squeeze(1)
        return head.new_zeros(self.rows).index_add(0, self.row, picked - logits.logsumexp(1))


@dataclass(frozen=True, eq=False)
class LastLayer:
    """Losses of one last layer, and its pretrained value.

    Attributes
    ----------
    demonstrations
        Inputs of the layer at the demonstrations.
    pairs, first_tokens
        Inputs at (chosen, rejected) responses: whole, and up to the first token in which the two
        differ.
    start
        (V, k) pretrained layer, which is also the reference policy.
    """

    demonstrations: States
    pairs: tuple[States, States]
    first_tokens: tuple[States, States]
    start: Tensor

    def some(self, first: int, rows: int) -> LastLayer:
        """The same layer with a part of the demonstrations and of the pairs."""
        shown, *sides = (
            states.some(first, rows)
            for states in (self.demonstrations, *self.pairs, *self.first_tokens)
        )
        return LastLayer(shown, (sides[0], sides[1]), (sides[2], sides[3]), self.start)

    def loss(self, name: str) -> Loss:
        """One of ``LOSSES`` as a function of the layer; SFT is per token."""
        if name == "SFT, all tokens":
            shown = self.demonstrations
            return lambda head: -shown.log_probs(head).sum() / len(shown.tokens)
        sides = self.pairs if name == "DPO, all tokens" else self.first_tokens
        anchor = [side.log_probs(self.start) for side in sides]

        def dpo(head: Tensor) -> Tensor:
            found = [side.log_probs(head) for side in sides]
            return objectives.dpo(objectives.margin(*found, *anchor), BETA).mean()

        return dpo

    def weighted(self, lam: float, name: str = "DPO, all tokens") -> Loss:
        """f_lambda with one of the two forms of DPO."""
        dpo, sft = self.loss(name), self.loss("SFT, all tokens")
        return lambda head: lam * dpo(head) + (1 - lam) * sft(head)


def words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the caption's fields, from the stored numbers."""
    return {
        "rows": str(numbers["size"]["rows"]),
        "segments": ", ".join(str(f["segments"]) for f in numbers["midpoints"][LOSSES[0]].values()),
        "starts": str(numbers["size"]["starts"]),
    }


@one_thread()
def main(out: Path, fast: bool = False) -> dict[str, Any]:
    size = Size.fast() if fast else Size()
    layer = last_layer(size)
    paths = {name: path(layer, name, size) for name in PATHS}
    covered = max(float((p - layer.start).flatten(1).norm(dim=1).max()) for p in paths.values())
    tests = {name: midpoints(layer, name, paths, covered, size.random) for name in LOSSES}
    bends = {
        name: {
            run: bending(layer.loss(name), paths[run][::2], size.lanczos)
            for run in (PATHS if name == LOSSES[0] else PATHS[2:3])
        }
        for name in LOSSES
    }
    spread = {
        f"{lam:g}, {name}": descents(layer.weighted(lam, name), layer.start, 2 * covered, size)
        for lam, name in ((0.5, LOSSES[0]), (0.9, LOSSES[0]), (0.9, LOSSES[1]))
    }
    with style.figure(1, 3, height=3.6) as (fig, axes):
        draw_shares(axes[0], tests)
        draw_bending(axes[1], bends)
        draw_descents(axes[2], spread)
        style.save(fig, out, "token_convexity")
    return {
        "size": vars(size),
        "parameters": layer.start.numel(),
        "tokens_per_response": len(layer.pairs[0].tokens) / size.rows,
        "distance_covered": covered,
        "midpoints": tests,
        "curvature": bends,
        "spread_of_losses": {
            name: {**found, "spread": found["spread"][-1]} for name, found in spread.items()
        },
    }


# ---------------------------------------------------------------------- the layer


@cache
def last_layer(size: Size) -> LastLayer:
    """Pretrain a small model, and compute the inputs of its last layer."""
    data = generate(
        Language(
            sft_rows=size.rows, preference_rows=size.rows, test_rows=4, documents=size.documents
        )
    )
    tokenizer = train_tokenizer(data.corpus, vocabulary=300)
    config = LanguageModelConfig(
        vocabulary=300,
        width=size.width,
        layers=size.layers,
        heads=2,
        hidden=2 * size.width,
        tied=False,
    )
    model = pretrain(config, data.corpus, tokenizer, steps=size.pretraining, length=64)
    shown = sft_batch(data.sft_train, tokenizer)
    pairs = pair_batch(data.preference_train, tokenizer)
    tokens, mask = pairs.tokens.unbind(1), pairs.mask.unbind(1)
    differ = (tokens[0] != tokens[1]) & mask[0] & mask[1]
    first = differ & (differ.cumsum(1) == 1)
    return LastLayer(
        states(model, shown.tokens, shown.mask),
        (states(model, tokens[0], mask[0]), states(model, tokens[1], mask[1])),
        (states(model, tokens[0], first), states(model, tokens[1], first)),
        model.lm_head.weight.detach().double(),
    )


@torch.no_grad()
def states(model: LanguageModel, tokens: Tensor, mask: Tensor) -> States:
    """Inputs of the last layer at the masked tokens (rows, time) of responses."""
    seen: list[Tensor] = []
    hook = model.norm.register_forward_hook(lambda _module, _given, found: seen.append(found))
    model(tokens)
    hook.remove()
    row, place = mask[:, 1:].nonzero(as_tuple=True)
    return States(seen[0][row, place].double(), tokens[row, place + 1], row, len(tokens))


# ---------------------------------------------------------------------- training paths


def path(layer: LastLayer, name: str, size: Size) -> Tensor:
    """(records, V, k) iterates of AdamW with full gradients, with the first one."""
    rng = np.random.default_rng(0)
    head = layer.start.clone().requires_grad_()
    dpo, sft = layer.loss("DPO, all tokens"), layer.loss("SFT, all tokens")
    descent = torch.optim.AdamW([head], lr=5e-3, weight_decay=0.0)
    marks = set(np.linspace(0, size.steps, size.records).round().astype(int).tolist())
    found = []
    for step in range(size.steps + 1):
        if step in marks:
            found.append(head.detach().clone())
        late = 2 * step >= size.steps
        weight = {
            "sft-dpo": float(late),
            "dpo-sft": float(not late),
            "mix": 0.5,
            "alright": float(rng.random() < 0.5),
            "preference-only": 1.0,
        }[name]
        descent.zero_grad()
        parts = [w * f(head) for w, f in ((weight, dpo), (1 - weight, sft)) if w]
        torch.stack(parts).sum().backward()
        descent.step()
    return torch.stack(found)


# ---------------------------------------------------------------------- measures


def midpoints(
    layer: LastLayer, name: str, paths: Mapping[str, Tensor], radius: float, count: int
) -> dict[str, Any]:
    """Run midpoint tests on segments within runs, between runs, and between random points."""
    rng = np.random.default_rng(0)
    within = [ends for p in paths.values() for ends in combinations(p, 2)]
    between = []
    for _ in range(count):
        first, second = rng.permutation(len(paths))[:2].tolist()
        a, b = list(paths.values())[first], list(paths.values())[second]
        between.append((a[rng.integers(1, len(a))], b[rng.integers(1, len(b))]))
    away = torch.from_numpy(rng.normal(size=(count, 2, *layer.start.shape)))
    away *= radius / away.flatten(2).norm(dim=2)[..., None, None]
    random = [(layer.start + a, layer.start + b) for a, b in away]
    families = {"one run": within, "two runs": between, "random": random}
    return {kind: chords(layer.loss(name), ends) for kind, ends in families.items()}


@torch.no_grad()
def chords(loss: Loss, segments: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Share of midpoints above the chord, and how far above."""
    values = np.array([[float(loss(end)) for end in ends] for ends in segments])
    middle = np.array([float(loss((a + b) / 2)) for a, b in segments])
    excess = middle - values.mean(axis=1)
    over = excess > ROUNDING * (1 + np.abs(middle))
    depth = float(excess[over].max()) if over.any() else 0.0
    return {
        "segments": len(segments),
        "share": float(over.mean()),
        "depth": depth,
        "relative_depth": depth / float(np.ptp(values)),
        "median_convexity": float(np.median(-excess)),
    }


def bending(loss: Loss, points: Tensor, steps: int) -> dict[str, Any]:
    """Extreme curvatures of a loss at each point of a path."""
    found = np.array([curvatures(loss, point, steps) for point in points])
    return {"lowest": found[:, 0], "highest": found[:, 1], "ratio": found[:, 0] / found[:, 1]}


def curvatures(loss: Loss, point: Tensor, steps: int, seed: int = 0) -> tuple[float, float]:
    """Smallest and largest Ritz value of the Hessian, by Lanczos with reorthogonalisation.

    Both are in the range of the Hessian's spectrum, so a negative one proves negative curvature.
    """
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(point.numel(), generator=generator, dtype=point.dtype)
    basis = [vector / vector.norm()]
    # The Hessian is symmetric, so the vector-Jacobian product of the gradient multiplies by it.
    multiply = vjp(grad(loss), point)[1]
    diagonal: list[float] = []
    off: list[float] = []
    for _ in range(min(steps, point.numel())):
        tangent = basis[-1].view_as(point)
        image = multiply(tangent)[0].flatten()
        diagonal.append(float(image @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):
            image = image - known.T @ (known @ image)
        length = float(image.norm())
        if length < 1e-12 * max(map(abs, diagonal)):
            break
        off.append(length)
        basis.append(image / length)
    values = eigh_tridiagonal(np.array(diagonal), np.array(off[: len(diagonal) - 1]))[0]
    return float(values[0]), float(values[-1])


def descents(loss: Loss, centre: Tensor, radius: float, size: Size) -> dict[str, Any]:
    """Minimise a loss on a ball, from its centre and from points on its boundary.

    Accelerated projected gradient with a step halved until the descent lemma holds, and a restart
    whenever the loss rises.
    """
    generator = torch.Generator().manual_seed(1)
    curves = []
    for start in range(size.starts):
        away = torch.randn(centre.shape, generator=generator, dtype=centre.dtype)
        point = centre + (away * (radius / away.norm()) if start else 0)
        curves.append(descend(loss, point, centre, radius, size.descent))
    values = np.array(curves)
    spread = np.ptp(values, axis=0)
    return {
        "spread": spread,
        "final": values[:, -1],
        "fallen": float(values[0, 0] - values[0, -1]),
        "relative_spread": float(spread[-1] / (values[0, 0] - values[0, -1])),
    }


def descend(loss: Loss, point: Tensor, centre: Tensor, radius: float, steps: int) -> list[float]:
    """Values of ``loss`` along an accelerated projected descent."""
    ahead, momentum, step = point, 1.0, 64.0
    values = [float(loss(point))]
    for _ in range(steps):
        here = ahead.clone().requires_grad_()
        value = loss(here)
        (slope,) = torch.autograd.grad(value, here)
        with torch.no_grad():
            while True:
                moved = ahead - step * slope - centre
                landed = centre + moved * (radius / moved.norm()).clamp(max=1.0)
                gone, reached = landed - ahead, float(loss(landed))
                bound = value + (slope * gone).sum() + gone.square().sum() / (2 * step)
                if reached <= float(bound) + 1e-14:
                    break
                step /= 2
            if reached > values[-1]:
                momentum = 1.0
                ahead = point
                values.append(values[-1])
                continue
            after = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = landed + (momentum - 1) / after * (landed - point)
            point, momentum = landed, after
            values.append(reached)
    return values


# ---------------------------------------------------------------------- drawing


def draw_shares(ax: Axes, tests: dict[str, Any]) -> None:
    """Draw the share of violating segments by loss and kind of segment."""
    kinds = list(tests[LOSSES[0]])
    for k, name in enumerate(LOSSES):
        shares = [tests[name][kind]["share"] for kind in kinds]
        x = np.arange(len(kinds)) + 0.16 * (k - 1)
        ax.vlines(x, 0, shares, color=COLORS[name], linewidth=1.2)
        ax.plot(x, shares, MARKERS[name], color=COLORS[name], label=name, clip_on=False, zorder=4)
    for place, kind in enumerate(kinds):
        found = tests[LOSSES[0]][kind]
        if found["share"]:
            ax.annotate(
                f"depth\n{found['relative_depth']:.1%}",
                (place - 0.16, found["share"]),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=7.5,
                color=COLORS[LOSSES[0]],
            )
    ax.set(
        title="(a) Midpoints too high",
        xlabel="ends of the segments",
        ylabel="share of segments",
        xlim=(-0.5, 2.5),
        ylim=(0, 1.0),
    )
    ax.set_xticks(range(len(kinds)), kinds, fontsize=8)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.22), fontsize=7.5, handletextpad=0.1)


def draw_bending(ax: Axes, bends: dict[str, Any]) -> None:
    """Draw the most negative over the most positive curvature, along each run."""
    for run, found in bends[LOSSES[0]].items():
        look = style.Look("0.35", "x", (0, (1, 2))) if run == "preference-only" else style.look(run)
        x = np.linspace(0, 1, len(found["ratio"]))
        ax.plot(x, found["ratio"], **look.line_style(markersize=3.5, linewidth=1), label=label(run))
    for name in LOSSES[1:]:
        (found,) = bends[name].values()
        x = np.linspace(0, 1, len(found["ratio"]))
        ax.plot(x, found["ratio"], MARKERS[name], color="0.6", markersize=3)
    ax.annotate(
        "SFT, one-token DPO", (1, 0), xytext=(0, 4), textcoords="offset points", ha="right",
        fontsize=7.5, color="0.4",
    )  # fmt: skip
    ax.set(
        title="(b) DPO bends down",
        xlabel="share of the run",
        ylabel="lowest / highest curvature",
    )
    ax.margins(y=0.12)
    ax.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.22), fontsize=7.5, ncols=2,
              handlelength=2.6, columnspacing=1.0)  # fmt: skip


def draw_descents(ax: Axes, spread: dict[str, Any]) -> None:
    """Draw the spread of descents from several starts against their iterations."""
    for (name, found), line in zip(spread.items(), ("-", "--", ":"), strict=True):
        lam, form = name.split(", ", 1)
        values = np.maximum(found["spread"], 1e-8)
        color = COLORS[form]
        ax.loglog(np.arange(1, len(values) + 1), values, color=color, linestyle=line)
        text = f"λ = {lam}, {'one token' if form == LOSSES[1] else 'all tokens'}"
        ax.plot([], [], color=color, linestyle=line, label=text)
    ax.set(
        title="(c) Ends differ by little",
        xlabel="projected descent steps",
        ylabel=r"spread of $f_\lambda$ over starts (nats)",
    )
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.22), fontsize=7.5)


# ---------------------------------------------------------------------- claims


@one_thread()
def claim_training_paths_violate_convexity(
    fast: bool = False, mutation: str | None = None
) -> Checked:
    """On segments of training runs of a tiny model's last layer, DPO over tokens is not convex.

    ``measured`` is the most negative over the most positive curvature, on a run of DPO.
    """
    del fast
    size = Size.fast()
    layer = last_layer(size)
    points = path(layer, "preference-only", size)[-1:]
    name = mutate(mutation, LOSSES[0], {"one-token": LOSSES[1], "sft": LOSSES[2]})
    found = bending(layer.loss(name), points, size.lanczos)
    return Checked(found["ratio"].min(), -1e-3, "upper", {}, 0.0)


@one_thread()
def claim_one_token_and_sft_stay_convex(fast: bool = False, mutation: str | None = None) -> Checked:
    """On the same runs SFT and one-token DPO have no negative curvature beyond rounding."""
    del fast
    size = Size.fast()
    layer = last_layer(size)
    points = path(layer, "mix", size)[::2]
    names = mutate(mutation, LOSSES[1:], {"all-tokens": LOSSES[:1]})
    ratios = [bending(layer.loss(n), points, size.lanczos)["ratio"].min() for n in names]
    return Checked(np.array(ratios), np.zeros(len(names)), "lower", {}, 1e-10)


INSTANCES, ROWS = 24, 8
"""Instances of the claim about starts, and the number of demonstrations and of pairs in each."""
LAMBDAS = (0.1, 0.3, 0.5, 0.7, 0.9)
CLOSE = 0.05
"""Largest difference of the ends as a share of the gain. It was set before the runs."""


@one_thread()
def claim_starts_end_close(fast: bool = False, mutation: str | None = None) -> Checked:
    """Descents of f_lambda from three starts end within 5 % of the gain, on nearly all instances.

    Each instance has its own rows and one of five weights, on one pretrained model.
    """
    del fast
    steps = mutate(mutation, 40, {"two-steps": 2})
    size = replace(Size.fast(), rows=INSTANCES * ROWS, descent=steps)
    layer, held = last_layer(size), []
    for k in range(INSTANCES):
        loss = layer.some(k * ROWS, ROWS).weighted(LAMBDAS[k % len(LAMBDAS)])
        found = descents(loss, layer.start, 8.0, size)
        held.append(found["fallen"] > 0 and found["relative_spread"] <= CLOSE)
    return holds_on(held)


if __name__ == "__main__":
    main(Path("out"))
