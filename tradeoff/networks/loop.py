"""The state of an ensemble in training, and its update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tradeoff.errors import InputError
from tradeoff.methods.after import Resa
from tradeoff.methods.gradients import Update
from tradeoff.methods.gradients.coordinates import direction_of
from tradeoff.methods.losses import ResponseGroup, TokenWeighted
from tradeoff.methods.losses.divergences import divergence
from tradeoff.methods.losses.groups import Grouped
from tradeoff.methods.losses.rollouts import Rollouts
from tradeoff.methods.parameters import Added
from tradeoff.networks._hooks import Hooks
from tradeoff.networks._views import NetworkView
from tradeoff.networks.followed import Choices
from tradeoff.networks.optimizers import RowOptimizer
from tradeoff.networks.tasks import Params, Reference, Task, one_run, over_runs
from tradeoff.networks.trained_losses import (
    AddedTask,
    CarryingTask,
    FiniteTask,
    JudgedTask,
    Reading,
    ThinkingTask,
    TokenTask,
    WeightedTask,
    WritingTask,
    pair_value,
    sft_value,
)
from tradeoff.schedules import PREFERENCE, SFT, Decay, Plan


class Loop:
    """R runs in training.

    Parameters
    ----------
    task, choices
        Model and data; methods and draws of the runs.
    trained, held
        Stacked parameters that are trained, and those that are frozen.
    shift
        (R, J) margins of the reference policy on the training pairs.
    clip
        Largest norm of a run's gradient.
    at_once
        Runs per batched call.
    spread
        A function like the built-in `map`, which calls a function for each chunk of runs.
    anchor
        Stacked parameters of the reference policies, for losses that compare with them.
    added
        What all runs add to their networks; None: nothing.
    scored
        The task whose measures are recorded; None: that which is trained.

    Attributes
    ----------
    theta
        (R, D) trained parameters, run r in row r.
    diverged_at
        (R,) number of updates done when a loss or gradient was first not finite; NaN: never. It
        stays on the device, so that no update waits for it.
    """

    def __init__(
        self,
        task: Task,
        choices: Choices,
        trained: Params,
        held: Params,
        shift: Float[Tensor, "R J"],
        clip: float | None,
        at_once: int,
        spread: Callable[..., Any],
        anchor: Params | None = None,
        added: Added | None = None,
        scored: Task | None = None,
    ) -> None:
        self.scored = scored or task
        self.anchor, self.added = anchor or {}, added
        self.task, self.choices, self.held, self.shift = task, choices, held, shift
        self.clip, self.at_once, self.spread = clip, at_once, spread
        self.shapes = {name: value.shape[1:] for name, value in trained.items()}
        self.theta = torch.cat([value.flatten(1) for value in trained.values()], dim=1)
        runs = len(self.theta)
        self.diverged_at = torch.full((runs,), torch.nan, device=self.theta.device)
        self.counts = torch.zeros(runs, 2, device=self.theta.device)
        self.probe_rows = np.zeros(runs, dtype=np.int64)
        self.seconds, self.done = 0.0, 0
        self._going = np.ones(runs, dtype=bool)
        self.hooks = Hooks(choices, self.shapes, self.theta)
        methods = zip(choices.methods, choices.groups, strict=True)
        self._carriers = {
            k: group for k, (method, group) in enumerate(methods) if isinstance(method.after, Resa)
        }
        self._first = self.theta.clone() if self._carriers else self.theta
        self._at_end: dict[int, Tensor] = {}
        self.rewards = self._judged()
        self._selecting = list(choices.selecting())
        self._memory: dict[int, Any] = {}
        self._weights = {
            loss: cast(WeightedTask, task).token_weights(loss)
            for loss, _ in choices.losses(SFT)
            if isinstance(loss, TokenWeighted)
        }

    def params(self, theta: Tensor | None = None, rows: slice | Tensor = slice(None)) -> Params:
        """Stacked parameters of all runs, or of some runs, with given trained values."""
        theta = self.theta if theta is None else theta
        parts = theta.split([prod(shape) for shape in self.shapes.values()], dim=1)
        own = {
            name: part.unflatten(1, shape) if len(shape) else part[:, 0]
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        return own | {name: value[rows] for name, value in self.held.items()}

    def shown(self) -> Float[Tensor, "R D"]:
        """Trained parameters that are evaluated and returned: theta, after the hooks."""
        found = self.hooks.output(self.theta, self.done)
        for k, (plan, runs) in self._carriers.items():
            if self.done == len(plan):
                if k not in self._at_end:
                    self._at_end[k] = self._carried(self.choices.methods[k].after, plan, runs)
                found[runs] = self._at_end[k]
        return found

    def _carried(self, part: Any, plan: Plan, runs: NDArray[np.int64]) -> Tensor:
        """(n, D) weights before the last stage, with what an adapter carries over from now."""
        if self.held:
            raise InputError(
                f"{part.label} has adapters beside all matrices, and some are not trained",
                field="runs",
                value=sorted(self.held),
                remedy="Train all weights.",
            )
        source, base = (self.params(theta[runs], slice(0)) for theta in (self.theta, self._first))
        updates, seeds = round(part.share * len(plan)), self.choices.seeds[runs].tolist()
        task = cast(CarryingTask, self.task)
        found = task.carried(source, base, part, updates, self.choices.batch_size, seeds)
        return torch.cat([found[name].flatten(1) for name in self.shapes], dim=1)

    def update(
        self, step: int, optimizer: RowOptimizer, rates: NDArray[np.float64], decay: Decay
    ) -> None:
        """Update every run; a run that is no longer finite keeps its parameters.

        ``rates`` are (R, S): S rates of each run, one for each stage, in turn.
        """
        began = time.perf_counter()
        self._probe(step)
        self._begin(step)
        clock = self.choices.clock(step)
        if step and (restarted := np.flatnonzero(clock == 1)).size:
            optimizer.restart(restarted)
        if self._carriers:
            begun = torch.from_numpy(np.flatnonzero(clock == 1)).to(self.theta.device)
            self._first[begun] = self.theta[begun]
        weights = self.choices.weights(step) * self._going[:, None]
        followed = self.choices.followed(weights, step) & self._going[:, None]
        gradient, losses = self._gradient(step, weights, followed)
        for chain, runs in self.hooks.chains:
            if getattr(chain.hooks.get("anchor"), "sees", ""):
                chain.see(NetworkView(self, chain, runs, step))
        self.hooks.direct(gradient, self.theta, step)
        norm = gradient.norm(dim=1)
        fine = norm.isfinite() & losses.isfinite().all(1)
        before = self.diverged_at.isnan()
        self.diverged_at = torch.where(before & ~fine, float(step), self.diverged_at)
        going = before & fine
        # On a device, a test would make the host wait; filling costs less.
        if gradient.is_cuda or not bool(going.all()):
            gradient.masked_fill_(~going[:, None], 0.0)
        if self.clip is not None:
            gradient.mul_((self.clip / (norm + 1e-6)).nan_to_num(1.0).clamp(max=1.0)[:, None])
        stage = self.choices.stage(step) % rates.shape[1]
        own = rates[np.arange(len(rates)), stage]
        rate = self._tensor(own * self.choices.shares(step, decay)) * going
        optimizer.step(self.theta, gradient, rate)
        self.hooks.finish(self.theta, going, step)
        self.done = step + 1
        self.counts += self._tensor(followed) * going[:, None]
        if self.choices.compares:
            self.choices.observe(losses.double().cpu().numpy(), followed)
        self.seconds += time.perf_counter() - began

    def record(self, reference: Reference) -> dict[str, NDArray[np.float64]]:
        """Measures, costs and training time of all runs so far, each (R,)."""
        began = time.perf_counter()
        if self.theta.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - began
        self._going = self.diverged_at.isnan().cpu().numpy()

        shown = self.shown()

        def measured(rows: Tensor) -> dict[str, NDArray[np.float64]]:
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            shift = Reference(reference.train[part], reference.test[part])
            return self.scored.evaluate(self.params(shown[part], part), shift)

        chunks = torch.arange(len(self.theta)).split(self.at_once)
        parts = list(self.spread(measured, chunks))
        counts = self.counts.double().cpu().numpy()
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} | {
            "sft_updates": counts[:, SFT].astype(np.int64),
            "preference_updates": counts[:, PREFERENCE].astype(np.int64),
            "probe_rows": self.probe_rows.copy(),
            "seconds": np.full(len(counts), self.seconds),
        }

    def _begin(self, step: int) -> None:
        """Call the hooks before an update: they may change weights and see gradients of rows."""
        for chain, runs in self.hooks.begin(self.theta, step):
            for slot, objective, rows in list(chain.passes(step)):
                for index in self.choices.single_rows(objective, rows, runs):
                    chunks = list(self._chunks(runs, index))
                    slopes = self.spread(partial(self._slope, objective, None), chunks)
                    slope = torch.cat([found for found, _ in slopes])
                    chain.observe(slot, self.hooks.split(slope.nan_to_num()), step)
                chain.conclude(slot, step)
                # Counted in gradients of a batch; the last batch may be smaller.
                self.counts[runs, objective] += -(-rows // self.choices.batch_size)
            for objective, count in enumerate(chain.costs(step)):
                if count:
                    self.counts[runs, objective] += count

    def _gradient(
        self, step: int, weights: NDArray[np.float64], followed: NDArray[np.bool_]
    ) -> tuple[Tensor, Tensor]:
        """Gradients (R, D) of the update and their losses (R, 2), 0 if not computed."""
        gradient = torch.zeros_like(self.theta)
        losses = self.theta.new_zeros(len(weights), 2)
        joined = self.choices.joined(step)
        kept = self.theta.new_zeros(2, len(joined), self.theta.shape[1])
        place = torch.from_numpy(np.searchsorted(joined, np.arange(len(weights))))
        for objective in (SFT, PREFERENCE):
            apart = np.isin(np.arange(len(weights)), joined)
            factors = self._tensor(np.where(apart, 0.0, weights[:, objective]))
            for loss, members in self.choices.losses(objective):
                followers = members[followed[members, objective]]
                batch = self.choices.batch(objective, step, followers)
                if objective == SFT and self._selecting:
                    batch = self._selected(step, followers, batch)
                chunks = list(self._chunks(followers, batch))
                slopes = self.spread(partial(self._slope, objective, loss, step=step), chunks)
                for (runs, _), (slope, value) in zip(chunks, slopes, strict=True):
                    losses[runs, objective] = value
                    if len(joined):
                        both = torch.isin(runs.cpu(), torch.from_numpy(joined))
                        kept[objective, place[runs.cpu()[both]]] = slope[both.to(slope.device)]
                    gradient.index_add_(0, runs, slope.mul_(factors[runs][:, None]))
        if len(joined):
            gradient[joined] = self._join(step, joined, kept, weights, losses)
        return gradient, losses

    def _join(
        self,
        step: int,
        joined: NDArray[np.int64],
        kept: Float[Tensor, "2 n D"],
        weights: NDArray[np.float64],
        losses: Float[Tensor, "R 2"],
    ) -> Float[Tensor, "n D"]:
        """Gradients of the runs that have a gradient rule."""
        wide = kept.double()
        gram = torch.einsum("ind,jnd->nij", wide, wide).cpu().numpy()
        values = losses[joined].double().cpu().numpy()
        # A run that is no longer finite keeps its parameters, so its factors do not matter.
        gram, values = np.nan_to_num(gram), np.nan_to_num(values)
        factors = self._tensor(self.choices.join(step, gram, weights[joined], values))
        found = torch.einsum("ni,ind->nd", factors, kept)
        vectors = self.choices.vectors
        for k, rule, rows, place in self.choices.of_vectors(step):
            uniform = self._tensor(self.choices.coins(step, rows, kept.shape[-1]))
            known = self.choices.excess(rule, rows, values[place])
            about = Update(uniform, self._tensor(weights[rows]), self._tensor(known))
            first, second = self._tensor(weights[rows].T)[..., None] * kept[:, place]
            state = vectors[k] if k in vectors else rule.remembered(first)
            found[place], vectors[k] = direction_of(rule, first, second, about, state)
        return found

    def _selected(
        self, step: int, followers: NDArray[np.int64], batch: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Demonstrations (n, B) of an update, where a method chooses them from more."""
        batch, task = batch.copy(), cast(TokenTask, self.task)
        for rule, members in self._selecting:
            own = np.intersect1d(followers, members)
            given = self.choices.candidates(step, own, rule.candidates)
            for run, rows in zip(own.tolist(), given, strict=True):
                shown = one_run(self.params(self.theta[[run]], torch.tensor([run])), 0)
                index = torch.from_numpy(rows).to(self.theta.device)
                found = task.demonstrated_logits(shown, index)
                logits = [
                    np.nan_to_num(x.double().cpu().numpy(), posinf=0.0, neginf=0.0) for x in found
                ]
                places, self._memory[run] = rule.best(
                    logits, batch.shape[1], self._memory.get(run, {})
                )
                batch[np.searchsorted(followers, run)] = rows[places]
        return batch

    def _slope(
        self, objective: int, loss: Any, chunk: tuple[Tensor, Tensor], step: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Gradients (n, D) of some runs' losses (n,) on (n, B) data rows, and the losses."""
        runs, index = chunk
        theta = self.theta[runs].requires_grad_()
        found = self._losses(objective, theta, runs, index, loss, step)
        total = found.sum()
        thinks = self.added is not None and self.added.by_token
        if self.added is not None and self.added.penalises and not (thinks and objective):
            total = total + self._penalties(objective, theta, runs, index).sum()
        (slope,) = torch.autograd.grad(total, theta)
        return slope, found.detach()

    def _penalties(self, objective: int, theta: Tensor, runs: Tensor, index: Tensor) -> Tensor:
        """(n,) penalties of what is added to the networks."""
        task, added = self.task, self.added
        assert added is not None, "asked before"

        def one(params: Params, index: Tensor) -> Tensor:
            if added.by_token:
                seen = cast(ThinkingTask, task).thoughts(params, index)
            else:
                seen = cast(AddedTask, task).expert_shares(params, objective, index)
            found: Tensor = added.penalty(seen, objective)
            return found

        return over_runs(one, self.task.batched)(self.params(theta, runs), index)

    def _losses(
        self,
        objective: int,
        theta: Tensor,
        runs: Tensor,
        index: Tensor,
        loss: Any = None,
        step: int = 0,
    ) -> Tensor:
        """(n,) losses of some runs on (n, B) data rows; the task's loss if none is given."""
        params = self.params(theta, runs)
        if loss is not None:
            return self._trained(objective, loss, params, runs, index, step)
        shift = [self.shift[runs[:, None], index]] if objective == PREFERENCE else []

        def one(params: Params, *given: Tensor) -> Tensor:
            return self.task.losses(params, objective, *given)

        return over_runs(one, self.task.batched)(params, index, *shift)

    def _trained(
        self, objective: int, loss: Any, params: Params, runs: Tensor, index: Tensor, step: int
    ) -> Tensor:
        """(n,) losses that a method trains; the reference policy runs beside the policy."""
        task: Any = self.task
        rows = index.shape[1]
        if objective == SFT and isinstance(loss, Rollouts):
            return self._rolled(loss, params, runs, index, step)
        finite = isinstance(task, FiniteTask)
        if objective == PREFERENCE and loss.grouped and not finite:
            return self._written(loss, params, runs, index, step)
        by_entropy = objective == SFT and loss.compares == "entropy" and not finite
        reads = objective == SFT and (self._reads(loss) or by_entropy)
        hides = objective == SFT and loss.hides

        def pairs(params: Params, index: Tensor) -> tuple[Tensor, Tensor]:
            if loss.by_token:
                return task.weighted_pairs(params, index, loss)
            return task.pair_log_probs(params, index)

        def known(params: Params, index: Tensor) -> Tensor:
            if objective == SFT:
                return task.tokens(params, index).log_probs
            return pairs(params, index)[0]

        def every(params: Params, index: Tensor) -> Tensor:
            found: Tensor = task.every_log_prob(params, objective, index)
            return found

        grouped = objective == PREFERENCE and loss.grouped
        reference: dict[str, Tensor] = {}
        if loss.needs_reference:
            anchor = {name: value[runs] for name, value in self.anchor.items()}
            with torch.no_grad():
                reference["own"] = over_runs(known, task.batched)(anchor, index)
                if (loss.compares is not None and not by_entropy) or grouped:
                    reference["every"] = over_runs(every, task.batched)(anchor, index)
        if grouped and self.rewards is not None:
            reference["rewards"] = self.rewards[runs[:, None], index]

        if hides:
            coins = self.choices.hidden(loss, step, runs.cpu().numpy(), (rows, task.time))
            reference["hidden"] = torch.from_numpy(coins).to(index.device)

        def one(params: Params, index: Tensor, *values: Tensor) -> Tensor:
            given = dict(zip(reference, values, strict=True))
            compared, apart = given.get("own"), None
            if loss.compares is not None and not by_entropy:
                all_of = every(params, index)
                apart = divergence(all_of, given.get("every", all_of), loss.compares)
            if objective == SFT:
                weights = self._weights.get(loss)
                reading = Reading(given.get("hidden"), loss.fed_back, weights, by_entropy)
                tokens = task.read(params, index, reading) if reads else task.tokens(params, index)
                return sft_value(loss, tokens, compared, rows, apart)
            log_probs, lengths = pairs(params, index)
            group = None
            if grouped:
                group = ResponseGroup(
                    every(params, index), given.get("every"), given.get("rewards")
                )
            return pair_value(loss, log_probs, lengths, compared, apart, group)

        return over_runs(one, task.batched)(params, index, *reference.values())

    def _rolled(
        self, loss: Rollouts, params: Params, runs: Tensor, index: Tensor, step: int
    ) -> Tensor:
        """(n,) losses of what some runs write, which is written run by run."""
        task, members = cast(TokenTask, self.task), runs.cpu().numpy()
        coins = self.choices.tosses(step, members, (index.shape[1], loss.group))
        progress = self.choices.progress(step)[members]
        seeds = self.choices.seeds[members] * 2**20 + step
        return torch.stack(
            [
                task.rollouts(
                    *(one_run(params, k), index[k], loss, float(progress[k])),
                    *(coins[k], int(seeds[k])),
                )
                for k in range(len(members))
            ]
        )

    def _written(
        self, loss: Grouped, params: Params, runs: Tensor, index: Tensor, step: int
    ) -> Tensor:
        """(n,) losses of responses to the prompts of pairs, which are written run by run."""
        task, members = cast(WritingTask, self.task), runs.cpu().numpy()
        seeds = self.choices.seeds[members] * 2**20 + step
        groups = [
            task.written(one_run(params, k), one_run(self.anchor, run), index[k], loss, seed)
            for k, (run, seed) in enumerate(zip(members.tolist(), seeds.tolist(), strict=True))
        ]
        return torch.stack([loss.of_written(group).mean() for group in groups])

    def _reads(self, loss: Any) -> bool:
        """Whether a loss of demonstrations has weights, or reads something else."""
        return loss in self._weights or loss.hides or loss.fed_back > 0

    def _judged(self) -> Tensor | None:
        """(R, J, K) rewards of all responses to the prompts of pairs; None if no loss asks."""
        asked = any("rewards" in method.preference.asks for method in self.choices.methods)
        if not asked or not isinstance(self.task, JudgedTask):
            return None
        found = self.task.judged(self.anchor)
        return found.to(self.theta)

    def _probe(self, step: int) -> None:
        """Evaluate the losses that plans compare before this update, and count the rows."""
        for members, plan in self.choices.due(step):
            for objective in plan.watched:
                probe = self.choices.probe(objective, plan.gaps.samples, members)
                chunks = self._chunks(members, probe)
                found = list(self.spread(partial(self._value, objective), chunks))
                values = torch.cat(found).double().cpu().numpy()
                self.choices.learn(step, objective, members, values)
                self.probe_rows[members] += probe.shape[1] * self._going[members]

    @torch.no_grad()
    def _value(self, objective: int, chunk: tuple[Tensor, Tensor]) -> Tensor:
        """(n,) losses of some runs at their current parameters, on (n, B) data rows."""
        runs, index = chunk
        return self._losses(objective, self.theta[runs], runs, index)

    def _chunks(
        self, runs: NDArray[np.int64], index: NDArray[np.int64]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield runs (n,) and their data rows (n, B) on the device, at most `at_once` at a time."""
        for start in range(0, len(runs), self.at_once):
            part = slice(start, start + self.at_once)
            members, batch = (torch.from_numpy(a[part]) for a in (runs, index))
            yield members.to(self.theta.device), batch.to(self.theta.device)

    def _tensor(self, values: NDArray) -> Tensor:
        return torch.from_numpy(values).to(self.theta)
