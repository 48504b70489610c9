"""Joint post-training: one policy, two data sets, and a schedule that decides each update.

    prepare      rows -> tokens, model -> policy, reference log-probabilities
    update       schedule -> objective(s) -> forward passes -> one step of the optimiser
    evaluate     held-out SFT loss and preference loss
    save         the whole state as files, from which a run resumes exactly

The schedule decides once per update. Its draws, the rows of each update and dropout are functions
of (seed, update). So processes agree without communication, and a resumed run repeats nothing.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate.utils import broadcast
from jaxtyping import Float
from torch import Tensor

from tradeoff import draws, records
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.sources import Source
from tradeoff.display import as_html
from tradeoff.errors import InputError, RowWarning
from tradeoff.files import check_writable
from tradeoff.llm import (
    _about,
    _chosen_rows,
    _corpora,
    _dropout,
    _reference,
    _reference_values,
    _saved,
    _state,
    _stopping,
    ahead,
    batches,
    card,
    checkpoints,
    models,
    optima,
    routers,
    setup,
    snapshots,
)
from tradeoff.llm._bar import Bar
from tradeoff.llm._extension import check_extends
from tradeoff.llm._fingerprints import dotted_name, model_fingerprint, own_collator
from tradeoff.llm._gaps import KnownLosses
from tradeoff.llm._interrupt import Interrupt
from tradeoff.llm._joining import GradientJoin
from tradeoff.llm._method_hooks import MethodHooks
from tradeoff.llm._owner import owned
from tradeoff.llm._passes import Feed, Pass
from tradeoff.llm._rates import learning_rates
from tradeoff.llm._readings import Readings
from tradeoff.llm._scorer import Scorer
from tradeoff.llm._tally import Tally
from tradeoff.llm._turns import keep_date
from tradeoff.llm.callbacks import Callback, as_callback, as_callbacks
from tradeoff.llm.config import Experiment, TrainConfig
from tradeoff.llm.journal import Journal
from tradeoff.llm.logprobs import Policy
from tradeoff.llm.meter import Costs, Meter
from tradeoff.methods import Method
from tradeoff.progress import tqdm
from tradeoff.schedules import OBJECTIVES, SFT, Schedule

# tradeoff.experiment makes these for a run that has ended.
_DRAWN = ("trajectory.csv", "trajectory.parquet", "loss_space.svg", "loss_space.png")
OnEvaluation = Callable[["JointTrainer", dict[str, Any]], None]
SAVE_SECONDS = 900.0
"""Seconds between two checkpoints of a run without `save_every`."""


@dataclass(frozen=True, repr=False)
class TrainResult:
    """The result of a run.

    Attributes
    ----------
    table
        One row per evaluation: step, held-out sft_loss and preference_loss (those of the settings,
        also if a method trains others; dpo_loss, too, if the settings name another loss), accuracy,
        implicit rewards, updates of each objective so far, rows probed, seconds and tokens of
        training.
    log
        One row per log line: training losses since the line before, gradient norm, rate, speed.
    summary
        Final losses, counts of the data after tokenisation, and costs.
    diverged_at
        Number of updates when a loss or gradient was first not finite; None: never.
    signal
        Number of the signal that stopped the run, or 0; the same call resumes it.
    """

    table: pd.DataFrame
    log: pd.DataFrame
    summary: dict[str, Any]
    diverged_at: int | None = None
    signal: int = 0

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped the run."""
        return self.signal != 0

    def __repr__(self) -> str:
        stopped = self.summary["steps"] < self.summary["identity"]["steps"]
        end = "stopped" if stopped and not self.summary.get("stopped_early") else "done"
        end = "interrupted" if self.interrupted else end
        end = end if self.diverged_at is None else f"diverged at update {self.diverged_at}"
        return f"TrainResult({self.summary['schedule']['name']}, {self._updates}, {end})"

    def _repr_html_(self) -> str:
        return as_html(repr(self), self.table)

    @property
    def _updates(self) -> str:
        counts = self.summary["updates"]
        return f"{counts['sft']} SFT and {counts['preference']} preference updates"


class JointTrainer:
    """Joint trainer of a causal language model on demonstrations and preference pairs.

    Parameters
    ----------
    model, tokenizer
        A model of transformers or of peft. Adapters of the model are trained further; if
        ``config.lora`` asks for new ones, the old ones are first merged into its weights.
    sft, preference
        Training rows, or sources for `tradeoff.read_sft` and `tradeoff.read_preferences`.
    schedule
        The schedule, which says which objective each update follows; or a method, which also has
        losses and a gradient rule. Held-out losses are those of the settings, also if a method
        trains other losses.
    config
        All other settings.
    sft_test, preference_test
        Held-out rows or their sources. By default ``config.holdout`` of the prompts are held out of
        both training sets.
    output
        Folder for log, checkpoints and the trained model; ``None``: nothing is written.
    callbacks
        Functions that are called with the trainer and the record of each evaluation, to which they
        may add. Or :class:`~tradeoff.llm.callbacks.Callback` objects, which are also called at
        updates, log lines and saves.
    optimizer
        Makes an optimiser of all given groups of parameters, with the settings, in place of AdamW.
        Its rate is set at each update. For checkpoints its state must be tensors and numbers.
    rates
        Makes the (T,) rates of the updates from the settings and the plan's clock, in place of
        ``tradeoff.llm._rates.learning_rates``.
    collator
        Makes the batch of a pass from its rows, their layout and the padding token, in place of
        :func:`tradeoff.llm.batches.collate`, for training, references and evaluations.

    Raises
    ------
    InputError
        Before any training, if settings, rows, tokenizer and model do not fit together.

    Examples
    --------
    >>> from tradeoff.llm import JointTrainer, TrainConfig
    >>> from tradeoff import tiny
    >>> from tradeoff.schedules import Alright
    >>> model, tokenizer = tiny.random_model()
    >>> sft, preference = tiny.rows(40)
    >>> settings = TrainConfig(steps=2, batch_size=4, max_length=64)
    >>> trainer = JointTrainer(
    ...     model, tokenizer, sft=sft, preference=preference, schedule=Alright(), config=settings
    ... )
    >>> done = trainer.train(progress=False)
    >>> done.table[["step", "sft_loss", "preference_loss"]].shape
    (3, 3)
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        sft: Sequence[SftRow] | Source,
        preference: Sequence[PreferenceRow] | Source,
        schedule: Schedule | Method,
        config: TrainConfig | None = None,
        sft_test: Sequence[SftRow] | Source | None = None,
        preference_test: Sequence[PreferenceRow] | Source | None = None,
        output: str | Path | None = None,
        callbacks: Sequence[OnEvaluation | Callback] = (),
        optimizer: Callable[[list[dict[str, Any]], TrainConfig], torch.optim.Optimizer]
        | None = None,
        rates: Callable[[TrainConfig, np.ndarray], np.ndarray] | None = None,
        collator: batches.Collator = batches.collate,
    ) -> None:
        config = TrainConfig() if config is None else config
        setup.check_kinds(model, tokenizer, schedule, config)
        self.config = config = setup.within_context(config, model)
        self.method = Method.of(schedule)
        self.schedule, self.tokenizer = self.method.schedule, tokenizer
        self.callbacks = as_callbacks(callbacks)
        self.output = None if output is None else Path(output)
        if self.output is not None:
            check_writable(self.output)
            setup.check_not_replaced(self.output, "model", getattr(model, "name_or_path", ""))
            setup.check_not_replaced(self.output, "reference", config.reference)
        if self.output is None or not checkpoints.checkpoints(self._folder):
            # A checkpoint holds the reference's values, so a resumed run does not need its model.
            setup.check_reference(config)
        if config.reference_cache is not None:
            cache = Path(config.reference_cache)
            check_writable(cache, what="reference cache", field="reference_cache")
        if self.output is not None and (found := checkpoints.checkpoints(self._folder)):
            keep_date(tokenizer, checkpoints.rendered_on(found[-1]))
        self.date = keep_date(tokenizer)
        self.data = _corpora.prepare(
            model, tokenizer, (sft, preference), (sft_test, preference_test), config
        )
        self.data = _chosen_rows.choose(self.data, self.method, config.max_length)
        for remark in self.data.remarks():
            warnings.warn(remark, RowWarning, stacklevel=2)
        _stopping.check(config, self.data, schedule.lam)
        sizes = len(self.data.sft), len(self.data.preference)
        self.steps = config.updates(*sizes)
        config = replace(config, steps=self.steps, epochs=None)
        self.plan = self.method.plan(self.steps)
        self.accelerator = setup.accelerator(config, self.output)
        setup.check_method(self.method, config, self.accelerator.num_processes)
        setup.check_attention(model, config, self.accelerator.device)
        self._adapters = setup.adapters(model, config)
        self.model = setup.trainable(model, config)
        if self.output is not None:
            setup.check_space(self.output, self.model, config, self.steps)
        self.costs = Costs.of(self.model)
        bare = Policy(self.model)
        routers.check(self.model, config.router_loss)
        setup.check_sight(bare, self.data)
        self.config = config = setup.with_layout(
            bare, self.data, config, self.accelerator.device, self.costs
        )
        self.identity = _state.identity(
            self.method, config, self.data, model_fingerprint(bare.model)
        )
        self.identity |= {
            name: None if made is None else dotted_name(made)
            for name, made in (("own_optimizer", optimizer), ("own_rates", rates))
        }
        self.identity |= own_collator(collator)
        with setup.memory_errors(config):
            self.policy, self.optimizer = self.accelerator.prepare(
                bare, setup.optimizer(bare, config, self.accelerator.device, optimizer)
            )
        if config.compile:
            setup.compile_blocks(self.model)
        self.scorer = Scorer(
            *(self.policy, config, setup.padding(tokenizer), self.accelerator),
            *(collator, self.method.preference if self.method.preference.by_token else None),
        )
        self.readings = Readings.of(
            *(self.method.sft, self.plan, config.seed, self.data.sft, tokenizer, self.scorer.pad)
        )
        self._make_rates = rates or learning_rates
        self.rates = setup.checked_rates(self._make_rates(config, self.plan.clock), config)
        setup.warn_of_probes(self.plan, sizes, config, self.costs)
        setup.warn_of_limit(self.plan, config)
        setup.warn_of_optima(self.plan, config)
        if rates is None:
            setup.warn_of_warmup(self.plan, config)
        setup.warn_of_precision(config, self.accelerator.device)
        self.known = KnownLosses(self.plan, config, sizes)
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.needed = ahead.needed(self.plan, config, self.known, processes)
        self.joining = GradientJoin(self.method, self.plan, self.policy, config.seed)
        self.hooks = MethodHooks(self.method, self.plan, self.policy, config.seed)
        self.feed = Feed(self.data, config, process, processes)
        if config.router_loss:
            self._bare.experts = routers.experts_per_token(self.model)
        self.tally, self.meter = Tally(), Meter(self.accelerator.device, processes)
        self.journal = Journal(self.output, self.accelerator)
        self.references: _reference_values.References | None = None
        self.step = 0
        self.diverged_at: int | None = None
        self._stopping, self._staged, self._saved_at = False, False, time.monotonic()
        self._logged: Mapping[str, float] = {}
        self.experiment: Experiment | None = None
        """All settings of the command that started the run, for the model card."""
        self._best_weights: list[Tensor] = []
        self._sample = setup.sample(self.policy)
        # What is refused leaves no folder behind.
        if self.output is not None:
            setup.check_output(self.output)

    # ------------------------------------------------------------------ the run

    def train(self, *, resume: bool = True, progress: bool = True) -> TrainResult:
        """Run the schedule to its end.

        Parameters
        ----------
        resume
            Resume from the newest checkpoint of the output folder, if there is one. Without
            `resume`, files of an earlier run are removed. A trainer that has done updates goes on
            from them, so only a new trainer can begin anew.
        progress
            Show progress bars.

        Raises
        ------
        InputError
            If another run writes to the output folder, the newest checkpoint is of another run,
            there is not enough memory, or a trainer that has done updates shall begin anew.
        """
        shown = progress and self.accelerator.is_main_process
        interrupt = Interrupt(self.accelerator, self.config.log_every)
        with owned(self.output, self.accelerator):
            with setup.memory_errors(self.config):
                self.journal.open(self.config, self.schedule)
                # Up to here a signal ends the process at once, as nothing is lost.
                self.begin(resume=resume, progress=shown)
                with interrupt:
                    self._run(interrupt, shown)
            self.journal.close()
            result = self._result(interrupt.number)
            self._call("end", result)
            return result

    def begin(self, *, resume: bool = True, progress: bool = False) -> None:
        """Restore the newest checkpoint, if there is one, and compute the reference.

        :meth:`train` does this. Call it before :meth:`update` if you write your own loop.

        Parameters
        ----------
        resume, progress
            As for :meth:`train`.
        """
        self._begin(resume, progress)
        auto = self.config.optima == optima.AUTO
        if auto and optima.needed(self) and not self.known.measured:
            self._measure_optima(progress)
        self._call("begin")

    def update(self) -> dict[str, Tensor]:
        """Do one update: choose objectives, compute the gradient, and step the optimiser.

        Log lines, due evaluations, checkpoints and the saved model are the work of :meth:`train`.
        In a loop of your own, call :meth:`evaluate` and :meth:`save`.

        Returns
        -------
        dict
            This process's part of the mean training loss of each objective followed, by name;
            reading one waits for the device.

        Raises
        ------
        InputError
            Before :meth:`begin`, or after the last update of the schedule.

        Examples
        --------
        >>> from tradeoff.llm import JointTrainer, TrainConfig
        >>> from tradeoff import tiny
        >>> from tradeoff.schedules import Mix
        >>> model, tokenizer = tiny.random_model()
        >>> sft, preference = tiny.rows(40)
        >>> settings = TrainConfig(steps=2, batch_size=4, max_length=64)
        >>> trainer = JointTrainer(
        ...     model, tokenizer, sft=sft, preference=preference, schedule=Mix(), config=settings
        ... )
        >>> trainer.begin()
        >>> while trainer.step < trainer.steps:
        ...     losses = trainer.update()
        >>> sorted(losses), sorted(trainer.evaluate())[-3:]
        (['preference', 'sft'], ['sft_updates', 'step', 'tokens'])
        """
        self._check_begun("update")
        if self.step >= self.steps:
            raise InputError(
                "the schedule has ended",
                field="steps",
                value=self.steps,
                remedy="Give more steps, or epochs.",
            )
        losses = self._update()
        self._call("updated", losses)
        return losses

    def stop(self) -> None:
        """Save and end the run after this update, as a signal would; the same call resumes it."""
        self._stopping = True

    def _check_begun(self, asked: str) -> None:
        if self.references is None:
            remedy = "Call trainer.begin() first; trainer.train() does."
            raise InputError("the run has not begun", field=asked, remedy=remedy)

    def _call(self, name: str, *given: Any) -> None:
        for callback in self.callbacks:
            getattr(as_callback(callback), name)(self, *given)

    def _run(self, interrupt: Interrupt, shown: bool) -> None:
        steps, ended = self.steps, self.diverged_at is not None
        with Bar(steps, self.step, self._every, shown=shown) as bar:
            while self.step < steps and not ended:
                if self._evaluate_if_due(bar) and self._out_of_patience():
                    break
                losses = self.update()
                # On other devices, reading a loss would wait for the device.
                read = shown and self.accelerator.device.type == "cpu"
                bar.update({n: float(v) for n, v in losses.items()} if read else self._logged)
                ended = self._after_update(interrupt)
            if self.step == steps and self.diverged_at is None:
                self._evaluate_if_due(bar)
        if self._finished:
            self._take_best()
            self.hooks.settle(self.step)

    def save(self) -> Path:
        """Write a checkpoint of the current state, and return the folder of all checkpoints.

        Raises
        ------
        InputError
            Without an output folder, before :meth:`begin`, or while a method with averages or
            merges shows other weights than the trained ones.
        """
        self._check_begun("save")
        if self.output is None:
            remedy = "Make the trainer with output = a folder."
            raise InputError("there is no folder to save to", field="output", remedy=remedy)
        self.hooks.check_trained()
        self.meter.stop()
        tensors, settings = _state.optimizer(self.policy, self.optimizer.optimizer)
        files = {"policy": _state.weights(self.policy), "optimizer": tensors}
        files["reference"] = _reference_values.tables(self.references)
        if tables := self.hooks.tables():
            files["hooks"] = tables
        content = {
            "identity": self.identity,
            "step": self.step,
            "date": self.date,
            "reference": self.references.fingerprint if self.references else None,
            "optimizer": settings,
            "positions": self.feed.positions,
            "tally": self.tally.state(self.scorer),
            "known": self.known.state(),
            "joining": self.joining.state(),
            "meter": self.meter.state(),
        }
        if self.accelerator.is_main_process:
            sync = self.config.fsync
            log = self.journal.seal(sync=sync)
            checkpoints.write(
                *(self._folder, self.step, files, content),
                keep=self.config.keep,
                log=log,
                spare=self._spare(),
                sync=sync,
            )
        self.accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()
        self._call("saved", self._folder)
        return self._folder

    def _begin(self, resume: bool, progress: bool) -> None:
        if self.references is not None:
            if self.step and not resume:
                raise InputError(
                    f"this trainer has done {self.step} updates",
                    field="resume",
                    value=resume,
                    remedy="Make a new trainer, of a model that is not trained yet.",
                )
            return
        if self._sample != setup.sample(self.policy):
            raise InputError(
                "the weights have changed since this trainer was made, as by another trainer",
                field="model",
                remedy="Make a trainer just before it trains, and load the model anew for each.",
            )
        log = b""
        if resume and self.output and (found := checkpoints.checkpoints(self._folder)):
            log = self._restore(found[-1])
            self.accelerator.wait_for_everyone()  # all processes read before one removes
            if self.accelerator.is_main_process and self.step < self.steps:
                # A model from an earlier end is no longer the model of this run.
                records.discard(self.output / models.MODEL)
        elif self.output:
            if resume and self.journal.exists and (self.output / models.MODEL).exists():
                raise InputError(
                    "the folder has the model of an earlier run, and no checkpoint to resume from",
                    file=self.output,
                    remedy="Give another output folder, or --no-resume (resume=False), which "
                    "removes this model and begins anew.",
                )
            self.accelerator.wait_for_everyone()  # all processes look before one removes
            if self.accelerator.is_main_process:
                self._clear(self.output)
        self._store_surroundings()
        if self.output and self.accelerator.is_main_process:
            _about.write(
                *(self.output, self.schedule, self.config, self.data, self._bare.model),
                self.experiment,
            )
        self.journal.restart(log)
        if self.step and self.accelerator.is_main_process:
            checkpoints.remove_older(self._folder, self.config.keep, self._spare())
        if self.references is None:
            bar = partial(tqdm, desc="reference", disable=not progress, leave=False)
            self._prepare_reference(bar)

    def _measure_optima(self, progress: bool) -> None:
        """Find the optima from which gaps count by short runs."""
        bar = partial(tqdm, desc="optima", disable=not progress, leave=False)
        found = optima.measure(self, bar)
        self.known.set_optima(found)
        wanted = {OBJECTIVES[i]: float(found[i]) for i in optima.needed(self)}
        self.journal.write({"kind": "optima", "step": 0, **wanted})

    def _prepare_reference(self, progress: Any, step: int = 0) -> None:
        """Compute the missing values of the reference of a run that has done `step` updates.

        The policy has its weights from before training.
        """
        start = _reference.stage_start(self.plan) if self.config.reference == "stage" else 0
        wanted = self.needed.held_out_only() if start > 0 and step <= start else self.needed
        if self.references is None or not self.references.knows(wanted):
            self.references = _reference.prepare(
                *(self.scorer, self._bare, self.data, wanted),
                *(setup.load_reference(self._bare), progress, self.references),
            )

    def _store_surroundings(self) -> None:
        """Store once the files that checkpoints share, so that each holds trained weights only."""
        if self.output is None or (self.step and snapshots.is_written(self.output)):
            return
        self.accelerator.wait_for_everyone()  # all processes look before one writes
        weights = models.untied(self.model, _state.every_weight(self.policy))
        if self.accelerator.is_main_process:
            model, base = self._bare.model, None
            if hasattr(model, "active_peft_config"):
                base = models.stored_base(model, weights, self.output / models.MODEL)
            trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
            rest = {k: v for k, v in weights.items() if k not in trained}
            if base is not None:
                rest = {k: v for k, v in rest.items() if models.plain_name(model, k) is None}
            sync = self.config.fsync
            snapshots.write(self.output, model, self.tokenizer, base, rest, sync=sync)
        self.accelerator.wait_for_everyone()

    def _clear(self, output: Path) -> None:
        """Remove files of an earlier run, which could be taken for checkpoints of this run."""
        if self.journal.exists or checkpoints.checkpoints(self._folder):
            checkpoints.remove_all(self._folder)
            records.discard(output / models.MODEL)
            for name in ("summary.json", *_DRAWN):
                (output / name).unlink(missing_ok=True)

    def _restore(self, path: Path) -> bytes:
        """Restore the state of a checkpoint, and return the log up to it."""
        assert self.journal.path is not None
        tensors, found, log = checkpoints.read(path, self.journal.path)
        # Hooks may depend on the length of the run.
        steps = self.steps if self.hooks.chain else found["identity"].get("steps")
        before = {**self.identity, "steps": steps}
        checkpoints.check_same_run(path, found, before)
        _saved.check_positions(path, found, self.config)
        check_extends(
            *(self.schedule, self.config, before["steps"], found["step"], path, self._make_rates)
        )
        if tables := tensors.get("reference"):
            self.references = _reference_values.from_tables(tables, found["reference"])
        # The reference is the policy before training, so it is made or completed first.
        self._prepare_reference(iter, found["step"])
        assert self.references is not None
        _reference.check_same(self.references, found["reference"], self.config, path)
        _state.set_weights(self.policy, tensors["policy"], path)
        _state.set_optimizer(
            self.policy, self.optimizer.optimizer, tensors["optimizer"], found["optimizer"]
        )
        self.step, self.feed.positions = found["step"], found["positions"]
        self.tally.set_state(found["tally"], main=self.accelerator.is_main_process)
        self.known.set_state(found["known"])
        self.joining.set_state(found.get("joining", {}), path)
        self.hooks.set_tables(tensors.get("hooks", {}), path)
        self.meter.set_state(found["meter"])
        return log

    @property
    def _folder(self) -> Path:
        assert self.output is not None
        return self.output / "checkpoints"

    @cached_property
    def _bare(self) -> Policy:
        return self.accelerator.unwrap_model(self.policy)

    @cached_property
    def _layers(self) -> list[torch.nn.Module]:
        return list(self.policy.modules())

    @cached_property
    def _parameters(self) -> list[torch.nn.Parameter]:
        return list(self.policy.parameters())

    @cached_property
    def _dropout(self) -> _dropout.Dropout:
        return _dropout.Dropout(self.model)

    # ------------------------------------------------------------------ one update

    def _update(self) -> dict[str, Tensor]:
        step, world = self.step, self.accelerator
        self.meter.start()
        if self.plan.clock[step] == 1 and step:
            self.optimizer.optimizer.state.clear()
        self._begin_stage_reference()
        self.known.refresh(step, self._mean_training_loss)
        if self.known.used and world.num_processes > 1:
            # Sums may differ between processes in their last bits, but the choice must not.
            numbers = torch.from_numpy(self.known.numbers()).to(world.device)
            self.known.set_numbers(broadcast(numbers).cpu().numpy())
        self.hooks.begin(step, self._gradients_of_rows)
        passes, losses = self._accumulate(step, self._follow, joins=self.joining.wanted(step))
        self.hooks.direct(step)
        self._descend(passes, step)
        self.hooks.finish(step)
        self._count_work()
        for objective in sorted({part.objective for part in passes}):
            self.tally.updates[objective] += 1
            if self.known.used:
                self.known.observe(objective, float(self.scorer.add_up(losses[objective])))
        self.step += 1
        return {OBJECTIVES[i]: losses[i] for i in sorted({part.objective for part in passes})}

    def _begin_stage_reference(self) -> None:
        """At the start of the preference stage, make its reference, if the settings ask for one."""
        start = _reference.stage_start(self.plan)
        if self.config.reference == "stage" and self.step == start > 0 and not self._staged:
            self.references = _reference.cached(
                self.scorer, self._bare, self.data, self.needed, iter
            )
            self._staged = True

    def _accumulate(
        self, step: int, follow: Callable[[int], Float[np.ndarray, " 2"]], *, joins: bool
    ) -> tuple[list[Pass], list[Tensor]]:
        """Put the gradient of an update into the policy; return its passes and their losses."""
        setup.seed_dropout(self.config.seed, step, self.accelerator.process_index)
        if not all(layer.training for layer in self._layers):
            self.policy.train()
        passes = self.feed.passes(step, self.plan.rule, follow, joins=joins)
        return passes, self._backward(passes, joins=joins)

    def _follow(self, draw: int) -> Float[np.ndarray, " 2"]:
        """Gradient weights of an update or pass, by the draw of this number."""
        key = draws.keys(0, self.config.seed, draws.OBJECTIVE)
        step = min(draw, self.step)
        known = self.known
        return self.plan.follow(step, draws.uniform(key, draw), known.gaps(), known.base_gap())

    def _descend(self, passes: Sequence[Pass], step: int) -> None:
        """Step the optimiser along the gradient, and clear it."""
        self.tally.norm(self._clip())
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(passes, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.output is not None and step == 0:
            _state.check_optimizer(self.optimizer.optimizer)

    def _rate(self, passes: Sequence[Pass], step: int) -> float:
        """Learning rate of an update, by the objectives that its passes follow."""
        rate, own = float(self.rates[step]), self.config.preference_learning_rate
        if own is None or any(part.objective == SFT for part in passes):
            return rate
        return rate * own / self.config.learning_rate

    def _backward(self, passes: Sequence[Pass], *, joins: bool = False) -> list[Tensor]:
        """Compute the gradients of all passes; return this process's part of the mean losses."""
        observed = [torch.zeros((), device=self.accelerator.device) for _ in OBJECTIVES]
        backward = self.config.defects.backward(self.accelerator.backward)
        following = [part.objective for part in passes]
        for i, part in enumerate(passes):
            last = i == len(passes) - 1
            ends = last or (joins and following[i + 1] != part.objective)
            # Gradients are exchanged once per update, or once per objective if a rule joins them.
            exchange = nullcontext() if ends else self.accelerator.no_sync(self.policy)
            # With gradient checkpointing, blocks run again in the backward pass.
            with exchange, self._dropout.during(part.objective, self.config.dropout):
                loss, count = self._loss(part)
                observed[part.objective] += loss.detach() * part.share
                loss = (loss + self._routed(count)) * part.share
                # Gradients are averaged over processes, but their losses are parts of one sum.
                weight = 1.0 if joins else part.weight
                loss = loss * (weight * self.accelerator.num_processes)
                backward(loss, last)
            if joins and ends and not last:
                self.joining.keep()
        if joins:
            means = torch.stack([self.scorer.add_up(loss) for loss in observed])
            values = means.double().cpu().numpy()
            if self.joining.above_optima:
                values = self.known.above_optima(values)
            weights = [next(p.weight for p in passes if p.objective == i) for i in (0, 1)]
            self.joining.join(np.array(weights), values, self.step)
        return observed

    def _routed(self, count: int) -> Tensor | float:
        """Router loss of the latest pass, scaled by its `count` of tokens or pairs.

        So a pass counts in proportion to its tokens or pairs in the mean over the update.
        """
        bare = self._bare
        balance, bare.balance = bare.balance, None
        if not self.config.router_loss or balance is None:
            return 0.0
        return self.config.router_loss * balance * count

    def _gradients_of_rows(self, objective: int, count: int) -> Iterator[None]:
        """Put gradients of the losses of single rows into the policy, one after the other.

        The losses are those of the settings, without dropout, on the rows that are read first.
        """
        self.policy.eval()
        for row in self.feed.first_rows(objective, count, self.needed):
            place = np.array([row])
            items = [self.data.training(objective)[row]]
            with self.accelerator.no_sync(self.policy):
                if objective == SFT:
                    loss = self.scorer.sft(items) / items[0].scored
                else:
                    assert self.references is not None
                    loss = self.scorer.pairs(items, place, self.references.train).loss.sum()
                self.accelerator.backward(loss)
            yield
            self.optimizer.zero_grad()
            lengths, scored = self.data.extent(objective, place)
            self.meter.add(sum(lengths), self.costs.update(lengths, scored))

    def _loss(self, part: Pass) -> tuple[Tensor, int]:
        """Summed loss of a pass, and its number of tokens or pairs."""
        items = [self.data.training(part.objective)[i] for i in part.rows]
        counted, scored = float(part.share > 0), sum(item.scored for item in items)
        trained: dict[str, Any] = self.method.changed()
        if part.objective == SFT:
            readings = self.readings
            read = None if readings is None else partial(readings.at, self.step, part.rows)
            loss = self.scorer.sft(items, trained.get("sft"), read)
            self.tally.add(SFT, {"loss": loss.detach()}, scored, counted)
            return loss, scored
        assert self.references is not None
        own = trained.get("preference")
        weighed = self.references.weighed if self.scorer.weighs else None
        known = weighed or self.references.train
        found = self.scorer.pairs(items, part.rows, known, own)
        self.tally.add(part.objective, found.sums(), len(items), counted)
        return found.loss.sum(), len(items)

    def _count_work(self) -> None:
        for objective, rows in self.feed.followed:
            lengths, scored = self.data.extent(objective, rows)
            work = self.costs.update(lengths, scored)
            if objective == SFT:
                work += self.method.sft.forwards * self.costs.forward(lengths, scored)
            self.meter.add(sum(lengths), work)

    def _clip(self) -> Tensor:
        limit = float("inf") if self.config.clip is None else self.config.clip
        norm = self.accelerator.clip_grad_norm_(self._parameters, limit)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _mean_training_loss(self, objective: int, rows: np.ndarray) -> float:
        assert self.references is not None
        self.meter.add(0, self.costs.forward(*self.data.extent(objective, rows)))
        if objective == SFT:
            return self.scorer.mean_sft(self.data.sft, rows)["sft_loss"]
        known = self.references.probes or self.references.train
        found = self.scorer.mean_pairs(self.data.preference, known, rows)
        return found["preference_loss"]

    # ------------------------------------------------------------------ early stopping

    def _best(self) -> _stopping.Best | None:
        """The evaluation whose policy is saved; None without `patience`."""
        if self.config.patience is None:
            return None
        return _stopping.best(self.journal.lines, _stopping.last_stage(self.plan))

    def _spare(self) -> tuple[int, ...]:
        """Steps whose checkpoint is not removed: that of the best policy."""
        best = self._best()
        return () if best is None else (best.step,)

    def _out_of_patience(self) -> bool:
        best = self._best()
        return best is not None and best.since >= (self.config.patience or 0)

    def _keep_if_best(self) -> None:
        """Keep the weights of the least weighted loss so far; save if the run ends early."""
        best = self._best()
        if best is None or not (best.since == 0 or self._out_of_patience()):
            return
        if self.output is None:
            if best.since == 0:
                self._best_weights = _state.copies(self.policy)
        elif not checkpoints.named(self._folder, self.step).is_dir() and self._finite():
            self.accelerator.wait_for_everyone()  # all processes look before one writes
            self.save()

    def _take_best(self) -> None:
        """Restore the weights with the least weighted loss, and log this."""
        best = self._best()
        if best is None:
            return
        if self.output is not None:
            assert self.journal.path is not None
            path = checkpoints.named(self._folder, best.step)
            _stopping.check_kept(path)
            _state.set_weights(
                self.policy, checkpoints.read(path, self.journal.path)[0]["policy"], path
            )
        else:
            _state.put_back(self.policy, self._best_weights)
        if not self.journal.has("best", self.step):
            line = {"kind": "best", "step": self.step, "best_step": best.step}
            self.journal.write({**line, _stopping.WEIGHTED: best.loss})

    @property
    def _finished(self) -> bool:
        """Whether the run has ended, so that the policy is the one to save."""
        return self.diverged_at is None and (self.step == self.steps or self._out_of_patience())

    # ------------------------------------------------------------------ evaluation and logging

    def evaluate(self) -> dict[str, Any]:
        """Held-out losses of the current policy, with counts and costs so far.

        For a method with averages or merges, these are applied first.

        Raises
        ------
        InputError
            Before :meth:`begin`.
        """
        self._check_begun("evaluate")
        self.meter.stop()
        self._begin_stage_reference()
        with self.hooks.shown(self.step):
            return self._evaluated({"kind": "evaluation", "step": self.step})

    def _evaluated(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record of an evaluation of the policy's current weights."""
        assert self.references is not None
        if len(self.data.sft_test):
            record |= self.scorer.mean_sft(self.data.sft_test)
        if len(self.data.preference_test):
            record |= self.scorer.mean_pairs(self.data.preference_test, self.references.test)
        followed = zip(OBJECTIVES, self.tally.updates, strict=True)
        record |= {f"{name}_updates": count for name, count in followed}
        if self.config.patience is not None:
            record[_stopping.WEIGHTED] = _stopping.weighted_loss(record, self.schedule.lam)
        record |= {"probe_rows": self.known.probed, "seconds": self.meter.seconds}
        record |= {"tokens": self.meter.tokens}
        self._call("evaluated", record)
        return record

    @property
    def _every(self) -> int:
        """Updates between two evaluations."""
        return self.config.evaluate_every or max(1, self.steps // 10)

    def _evaluate_if_due(self, bar: Any) -> bool:
        """Evaluate if it is due, and return whether it was."""
        if self.step % self._every and self.step != self.steps:
            return False
        # A finished run that is resumed has nothing to add.
        if self.journal.has("evaluation", self.step):
            return True
        record = self.evaluate()
        self.journal.write(record)
        losses = {k: record[k] for k in ("sft_loss", "preference_loss") if k in record}
        bar.set_postfix(losses)
        self._keep_if_best()
        return True

    def _after_update(self, interrupt: Interrupt) -> bool:
        """Log and save if due, and return whether the run ends here, equally on all processes."""
        done, config = self.step, self.config
        last = done == self.steps
        if done % config.log_every == 0 or last:
            self._log()
        # Asked only once: a signal between two calls would end the run unsaved.
        at_optimum = config.defects.ends(self.known.values, self.known.optima)
        ended = interrupt.asked(done) or at_optimum or self._stopping
        self._stopping = False
        due = self._overdue() if config.save_every is None else done % config.save_every == 0
        if self.output is not None and (due or last or ended) and self._finite():
            self.save()
        return ended or self.diverged_at is not None

    def _log(self) -> None:
        """Log the training losses since the last line, and check that they are finite."""
        self.meter.stop()
        means = self.tally.means(self.scorer)
        self.tally.clear()
        if not np.isfinite(list(means.values())).all():
            self.diverged_at = self.step
        rate = self.optimizer.param_groups[0]["lr"]
        line = {"kind": "train", "step": self.step, **means, "learning_rate": rate}
        self.journal.write(line | self.meter.speed())
        self._logged = {n: means[f"{n}/loss"] for n in OBJECTIVES if f"{n}/loss" in means}
        self._call("logged", line)

    def _overdue(self) -> bool:
        """Whether the last save was long ago; equal on all processes, called at log lines."""
        if self.output is None or self.step % self.config.log_every:
            return False
        late = float(time.monotonic() - self._saved_at > SAVE_SECONDS)
        return bool(self.scorer.add_up(torch.tensor(late, device=self.accelerator.device)))

    def _finite(self) -> bool:
        """Whether losses and weights are finite after this update, so that the run can be saved."""
        if self.diverged_at is None:
            bad = [(~part.isfinite()).any() for part in _state.local_weights(self.policy)]
            means = self.tally.means(self.scorer)
            broken = bool(self.scorer.add_up(torch.stack(bad).sum()))
            # Finite weights may be so large that the next losses are not finite.
            means |= self.scorer.mean_sft(self.data.sft, np.zeros(1, dtype=np.int64))
            broken = broken or not np.isfinite(list(means.values())).all()
            self.diverged_at = self.step if broken else None
        return self.diverged_at is None

    def _result(self, signal: int) -> TrainResult:
        setup.warn_of_neglect(self.plan, self.tally.updates, self.schedule.lam)
        table = self.journal.table("evaluation")
        summary = {
            "schedule": self.schedule.to_dict(),
            "method": {slot: part.to_dict() for slot, part in self.method.changed().items()},
            "steps": self.step,
            "max_length": self.config.max_length,
            "save_precision": self.config.save_precision,
            "updates": dict(zip(OBJECTIVES, self.tally.updates, strict=True)),
            "diverged_at": self.diverged_at,
            "adapters": self._adapters,
            "data": self.data.summary(),
            "identity": self.identity,
            **self.meter.summary(),
        }
        if self.config.optima == optima.AUTO:
            summary["optima"] = {OBJECTIVES[i]: self.known.optima[i] for i in optima.needed(self)}
        if limit := self.known.limit():
            summary["limit"] = limit
        if (best := self._best()) is not None and self._finished:
            summary["best"] = {"step": best.step, _stopping.WEIGHTED: best.loss}
            summary["stopped_early"] = self.step < self.steps
        if self.output is not None and self.accelerator.is_main_process:
            records.write_json(self.output / "summary.json", summary)
        if self.output is not None and self._finished:
            models.save(
                *(self.accelerator, self._bare.model, self.tokenizer),
                *(self.output / models.MODEL, card.texts(self.output)),
                sync=self.config.fsync,
                precision=self.config.save_precision,
            )
        return TrainResult(table, self.journal.table("train"), summary, self.diverged_at, signal)
