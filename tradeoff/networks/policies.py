"""Policies over a finite set of responses to continuous prompts, and conflicting data for them.

A policy scores response y of prompt x by ``(W h(x))[y]``, with no bias. Here `depth` hidden layers
make the features h; depth 0 is a linear policy. If the layers below W are fixed, the policy is
log-linear with features ``h(x) e_y``. `last_layer` makes exactly that problem for the convex
laboratory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tradeoff.methods.losses.judges import fitted_reward
from tradeoff.methods.parameters.added import DOWN, ROUTER, SCALE, SIDE, UP
from tradeoff.settings import Within, check

if TYPE_CHECKING:
    from tradeoff.convex.log_linear import LogLinear

HEAD = "head.weight"
"""Name of the last layer W, (responses, width)."""
Through = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The shape of a policy.

    Attributes
    ----------
    width, depth
        Size and number of the hidden layers; at depth 0 the policy is linear, at any width.
    head_scale
        Approximate standard deviation of the initial logits. At 0 every policy starts as the
        uniform policy, so that widths and seeds share one reference.
    """

    width: Annotated[int, Within(1, 2**20)] = 64
    depth: Annotated[int, Within(0, 1000)] = 2
    head_scale: Annotated[float, Within(0, 1e6)] = 0.0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, eq=False)
class PolicyData:
    """Demonstrations and preference pairs on continuous prompts.

    Attributes
    ----------
    prompts
        (P, dx) the prompts, training prompts before held-out ones.
    responses
        Number K of responses to every prompt.
    demonstrations, pairs
        (M, 2) prompt and response; (J, 3) prompt, chosen and rejected response.
    test_demonstrations, test_pairs
        The same on held-out prompts.
    training_prompts
        Number of training prompts.
    """

    prompts: Float[np.ndarray, "P dx"]
    responses: int
    demonstrations: Int[np.ndarray, "M 2"]
    pairs: Int[np.ndarray, "J 3"]
    test_demonstrations: Int[np.ndarray, "Mt 2"]
    test_pairs: Int[np.ndarray, "Jt 3"]
    training_prompts: int


def policy_data(
    seed: int = 0,
    *,
    prompts: int = 256,
    test_prompts: int = 256,
    responses: int = 8,
    dimension: int = 8,
    demonstrations: int = 1024,
    pairs: int = 1024,
    test_rows: int = 1024,
    conflict: float = 0.75,
    sharpness: float = 2.0,
    teacher: int = 32,
) -> PolicyData:
    """Draw data from a demonstrator and a judge that disagree, both nonlinear in the prompt.

    Each is a linear function of the same `teacher` random tanh features of the prompt. As in
    `tradeoff.convex.random_log_linear`, the angle between the two is ``conflict * pi``: 0 makes
    them equal, 1 opposite. Demonstrations are sampled from the demonstrator's softmax, whose
    logits have standard deviation `sharpness`; labels follow Bradley-Terry with twice the
    judge's scores.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(prompts + test_prompts, dimension))
    inner = rng.normal(size=(dimension, teacher)) * 1.5 / np.sqrt(dimension)
    hidden = np.tanh(x @ inner + 0.5 * rng.normal(size=teacher))
    basis, _ = np.linalg.qr(rng.normal(size=(teacher * responses, 2)))
    scores = hidden @ basis.T.reshape(2, teacher, responses)
    scores *= sharpness / scores[0].std()
    angle = np.pi * conflict
    judged = np.cos(angle) * scores[0] + np.sin(angle) * scores[1]
    train, test = (0, prompts), (prompts, prompts + test_prompts)
    return PolicyData(
        x,
        responses,
        _demonstrations(rng, scores[0], *train, demonstrations),
        _pairs(rng, 2 * judged, *train, pairs),
        _demonstrations(rng, scores[0], *test, test_rows),
        _pairs(rng, 2 * judged, *test, test_rows),
        prompts,
    )


def _demonstrations(
    rng: np.random.Generator, logits: NDArray[np.float64], first: int, end: int, count: int
) -> NDArray[np.int64]:
    prompt = rng.integers(first, end, size=count)
    noise = rng.gumbel(size=(count, logits.shape[1]))
    return np.stack([prompt, np.argmax(logits[prompt] + noise, axis=1)], axis=1)


def _pairs(
    rng: np.random.Generator, reward: NDArray[np.float64], first: int, end: int, count: int
) -> NDArray[np.int64]:
    responses = reward.shape[1]
    prompt = rng.integers(first, end, size=count)
    one = rng.integers(responses, size=count)
    other = (one + rng.integers(1, responses, size=count)) % responses
    wins = rng.random(count) < 1 / (1 + np.exp(reward[prompt, other] - reward[prompt, one]))
    return np.stack([prompt, np.where(wins, one, other), np.where(wins, other, one)], axis=1)


def initial_parameters(
    config: PolicyConfig,
    dimension: int,
    responses: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Initial parameters of one policy: a function of the seed, equal at every precision."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (scale * drawn).to(dtype)

    parameters, size = {}, dimension
    for layer in range(config.depth):
        weight = normal(config.width, size, scale=1.5 / size**0.5)
        parameters[f"body.{layer}.weight"] = weight
        parameters[f"body.{layer}.bias"] = normal(config.width, scale=0.5)
        size = config.width
    return parameters | {HEAD: normal(responses, size, scale=config.head_scale)}


def features(parameters: Mapping[str, Tensor], prompts: Tensor) -> Tensor:
    """Features h(x), (..., width), of prompts (..., dx): the input of the last layer.

    They are divided by the square root of their number. So their norm, and the effect of a step
    size or a radius, does not depend on the width.
    """
    return list(_inputs(parameters, prompts))[-1][1]


def logits(
    parameters: Mapping[str, Tensor], prompts: Tensor, through: Through | None = None
) -> Tensor:
    """Scores of all responses, (..., K), of prompts (..., dx).

    Names of parameters may tell of a second network and of adapters, see
    `tradeoff.methods.parameters.added`. What `through` makes of the number and the output of a
    hidden layer is read in place of this output.
    """
    h = list(_inputs(parameters, prompts, through))[-1][1]
    found = with_experts(parameters, HEAD, h, h @ parameters[HEAD].T)
    if SIDE + HEAD not in parameters:
        return found
    side = {n.removeprefix(SIDE): p for n, p in parameters.items() if n.startswith(SIDE)}
    return found + logits(side, prompts)


def expert_shares(parameters: Mapping[str, Tensor], prompts: Tensor) -> Float[Tensor, "L B E"]:
    """Shares of all experts in each layer that has a router, from the first on."""
    inputs = _inputs(parameters, prompts)
    return torch.stack([expert_share(parameters, name, h) for name, h in inputs])


def _inputs(
    parameters: Mapping[str, Tensor], prompts: Tensor, through: Through | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Name and input of each matrix; the last one is W."""
    h, layer = prompts, 0
    while (name := f"body.{layer}.weight") in parameters:
        yield name, h
        found = torch.nn.functional.linear(h, parameters[name], parameters[f"body.{layer}.bias"])
        h = torch.tanh(with_experts(parameters, name, h, found))
        h, layer = h if through is None else through(layer, h), layer + 1
    yield HEAD, h / h.shape[-1] ** 0.5


def expert_share(parameters: Mapping[str, Tensor], name: str, h: Tensor) -> Tensor:
    """Shares (..., E) of the experts beside a matrix, by its input (..., columns)."""
    return torch.softmax(h @ parameters[name + ROUTER].T, dim=-1)


def with_experts(parameters: Mapping[str, Tensor], name: str, h: Tensor, found: Tensor) -> Tensor:
    """What a matrix makes of its input, and what the adapters beside it add."""
    if name + UP not in parameters:
        return found
    inner = torch.einsum("...i,eri->...er", h, parameters[name + DOWN])
    inner = inner * expert_share(parameters, name, h)[..., None]
    more = torch.einsum("...er,eor->...o", inner, parameters[name + UP])
    return found + parameters[name + SCALE] * more


def rewards(data: PolicyData, parameters: Mapping[str, Tensor]) -> Float[np.ndarray, "J K"]:
    """Rewards of all responses to the prompts of the training pairs, by a judge fitted to these.

    Parameters
    ----------
    data
        The task, of whose rows the training pairs alone are used.
    parameters
        Of one policy, whose last layer has the features of the judge.
    """
    x, chosen, rejected = data.pairs.T
    h, k = _on_cpu(features, parameters, data.prompts)[x], np.eye(data.responses)
    apart = np.einsum("jw,jk->jkw", h, k[chosen] - k[rejected]).reshape(len(x), -1)
    found = fitted_reward(apart, np.ones(len(x)))
    return np.asarray(h @ found.reshape(data.responses, -1).T)


def last_layer(
    data: PolicyData,
    parameters: Mapping[str, Tensor],
    radius: float,
    *,
    reference: Mapping[str, Tensor] | None = None,
    held_out: bool = False,
    **settings: Any,
) -> LogLinear:
    """The convex problem of training W alone, with the layers below fixed at `parameters`.

    Parameters
    ----------
    data
        The task; its demonstrations and pairs become those of the problem, in the same order.
    parameters
        Parameters of one policy. ``parameters[HEAD]``, flattened by rows, is a point theta of the
        problem.
    radius
        Radius of the ball of the problem.
    reference
        Parameters of the reference policy, which may have other hidden layers; ``None``: uniform.
    held_out
        Use the held-out prompts and data instead of the training data.
    **settings
        ``beta`` and the other attributes of `tradeoff.convex.LogLinear`.

    Returns
    -------
    LogLinear
        A problem of dimension responses * width, with features in float64.
    """
    # This function is the only bridge from networks to the convex laboratory.
    from tradeoff.convex.log_linear import LogLinear

    first, end = (0, data.training_prompts)
    shown, pairs = data.demonstrations, data.pairs
    if held_out:
        first, end = end, len(data.prompts)
        shown, pairs = data.test_demonstrations, data.test_pairs
    k = data.responses
    h = _on_cpu(features, parameters, data.prompts[first:end])
    x, chosen, rejected = pairs.T
    margins = None
    if reference is not None:
        z = _on_cpu(logits, reference, data.prompts)
        margins = z[x, chosen] - z[x, rejected]
    return LogLinear(
        features=np.einsum("pw,kl->pklw", h, np.eye(k)).reshape(len(h) * k, -1),
        offsets=np.arange(0, len(h) * k + 1, k),
        demonstrations=(shown[:, 0] - first) * k + shown[:, 1],
        chosen=(x - first) * k + chosen,
        rejected=(x - first) * k + rejected,
        radius=radius,
        reference_margins=margins,
        **settings,
    )


def _on_cpu(function: Any, parameters: Mapping[str, Tensor], prompts: Any) -> NDArray[np.float64]:
    """`features` or `logits` in float64."""
    double = {name: p.detach().cpu().double() for name, p in parameters.items()}
    return np.asarray(function(double, torch.from_numpy(prompts)).numpy())
