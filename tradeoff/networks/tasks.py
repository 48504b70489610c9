"""The interface of a model and its data for training, and the task of the small policies.

A task holds data and the shape of one model. Parameters are dictionaries of tensors; those of an
ensemble have the run as first axis. The margins of DPO's reference policy on all pairs are computed
once, so that a training step never runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tradeoff import objectives
from tradeoff.methods.after import Resa
from tradeoff.methods.losses import TokenWeighted
from tradeoff.methods.losses.token_classes import of_mean_one
from tradeoff.methods.transforms import Documents, Retrieved
from tradeoff.methods.transforms.retrieved import Expanded, InContext
from tradeoff.networks import policies
from tradeoff.networks._carried import carried
from tradeoff.networks.policies import PolicyConfig, PolicyData
from tradeoff.networks.trained_losses import Reading, Tokens
from tradeoff.schedules import SFT

if TYPE_CHECKING:
    from tradeoff.convex.log_linear import LogLinear

Params = dict[str, Tensor]
"""Parameters by name; in an ensemble, each tensor has the run as first axis."""

ANSWERS = 0
"""Seed of the answers to new prompts, which are the same in all runs."""


@dataclass(frozen=True)
class Reference:
    """The values log pi_ref(chosen) - log pi_ref(rejected) of every pair, in nats.

    Attributes
    ----------
    train, test
        (R, J) and (R, Jt), for training and held-out pairs; if R is 1, the row is for all runs.
    """

    train: Float[Tensor, "R J"]
    test: Float[Tensor, "R Jt"]

    def expand(self, runs: int) -> Reference:
        """Repeat a single row for each of `runs` runs."""
        return Reference(self.train.expand(runs, -1), self.test.expand(runs, -1))


@runtime_checkable
class Task(Protocol):
    """A model with its two data sets: the interface that `tradeoff.networks.train` needs."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of training demonstrations and of training pairs."""

    @property
    def batched(self) -> bool:
        """Whether stacked runs are computed together, by `torch.vmap`, or one by one."""

    @property
    def last_layer_name(self) -> str | None:
        """Name of the parameter that maps features to logits, if it has no other use."""

    def to(self, device: torch.device | str) -> Task:
        """The same task with its data on a device."""

    def initial(self, seeds: Sequence[int]) -> Params:
        """Stacked base models of the seeds; the first axis has length 1 if all seeds share one."""

    def losses(
        self,
        params: Mapping[str, Tensor],
        objective: int,
        index: Int[Tensor, " B"],
        reference: Float[Tensor, " B"] | None = None,
    ) -> Tensor:
        """Mean loss of ONE run on some training rows; if `batched`, it works under `torch.vmap`.

        Parameters
        ----------
        params
            Parameters of one run.
        objective
            0 for SFT, 1 for the preference objective.
        index
            Indices of the rows.
        reference
            Margins of the reference policy on these pairs; SFT does not use them.
        """

    def reference(self, params: Mapping[str, Tensor]) -> Reference:
        """Margins of stacked reference policies on all pairs."""

    def evaluate(
        self, params: Mapping[str, Tensor], reference: Reference
    ) -> dict[str, NDArray[np.float64]]:
        """Measures of each run (R,), by name.

        At least sft_loss and preference_loss (held out), sft_loss_train, preference_loss_train,
        preference_accuracy (held-out pairs whose margin over the reference is positive, ties
        one half) and preference_margin (mean over held-out pairs, in nats).
        """


@dataclass(frozen=True, eq=False)
class PolicyTask:
    """The finite policies of `tradeoff.networks.policies`.

    Attributes
    ----------
    data, config
        The data and the shape of the policy.
    beta
        Inverse temperature of DPO.
    dtype, device
        Precision and device of the computation.
    base
        Parameters of the policy before training, stacked as one run; by default initial weights
        are drawn by seed.
    context
        (P, K) what demonstrations in the prompt add to the logits of the responses to each training
        prompt, where demonstrations are trained; None: nothing. Evaluations leave it out.

    Examples
    --------
    >>> task = PolicyTask(policies.policy_data(0), PolicyConfig(width=16, depth=1))
    >>> base = task.initial([0, 1])
    >>> base["head.weight"].shape
    torch.Size([2, 8, 16])
    >>> task.evaluate(base, task.reference(base))["preference_loss"].round(3)
    array([0.693, 0.693])
    """

    data: PolicyData
    config: PolicyConfig = field(default_factory=PolicyConfig)
    beta: float = 1.0
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    base: Params | None = None
    context: Float[np.ndarray, "P K"] | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        return len(self.data.demonstrations), len(self.data.pairs)

    def looked_up(self, transform: Retrieved) -> PolicyTask:
        """The task with demonstrations as a transform writes them, to train on.

        Parameters
        ----------
        transform
            What is looked up; the new prompts come after all others.
        """
        data = self.data
        prompts = data.prompts[: data.training_prompts]
        weights = np.zeros((len(prompts), data.responses))
        np.add.at(weights, tuple(data.demonstrations.T), 1.0)
        known = Documents.labelled(prompts, weights)
        if isinstance(transform, InContext):
            return replace(self, context=transform.added(known))
        assert isinstance(transform, Expanded), "there is no other"
        new = transform.new(known)
        each = max(1, round(len(data.demonstrations) / int(known.shown.sum())))
        rng = np.random.default_rng(ANSWERS)
        ends = np.cumsum(new.weights, axis=1)
        drawn = rng.random((len(ends), each)) * ends[:, -1:]
        answers = (drawn[..., None] >= ends[:, None]).sum(axis=2)
        rows = np.stack([np.arange(len(ends)).repeat(each), answers.ravel()], axis=1)
        rows[:, 0] += len(data.prompts)
        assert new.vectors is not None, "prompts are vectors"
        more = replace(
            data,
            prompts=np.concatenate([data.prompts, new.vectors]),
            demonstrations=np.concatenate([data.demonstrations, rows]),
        )
        return replace(self, data=more)

    @property
    def batched(self) -> bool:
        return True

    @property
    def last_layer_name(self) -> str:
        return policies.HEAD

    def to(self, device: torch.device | str) -> PolicyTask:
        return replace(self, device=str(device))

    def initial(self, seeds: Sequence[int]) -> Params:
        if self.base is not None:
            return {name: value.to(self.device, self.dtype) for name, value in self.base.items()}
        shape = (self.data.prompts.shape[1], self.data.responses)
        drawn = [policies.initial_parameters(self.config, *shape, s, self.dtype) for s in seeds]
        return {name: torch.stack([p[name] for p in drawn]).to(self.device) for name in drawn[0]}

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        arrays = {name: getattr(self.data, name) for name in ("demonstrations", "pairs")}
        arrays |= {f"test_{name}": getattr(self.data, f"test_{name}") for name in arrays}
        tensors = {name: torch.from_numpy(a).to(self.device) for name, a in arrays.items()}
        prompts = torch.from_numpy(self.data.prompts).to(self.device, self.dtype)
        if self.context is not None:
            tensors["context"] = torch.from_numpy(self.context).to(self.device, self.dtype)
        return tensors | {"prompts": prompts}

    def _scores(
        self,
        params: Mapping[str, Tensor],
        objective: int,
        rows: Int[Tensor, "B _"],
        factors: Float[Tensor, "B dx"] | None = None,
    ) -> Float[Tensor, "B K"]:
        """Logits of all responses to the prompts of some training rows, as they are trained."""
        prompts = self._tensors["prompts"][rows[:, 0]]
        found = policies.logits(params, prompts if factors is None else prompts * factors)
        if objective == SFT and self.context is not None:
            found = found + self._tensors["context"][rows[:, 0]]
        return found

    def losses(
        self,
        params: Mapping[str, Tensor],
        objective: int,
        index: Int[Tensor, " B"],
        reference: Float[Tensor, " B"] | None = None,
    ) -> Tensor:
        rows = self._tensors["demonstrations" if objective == SFT else "pairs"][index]
        scores = self._scores(params, objective, rows)
        picked = scores.gather(1, rows[:, 1:])
        if objective == SFT:
            return objectives.sft(picked[:, 0] - scores.logsumexp(1))
        assert reference is not None, "DPO needs a reference"
        margins = objectives.margin(picked[:, 0], picked[:, 1]) - reference
        return objectives.dpo(margins, self.beta).mean()

    def tokens(self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]) -> Tokens:
        rows = self._tensors["demonstrations"][index]
        scores = self._scores(params, SFT, rows)
        found = scores.gather(1, rows[:, 1:]) - scores.logsumexp(1, keepdim=True)
        return Tokens(found, torch.ones_like(found))

    def token_weights(self, loss: TokenWeighted) -> Float[Tensor, "N time"]:
        """Weights of the training demonstrations, whose responses are one token each."""
        prompts, responses = np.asarray(self.data.demonstrations).T
        shares = np.full(len(prompts), 1 / len(prompts))
        found = of_mean_one([loss.weights_of_rows(prompts, responses, shares)])[0]
        return torch.from_numpy(found[:, None]).to(self.device, self.dtype)

    def read(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"], reading: Reading
    ) -> Tokens:
        """As ``tokens``, with weights."""
        found = self.tokens(params, index)
        weights = reading.weights
        return found if weights is None else replace(found, weights=weights[index])

    def pair_log_probs(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B 2"], Float[Tensor, "B 2"]]:
        rows = self._tensors["pairs"][index]
        scores = policies.logits(params, self._tensors["prompts"][rows[:, 0]])
        found = scores.gather(1, rows[:, 1:]) - scores.logsumexp(1, keepdim=True)
        return found, torch.ones_like(found)

    def every_log_prob(
        self,
        params: Mapping[str, Tensor],
        objective: int,
        index: Int[Tensor, " B"],
        factors: Float[Tensor, "B dx"] | None = None,
    ) -> Float[Tensor, "B K"]:
        rows = self._tensors["demonstrations" if objective == SFT else "pairs"][index]
        return self._scores(params, objective, rows, factors).log_softmax(-1)

    @property
    def prompt_size(self) -> int:
        return int(self.data.prompts.shape[1])

    def viewed(
        self,
        params: Mapping[str, Tensor],
        objective: int,
        index: Int[Tensor, " B"],
        factors: Float[Tensor, "B dx"] | None = None,
    ) -> tuple[Float[Tensor, "B K"], None]:
        return self.every_log_prob(params, objective, index, factors), None

    @property
    def head_name(self) -> str:
        return policies.HEAD

    def features(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> Float[Tensor, "B w"]:
        rows = self._tensors["demonstrations"][index]
        return policies.features(params, self._tensors["prompts"][rows[:, 0]])

    def expert_shares(
        self, params: Mapping[str, Tensor], objective: int, index: Int[Tensor, " B"]
    ) -> Float[Tensor, "L B E"]:
        rows = self._tensors["demonstrations" if objective == SFT else "pairs"][index]
        return policies.expert_shares(params, self._tensors["prompts"][rows[:, 0]])

    def carried(
        self,
        source: Params,
        base: Params,
        part: Resa,
        updates: int,
        rows: int,
        seeds: Sequence[int],
    ) -> Params:
        prompts = self._tensors["prompts"][self._tensors["demonstrations"][:, 0]]
        return carried(source, base, prompts, part, updates, rows, seeds)

    def responses(self, index: Int[Tensor, " ..."]) -> Int[Tensor, " ..."]:
        return self._tensors["demonstrations"][index][..., 1]

    def judged(self, reference: Mapping[str, Tensor]) -> Float[Tensor, "R J K"]:
        """Rewards of all responses to the prompts of all training pairs, by a judge of each run.

        Parameters
        ----------
        reference
            Stacked reference policies.

        Returns
        -------
        Tensor
            Of the linear reward of the features of the reference policy's last layer that fits the
            training pairs, see :func:`tradeoff.methods.losses.judges.fitted_reward`. Held-out pairs
            play no part.
        """
        known: dict[bytes, Tensor] = {}
        found = []
        for run in range(len(next(iter(reference.values())))):
            one = one_run(reference, run)
            key = b"".join(value.detach().cpu().numpy().tobytes() for value in one.values())
            if key not in known:  # Methods share the reference of a seed.
                known[key] = torch.from_numpy(policies.rewards(self.data, one))
            found.append(known[key])
        return torch.stack(found).to(self.device, self.dtype)

    def reference(self, params: Mapping[str, Tensor]) -> Reference:
        with torch.no_grad():
            scores = torch.vmap(policies.logits, (0, None))(dict(params), self._tensors["prompts"])
        return Reference(*(_margins(scores, self._tensors[n]) for n in ("pairs", "test_pairs")))

    def evaluate(
        self, params: Mapping[str, Tensor], reference: Reference
    ) -> dict[str, NDArray[np.float64]]:
        data = self._tensors
        with torch.no_grad():
            scores = torch.vmap(policies.logits, (0, None))(dict(params), data["prompts"])
        found: Params = {}
        for split, end, shift in (("test_", "", reference.test), ("", "_train", reference.train)):
            x, y = data[f"{split}demonstrations"].T
            log_probs = scores.log_softmax(-1)
            found[f"sft_loss{end}"] = objectives.sft(log_probs[:, x, y])
            margins = _margins(scores, data[f"{split}pairs"]) - shift
            found[f"preference_loss{end}"] = objectives.dpo(margins, self.beta).mean(-1)
            if not end:
                found |= pair_measures(margins)
                found["exact_match"] = (scores.argmax(-1)[:, x] == y).double().mean(-1)
        return as_arrays(found)

    def last_layer(
        self,
        params: Mapping[str, Tensor],
        radius: float,
        *,
        reference: Mapping[str, Tensor] | None = None,
        held_out: bool = False,
        **settings: Any,
    ) -> LogLinear:
        """`tradeoff.networks.policies.last_layer` of this task and its beta."""
        settings = {"reference": reference, "held_out": held_out, "beta": self.beta, **settings}
        return policies.last_layer(self.data, params, radius, **settings)


def _margins(scores: Tensor, pairs: Tensor) -> Tensor:
    """(R, J) score of chosen less that of rejected; the normalisers cancel."""
    x, chosen, rejected = pairs.T
    return scores[:, x, chosen] - scores[:, x, rejected]


def pair_measures(margins: Float[Tensor, "R J"]) -> Params:
    """(R,) share of pairs ranked right, ties one half, and mean margin over the reference."""
    right = 0.5 * (1 + torch.sign(margins.double()))
    return {"preference_accuracy": right.mean(-1), "preference_margin": margins.mean(-1)}


def as_arrays(measures: Mapping[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    """Measures as numpy arrays in float64."""
    return {name: value.double().cpu().numpy() for name, value in measures.items()}


def one_run(params: Mapping[str, Tensor], run: int) -> Params:
    """Parameters of one run out of stacked ones."""
    return {name: value[run] for name, value in params.items()}


def over_runs(one: Callable[..., Tensor], batched: bool) -> Callable[..., Tensor]:
    """Extend a function of one run's parameters and further tensors to stacked runs."""
    if batched:
        return torch.vmap(one)

    def each(params: Mapping[str, Tensor], *given: Tensor) -> Tensor:
        runs = range(len(next(iter(params.values()))))
        return torch.stack([one(one_run(params, run), *(x[run] for x in given)) for run in runs])

    return each
