"""The tiny language model on generated instructions, as a task for training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from tradeoff import objectives
from tradeoff.data import synthetic
from tradeoff.data.synthetic import InstructionData
from tradeoff.data.tokenizer import SPECIAL, Tokenizer
from tradeoff.errors import InputError
from tradeoff.methods.losses import PreferenceLoss, TokenWeighted
from tradeoff.methods.losses.groups import Grouped
from tradeoff.methods.losses.records import WrittenGroup
from tradeoff.methods.losses.rollouts import Rollouts
from tradeoff.methods.losses.token_classes import of_mean_one
from tradeoff.methods.parameters.added import LATENT
from tradeoff.methods.transforms import Retrieved, Written
from tradeoff.networks import _written
from tradeoff.networks._added_to_models import functional_call, load, router_shares
from tradeoff.networks._looked_up import looked_up
from tradeoff.networks._rollouts import written
from tradeoff.networks.batches import Batch, Ragged, packed_batch, pair_batch, sft_batch
from tradeoff.networks.generation import generate
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig, response_log_probs
from tradeoff.networks.tasks import (
    Params,
    Reference,
    as_arrays,
    one_run,
    over_runs,
    pair_measures,
)
from tradeoff.networks.threads import SMALL, one_thread
from tradeoff.networks.trained_losses import Reading, Tokens
from tradeoff.progress import tqdm
from tradeoff.schedules import SFT

LOGITS_AT_ONCE, ROWS_AT_ONCE = 2**25, 32
"""Largest number of logits in an evaluation of an ensemble; number of rows at a time where runs go
one by one, so small that they stay in the processor's cache."""


class _Shells(threading.local):
    """Modules for functional calls, which write other weights into a module while they run."""

    def __init__(self) -> None:
        self.of = lru_cache(maxsize=1)(LanguageModel)


_SHELLS = _Shells()


@dataclass(frozen=True, eq=False)
class LanguageTask:
    """A base model, with the demonstrations and pairs for training it.

    All seeds start from the same base; only their draws differ. On a CPU, where arithmetic takes
    the time, rows are packed and runs are computed one at a time. Elsewhere all rows are padded to
    one length, so that an ensemble is one batch.

    Attributes
    ----------
    base
        The pretrained model.
    data, tokenizer
        Source of the rows.
    sft, pairs, test_sft, test_pairs
        The tokenised sets.
    beta
        Inverse temperature of DPO.
    evaluation_rows
        Number of rows of each set in an evaluation: the first ones (rows are shuffled).
    generated_rows
        Number of held-out prompts of each set that are answered at every evaluation, to score
        skills and styles. They cost far more than losses; 0 is none. See `skills`.
    device
        Device of the computation.
    ragged
        Whether to compute without padding; ``None``: on a CPU only.
    """

    base: LanguageModel
    data: InstructionData
    tokenizer: Tokenizer
    sft: Batch
    pairs: Batch
    test_sft: Batch
    test_pairs: Batch
    beta: float = 0.1
    evaluation_rows: int = 256
    generated_rows: int = 0
    device: str = "cpu"
    ragged: bool | None = None

    @classmethod
    def of(
        cls, base: LanguageModel, data: InstructionData, tokenizer: Tokenizer, **settings: Any
    ) -> LanguageTask:
        """Tokenise the data; `settings` are ``beta`` and the attributes after it."""
        context = base.config.context
        return cls(
            base,
            data,
            tokenizer,
            sft_batch(data.sft_train, tokenizer, context),
            pair_batch(data.preference_train, tokenizer, context),
            sft_batch(data.sft_test, tokenizer, context),
            pair_batch(data.preference_test, tokenizer, context),
            **settings,
        )

    @property
    def sizes(self) -> tuple[int, int]:
        return len(self.sft), len(self.pairs)

    @property
    def batched(self) -> bool:
        return not (self.device == "cpu" if self.ragged is None else self.ragged)

    @property
    def last_layer_name(self) -> str | None:
        return None if self.base.config.tied else "lm_head.weight"

    def to(self, device: torch.device | str) -> LanguageTask:
        sets = ("sft", "pairs", "test_sft", "test_pairs")
        moved = {name: getattr(self, name).to(device) for name in sets}
        return replace(self, **moved, device=str(device))

    def looked_up(self, transform: Retrieved) -> LanguageTask:
        """The task with demonstrations as a transform writes them, to train on."""
        context, padding = self.base.config.context, self.tokenizer.pad
        return replace(self, sft=looked_up(self.sft, transform, context, padding))

    @property
    def _shell(self) -> LanguageModel:
        """The module for functional calls: the base itself where one thread computes all runs.

        Runs that are one batch are computed under ``torch.vmap``, in which no module can be made.
        """
        return self.base if self.batched else _SHELLS.of(self.base.config)

    def initial(self, seeds: Sequence[int]) -> Params:
        """The base model for all seeds: the first axis has length 1."""
        return {n: p.detach().to(self.device)[None] for n, p in self.base.named_parameters()}

    def losses(
        self,
        params: Mapping[str, Tensor],
        objective: int,
        index: Int[Tensor, " B"],
        reference: Float[Tensor, " B"] | None = None,
    ) -> Tensor:
        """Mean minibatch loss of one run: SFT per token, DPO per pair; see `Task.losses`."""
        rows = self.sft if objective == SFT else self.pairs
        log_probs = self.log_probs(params, rows, index)
        if objective == SFT:
            return -log_probs.sum() / rows.mask[index].sum()
        assert reference is not None, "DPO needs a reference"
        margins = objectives.margin(log_probs[:, 0], log_probs[:, 1]) - reference
        return objectives.dpo(margins, self.beta).mean()

    def tokens(self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]) -> Tokens:
        """Log-probabilities of the tokens of training demonstrations under one run."""
        return self.read(params, index, Reading())

    def read(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"], reading: Reading
    ) -> Tokens:
        """As :meth:`tokens`, where the policy reads something else."""
        rows, weights = self.sft, None
        if self.batched:
            both = self._some(params, rows, index)
            tokens, mask = both.tokens, both.mask
            if self._latents(params) and (
                reading.hidden is not None or reading.weights is not None
            ):
                raise _together()
            shown = tokens
            if reading.hidden is not None:
                shown = torch.where(mask & reading.hidden, self.tokenizer.pad, tokens)
            scores = self._reread(
                params, shown, reading.fed_back,
                lambda own: torch.where(mask, F.pad(own[:, :-1], (1, 0)), shown),
            )[:, :-1]  # fmt: skip
            wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
            known = tokens[:, 1:, None].clamp(max=wide.shape[-1] - 1)
            found = wide.gather(-1, known).squeeze(-1) - wide.logsumexp(-1)
            if reading.weights is not None:
                weights = reading.weights[index][:, 1:].to(found.dtype)
            unsure = _entropies(wide) if reading.entropies else None
            return Tokens(found, mask[:, 1:].to(found.dtype), None, weights, unsure)
        laid, mask = self._laid(params, rows, index), rows.mask[index]
        place = {"starts": laid.starts, "after": laid.after, "wanted": laid.wanted}
        # Demonstrations share no prompts, so each token stands behind the one that predicts it.
        scored, read = laid.wanted + 1, laid.tokens
        if reading.hidden is not None:
            read = read.index_fill(0, scored[reading.hidden[mask]], self.tokenizer.pad)
        logits = self._reread(
            params, read, reading.fed_back, lambda own: read.index_copy(0, scored, own), **place
        )
        each = _log_prob(logits, laid.targets)
        if reading.weights is not None:
            weights = reading.weights[index][mask].to(each.dtype)
        unsure = _entropies(logits).to(each.dtype) if reading.entropies else None
        return Tokens(each, torch.ones_like(each), laid.owners, weights, unsure)

    def _reread(
        self,
        params: Mapping[str, Tensor],
        tokens: Tensor,
        share: float,
        moved: Callable[[Tensor], Tensor],
        **place: Any,
    ) -> Tensor:
        """Logits where embeddings have a share of those of the policy's own tokens.

        `moved` puts the likeliest token after each scored position in place of the next token.
        """
        if not share:
            return functional_call(self._shell, dict(params), (tokens,), place)
        with torch.no_grad():
            known = {name: value.detach() for name, value in params.items()}
            likeliest = functional_call(self._shell, known, (tokens,), place).argmax(-1)
        others = (moved(likeliest), share)
        return functional_call(self._shell, dict(params), (tokens,), {**place, "others": others})

    @property
    def time(self) -> int:
        """Length of the table of the tokens of demonstrations."""
        return self.sft.tokens.shape[-1]

    def token_weights(self, loss: TokenWeighted) -> Float[Tensor, "N time"]:
        """Weight of each token of the training demonstrations, of mean one over all of them."""
        tokens, mask = (x.cpu().numpy() for x in (self.sft.tokens, self.sft.mask))
        special = len(SPECIAL)
        texts = ["" if k < special else self.tokenizer.decode([k]) for k in range(tokens.max() + 1)]
        shown = [row[own].tolist() for row, own in zip(tokens, mask, strict=True)]
        weights = of_mean_one(loss.weights_of_tokens([[texts[k] for k in row] for row in shown]))
        table = np.ones(tokens.shape)
        table[mask] = np.concatenate(weights)
        return torch.from_numpy(table).to(self.device)

    def weighted_pairs(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"], loss: PreferenceLoss
    ) -> tuple[Float[Tensor, "B 2"], Float[Tensor, "B 2"]]:
        """As :meth:`pair_log_probs`, with the weights that a loss gives to tokens."""
        mask = self.pairs.mask[index]
        lengths = mask.sum(-1)
        places = mask.cumsum(-1) - 1
        own, other = (x[..., None].expand(mask.shape) for x in (lengths, lengths.flip(-1)))
        weights = loss.token_weights(places.double(), own, other)
        found = self.log_probs(params, self.pairs, index, weights)
        return found, lengths.to(found.dtype)

    def rollouts(
        self,
        params: Mapping[str, Tensor],
        index: Int[Tensor, " B"],
        loss: Rollouts,
        progress: float,
        coins: Float[np.ndarray, "B N"],
        seed: int,
    ) -> Float[Tensor, ""]:
        """Loss of responses that one run writes to the prompts of some training demonstrations.

        A response that is the demonstrated one has the reward 1, any other one 0.

        Parameters
        ----------
        params, index
            Parameters of the run; demonstrations.
        loss
            Says what responses begin with, and what their tokens weigh.
        progress
            Share of the updates of the stage that are done.
        coins, seed
            Draws for the beginnings; the seed of what is written.
        """
        self._require_no_latents(params, "responses are written")
        model = self.model(params)
        longest = int(self.sft.mask.sum(-1).max())
        shown = Batch(self.sft.tokens[index], self.sft.mask[index], self.sft.kept[index.cpu()])
        rows, found = written(
            *(model, self.tokenizer, shown),
            *(loss.hints(progress, coins), longest, seed),
        )
        if loss.by_entropy:
            last = torch.arange(loss.group - 1, len(rows), loss.group, device=index.device)
            with torch.no_grad():
                logs = model(rows.tokens[last]).double().log_softmax(-1)
            entropies = F.pad(-(logs.exp() * logs).sum(-1)[:, :-1], (1, 0))
            found = replace(found, entropies=entropies.cpu().numpy())
        weights = torch.from_numpy(loss.weights(found)).to(index.device)
        every = torch.arange(len(rows), device=index.device)
        return -self.log_probs(params, rows, every, weights.flatten(0, 1)).sum()

    def written(
        self,
        params: Mapping[str, Tensor],
        reference: Mapping[str, Tensor],
        index: Int[Tensor, " B"],
        loss: Grouped,
        seed: int,
    ) -> WrittenGroup:
        """Responses to the prompts of some training pairs, as a loss wants them.

        The judge is exact: it is the rule by which the generated language prefers responses. A
        response has the reward 1 if it has the style that the pair is about, else 0, and 0 if it
        does not end in as many tokens as the longest response of a training pair has. The answer
        inside a response, which pairs do not compare, and the noise of labels play no part.

        Parameters
        ----------
        params, reference
            Parameters of the run and of its reference policy.
        index
            Training pairs.
        loss
            Says who writes, at which temperature, and which responses it is trained on.
        seed
            Of the draws.
        """
        self._require_no_latents(params, "responses are written")
        return _written.group(self, params, reference, index, loss, seed)

    def rewritten(self, transform: Written) -> LanguageTask:
        """The task with demonstrations or pairs as a transform has them written, to train on.

        The base model writes, once and the same for all runs. The judge is exact: a response is
        right if it ends, in as many tokens as the longest demonstration has, and gives the
        demonstrated answer in any style. Pairs of a demonstration with itself are left out.

        Raises
        ------
        InputError
            If no pair is left.
        """
        return replace(self, **_written.rows(self, transform))

    def rewards(self, row: int, responses: Sequence[Sequence[int]]) -> list[float]:
        """Rewards of responses to the prompt of a training pair, by the judge of :meth:`written`.

        Parameters
        ----------
        row
            Number of the pair.
        responses
            Their tokens, with the end if they have one; at least one token each.
        """
        preference = self.data.preference_train[int(self.pairs.kept[row])].preference
        eos = self.tokenizer.eos
        return [
            float(
                ids[-1] == eos
                and synthetic.satisfies(preference, self.tokenizer.decode(list(ids[:-1])))
            )
            for ids in responses
        ]

    def model(self, params: Mapping[str, Tensor]) -> LanguageModel:
        """A model with the parameters of one run, as constants."""
        known = {name: value.detach() for name, value in params.items() if name != LATENT}
        model = LanguageModel(self.base.config).to(next(iter(known.values())).dtype)
        load(model, known)
        return model.to(self.device)

    def _require_no_latents(self, params: Mapping[str, Tensor], what: str) -> None:
        if self._latents(params):
            raise InputError(
                f"{what} without latent vectors",
                field="parameters",
                remedy="Leave the vectors out, or what does not go with them.",
            )

    @property
    def prompt_size(self) -> int:
        longest = max(rows.tokens.shape[-1] for rows in (self.sft, self.pairs))
        return longest * self.base.config.width

    def viewed(
        self,
        params: Mapping[str, Tensor],
        objective: int,
        index: Int[Tensor, " B"],
        factors: Float[Tensor, "B dx"] | None = None,
    ) -> tuple[Float[Tensor, "M V"], Float[Tensor, " M"]]:
        """Log-probabilities of all next tokens in the responses of some training rows.

        And 1 for each place that is one of a response. Embeddings of prompts are multiplied by
        factors, those of responses are not.
        """
        rows, more = self.sft if objective == SFT else self.pairs, {}
        if factors is not None:
            self._require_no_latents(params, "views of prompts are made")
            factors = factors.unflatten(1, (-1, self.base.config.width))
        if self.batched:
            both = self._some(params, rows, index)
            tokens, mask = both.tokens, both.mask
            if factors is not None:
                begun = mask.cumsum(-1)[..., None] > 0
                own = factors[:, : mask.shape[-1]]
                own = own if objective == SFT else own[:, None]
                more = {"factors": torch.where(begun, 1.0, own).flatten(0, -3)}
            logits = functional_call(self._shell, dict(params), (tokens.flatten(0, -2),), more)
            logits, mask = logits[:, :-1].flatten(0, 1), mask.flatten(0, -2)[:, 1:].flatten()
        else:
            laid = self._laid(params, rows, index)
            more = {"starts": laid.starts, "after": laid.after, "wanted": laid.wanted}
            if factors is not None:
                more["factors"] = _prompt_factors(factors, laid, rows.mask[index])
            logits = functional_call(self._shell, dict(params), (laid.tokens,), more)
            mask = torch.ones_like(laid.targets)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return logits.to(wide).log_softmax(-1), mask.to(wide)

    def expert_shares(
        self, params: Mapping[str, Tensor], objective: int, index: Int[Tensor, " B"]
    ) -> Float[Tensor, "L B E"]:
        """Mean shares of the experts over the tokens of some rows; a pair has its prompt once."""
        rows = self.sft if objective == SFT else self.pairs
        if self.batched:
            tokens, mask = rows.tokens[index], rows.mask[index]
            place = torch.arange(mask.shape[-1], device=mask.device)
            counted = place <= (mask * place).amax(-1, keepdim=True)
            if objective != SFT:
                begun = mask.cumsum(-1) > 0
                counted = torch.stack([counted[:, 0], counted[:, 1] & begun[:, 1]], dim=1)
            each = router_shares(self._shell, dict(params), (tokens.flatten(0, -2),), {})
            weights = counted.flatten(1)[..., None].to(each[0])
            summed = [(x.reshape(*weights.shape[:2], -1) * weights).sum(1) for x in each]
            return torch.stack(summed) / weights.sum(1)
        laid = rows.ragged(index)
        of = torch.repeat_interleave(torch.arange(len(laid.after)), laid.starts.diff())
        of = of // (1 if objective == SFT else 3)
        about = {"starts": laid.starts, "after": laid.after, "wanted": laid.wanted}
        each = router_shares(self._shell, dict(params), (laid.tokens,), about)
        summed = [x.new_zeros(len(index), x.shape[-1]).index_add(0, of, x) for x in each]
        return torch.stack(summed) / torch.bincount(of, minlength=len(index))[:, None]

    @property
    def head_name(self) -> str:
        return self.last_layer_name or "embed_tokens.weight"

    def features(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> Float[Tensor, "M w"]:
        """Input of the last layer before some tokens of the responses of demonstrations.

        As many tokens of each as a response has on average, evenly spaced; tokens of short
        responses come more than once.
        """
        self._require_no_latents(params, "states are remembered")
        before = self._spaced(index) - 1
        if self.batched:
            found = functional_call(
                self._shell, dict(params), (self.sft.tokens[index],), {"features": True}
            )
            wanted = before[..., None].expand(*before.shape, found.shape[-1])
            return found.gather(1, wanted).flatten(0, 1)
        laid = self.sft.ragged(index)
        wanted = (laid.starts[:-1, None] + before).flatten()
        place = {"starts": laid.starts, "after": laid.after, "wanted": wanted, "features": True}
        return functional_call(self._shell, dict(params), (laid.tokens,), place)

    def responses(self, index: Int[Tensor, "*runs B"]) -> Int[Tensor, "*runs M"]:
        """The tokens that follow on :meth:`features`."""
        return self.sft.tokens[index].gather(-1, self._spaced(index)).flatten(-2)

    def _spaced(self, index: Int[Tensor, "*runs B"]) -> Int[Tensor, "*runs B m"]:
        """Places of tokens in responses, as many of each, from the first on."""
        mask = self.sft.mask[index]
        lengths, count = mask.sum(-1, keepdim=True), self._mean_length
        place = torch.arange(count, device=mask.device)
        return mask.int().argmax(-1, keepdim=True) + place * lengths // count

    @cached_property
    def _mean_length(self) -> int:
        """Tokens of a response, on average."""
        return max(1, round(int(self.sft.mask.sum()) / len(self.sft)))

    @torch.no_grad()
    def demonstrated_logits(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> list[Float[Tensor, "_ vocabulary"]]:
        """Logits of each token of the responses of some training demonstrations."""
        shown = self._some(params, self.sft, index)
        logits = functional_call(self._shell, dict(params), (shown.tokens,))
        return [row[:-1][own[1:]] for row, own in zip(logits, shown.mask, strict=True)]

    def thoughts(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> Float[Tensor, "B some width"]:
        shown, count = self._some(params, self.sft, index), self._latents(params)
        states = functional_call(self._shell, dict(params), (shown.tokens,), {"features": True})
        end = shown.mask.int().argmax(-1)[:, None]
        places = torch.arange(shown.mask.shape[-1], device=end.device)
        means = [
            (states * part[..., None]).sum(1, keepdim=True) / part.sum(1)[:, None, None]
            for part in (places < end - count, shown.mask)
        ]
        wanted = end - count + torch.arange(-1, count, device=end.device)
        own = states.gather(1, wanted[..., None].expand(-1, -1, states.shape[-1]))
        return torch.cat([own[:, :1], *means, own[:, 1:]], dim=1)

    def pair_log_probs(
        self, params: Mapping[str, Tensor], index: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B 2"], Float[Tensor, "B 2"]]:
        """Log-probabilities and lengths of both responses of training pairs under one run."""
        found = self.log_probs(params, self.pairs, index)
        return found, self.pairs.mask[index].sum(-1).to(found.dtype)

    def reference(self, params: Mapping[str, Tensor]) -> Reference:
        return Reference(
            *(self._margins(params, rows) for rows in (self.pairs, self._few(self.test_pairs)))
        )

    def evaluate(
        self, params: Mapping[str, Tensor], reference: Reference
    ) -> dict[str, NDArray[np.float64]]:
        """Measures of each run; see `Task.evaluate` and, with generated rows, `skills`."""
        found: Params = {}
        for rows, end in ((self.test_sft, ""), (self.sft, "_train")):
            found[f"sft_loss{end}"] = self.token_loss(params, self._few(rows))
        for rows, end in ((self.test_pairs, ""), (self.pairs, "_train")):
            shown = self._few(rows)
            shift = (reference.train if end else reference.test)[:, : len(shown)]
            margins = self._margins(params, shown) - shift
            found[f"preference_loss{end}"] = objectives.dpo(margins, self.beta).mean(1)
            if not end:
                found |= pair_measures(margins)
        if not self.generated_rows:
            return as_arrays(found)
        return as_arrays(found) | self.skills(params, self.generated_rows)

    def token_loss(self, params: Mapping[str, Tensor], rows: Batch) -> Float[Tensor, " R"]:
        """Mean loss of each run over the tokens of some sequences that carry loss, in nats."""
        return -self._over_rows(params, rows).sum(1) / rows.mask.sum()

    @torch.no_grad()
    def every_token(
        self, params: Mapping[str, Tensor], rows: Batch
    ) -> tuple[Float[Tensor, "M V"], Int[Tensor, " M"]]:
        """Log-probabilities of one run over the vocabulary before each token that carries loss.

        The second tensor has these tokens.
        """
        if self.batched:
            rows = self._some(params, rows, torch.arange(len(rows), device=self.device))
            counted = rows.mask[:, 1:]
            logits = functional_call(self._shell, dict(params), (rows.tokens,))[:, :-1][counted]
            targets = rows.tokens[:, 1:][counted]
        else:
            laid = self._laid(params, rows, torch.arange(len(rows)))
            place = {"starts": laid.starts, "after": laid.after, "wanted": laid.wanted}
            logits = functional_call(self._shell, dict(params), (laid.tokens,), place)
            targets = laid.targets
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return wide.log_softmax(-1), targets

    def skills(self, params: Mapping[str, Tensor], rows: int) -> dict[str, NDArray[np.float64]]:
        """Scores (R,) of generated responses to the first `rows` prompts of each held-out set.

        Returns
        -------
        dict of str to ndarray
            exact_match (answer and style), answer_match (the answer in any style) and
            preference_match (the preferred style), each the mean over its skills or preferences
            and, as ``exact_match/sort``, for each of them.
        """
        runs = len(next(iter(params.values())))
        scores = []
        for run in range(runs):
            one = one_run(params, run)
            shown, wanted = self.data.sft_test[:rows], self.data.preference_test[:rows]
            outputs = self.answer(one, [row.prompt for row in shown])
            styled = self.answer(one, [row.prompt for row in wanted])
            scores.append(
                _named("exact_match", synthetic.exact_match(shown, outputs))
                | _named("answer_match", synthetic.answer_match(shown, outputs))
                | _named("preference_match", synthetic.preference_match(wanted, styled))
            )
        return {name: np.array([score[name] for score in scores]) for name in scores[0]}

    def answer(self, params: Mapping[str, Tensor], prompts: Sequence[Any], **settings: Any) -> list:
        """Generate responses of one run, greedily unless `settings` of `generate` say otherwise."""
        model = self.model(params)
        ids = self.tokenizer.encode_many(list(prompts))
        if count := self._latents(params):
            model.latent = params[LATENT]
            own = range(self.base.config.vocabulary, self.base.config.vocabulary + count)
            ids = [[*row, *own] for row in ids]
        settings = {"max_new_tokens": 32, "eos": self.tokenizer.eos, **settings}
        written = generate(model, ids, **settings)
        return [self.tokenizer.decode(row) for row in written]

    def _few(self, rows: Batch) -> Batch:
        return rows.take(torch.arange(min(self.evaluation_rows, len(rows))))

    def log_probs(
        self,
        params: Mapping[str, Tensor],
        rows: Batch,
        index: Tensor,
        weights: Tensor | None = None,
    ) -> Tensor:
        """(B) or (B, 2) log-probabilities, in nats, of some responses under one run.

        With weights (..., time), that of each token is multiplied by its weight.
        """
        shape = (len(index), *rows.tokens.shape[1:-1])
        if self.batched:
            if weights is not None and self._latents(params):
                raise _together()
            shown = self._some(params, rows, index)
            tokens, mask = shown.tokens.flatten(0, -2), shown.mask.flatten(0, -2)
            logits = functional_call(self._shell, dict(params), (tokens,))
            kept = mask
            if weights is not None:
                wide = torch.promote_types(logits.dtype, torch.float32)
                kept = mask * weights.flatten(0, -2).to(wide)
            # Latent vectors are no tokens, and are not scored.
            known = tokens.clamp(max=logits.shape[-1] - 1)
            return response_log_probs(logits, known, kept).view(shape)
        each, laid = self._each(params, rows, index)
        if weights is not None:
            each = each * weights[rows.mask[index]].to(each.dtype)
        return each.new_zeros(shape).view(-1).index_add(0, laid.owners, each).view(shape)

    def _each(self, params: Mapping[str, Tensor], rows: Batch, index: Tensor) -> tuple[Tensor, Any]:
        """(M,) log-probabilities of all tokens of some responses, and their layout."""
        laid = self._laid(params, rows, index)
        place = {"starts": laid.starts, "after": laid.after, "wanted": laid.wanted}
        logits = functional_call(self._shell, dict(params), (laid.tokens,), place)
        return _log_prob(logits, laid.targets), laid

    def _latents(self, params: Mapping[str, Tensor]) -> int:
        """Number of latent vectors that one run reads before each response; zeros are none."""
        found = params.get(LATENT)
        if found is None:
            return 0
        # In one batch all runs have some, see `_over_rows`.
        return len(found) if self.batched or bool(found.any()) else 0

    def _some(self, params: Mapping[str, Tensor], rows: Batch, index: Tensor) -> Batch:
        """Some rows, with the places of latent vectors before each response."""
        own = Batch(rows.tokens[index], rows.mask[index], rows.kept)
        count = self._latents(params)
        return own.opened(self.base.config.vocabulary, count) if count else own

    def _laid(self, params: Mapping[str, Tensor], rows: Batch, index: Tensor) -> Ragged:
        """As `_some`, packed."""
        if not self._latents(params):
            return rows.ragged(index)
        return self._some(params, rows, index).ragged(torch.arange(len(index)))

    @torch.no_grad()
    def _over_rows(self, params: Mapping[str, Tensor], rows: Batch) -> Tensor:
        """(R, rows, ...) log-probabilities under every run, in parts that fit in memory."""
        if self.batched and LATENT in params:
            some = params[LATENT].flatten(1).any(1)
            if not bool(some.any()):
                params = {name: value for name, value in params.items() if name != LATENT}
            elif not bool(some.all()):
                parts = [
                    self._over_rows({n: v[own] for n, v in params.items()}, rows)
                    for own in (some, ~some)
                ]
                order = torch.cat([some.nonzero()[:, 0], (~some).nonzero()[:, 0]])
                return torch.cat(parts)[order.argsort()]
        found = over_runs(lambda one, index: self.log_probs(one, rows, index), self.batched)
        runs = len(next(iter(params.values())))
        at_once = ROWS_AT_ONCE
        if self.batched:
            each = runs * self.base.config.vocabulary * rows.tokens[0].numel()
            at_once = max(1, LOGITS_AT_ONCE // each)
        parts = torch.arange(len(rows), device=self.device).split(at_once)
        return torch.cat([found(dict(params), part.expand(runs, -1)) for part in parts], dim=1)

    def _margins(self, params: Mapping[str, Tensor], pairs: Batch) -> Tensor:
        log_probs = self._over_rows(params, pairs)
        return objectives.margin(log_probs[..., 0], log_probs[..., 1])


def _together() -> InputError:
    return InputError(
        "weights of single tokens and latent vectors go together where rows are packed only",
        field="ragged",
        remedy="Use the task on a CPU.",
    )


def _log_prob(logits: Tensor, targets: Tensor) -> Tensor:
    """(M,) log-probabilities of tokens, by logits (M, vocabulary)."""
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(scores, targets, reduction="none")


def _prompt_factors(factors: Tensor, laid: Ragged, mask: Tensor) -> Tensor:
    """Factors (B, time, w) of prompts for the tokens of packed rows; 1 for those of responses."""
    of = torch.repeat_interleave(torch.arange(len(laid.after)), laid.starts.diff())
    place = torch.arange(len(laid.tokens)) - laid.starts[of]
    # A pair has three sequences, of which the first is the prompt of both responses.
    each = 3 if mask.ndim == 3 else 1
    first = mask.any(1) if mask.ndim == 3 else mask
    of_prompt = (laid.after[of] < 0) & (place < first.int().argmax(-1)[of // each])
    return torch.where(of_prompt[:, None], factors[of // each, place], 1.0)


@torch.no_grad()
def _entropies(logits: Float[Tensor, "*rows V"]) -> Float[Tensor, " *rows"]:
    """Entropies of next tokens, in nats."""
    logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def _named(name: str, scores: Mapping[str, float]) -> dict[str, float]:
    mean = {name: sum(scores.values()) / len(scores)}
    return mean | {f"{name}/{kind}": score for kind, score in scores.items()}


def pretrain(
    config: LanguageModelConfig,
    corpus: Sequence[str],
    tokenizer: Tokenizer,
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    length: int = 128,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> LanguageModel:
    """Train a base model on text, by AdamW with a short warm-up and cosine decay to zero.

    Blocks of `length` tokens are read in random order, a new order in each epoch.
    """
    model = LanguageModel(config, seed).to(device)
    blocks = packed_batch(corpus, tokenizer, length).to(device)
    descent = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.95))
    warm = max(1, steps // 20)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + np.cos(np.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(descent, rate)
    order = _shuffled(len(blocks), seed)
    weights = sum(p.numel() for p in model.parameters())
    with one_thread(when=weights <= SMALL):
        for _ in tqdm(range(steps), desc="pretraining", disable=not progress, leave=False):
            rows = torch.tensor([next(order) for _ in range(batch_size)], device=device)
            tokens, mask = blocks.tokens[rows], blocks.mask[rows]
            loss = -response_log_probs(model(tokens), tokens, mask).sum() / mask.sum()
            descent.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            descent.step()
            schedule.step()
    return model


def _shuffled(count: int, seed: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(count).tolist()
