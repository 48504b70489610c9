"""Settings of a training run: their meaning, their allowed values, and their form in a file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from os import PathLike
from typing import Annotated, Any, Literal

from tradeoff import schedules
from tradeoff.errors import InputError
from tradeoff.llm.defects import Defects
from tradeoff.methods import PREFERENCE_LOSSES, Method, PreferenceLoss
from tradeoff.records import load_toml
from tradeoff.schedules import PREFERENCE, Schedule
from tradeoff.settings import BelowOne, Count, Seed, Updates, Within, build, check, fit

_ADAPTIVE = {"refresh": 10, "samples": 64}
Rows = Annotated[int, Within(1, 10**6)]
Rank = Annotated[int, Within(1, 10**5)]
Rate = Annotated[float, Within(0, 1e38, "(]")]
UpToOne = Annotated[float, Within(0, 1, "(]")]
Loss = Annotated[float, Within(-1e6, 1e6)]
Size = Annotated[float, Within(0, 1e6, "(]")]


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685), made by peft.

    Attributes
    ----------
    rank, alpha, dropout
        Rank, scale and dropout of the adapters; ``alpha = None`` is twice the rank.
    targets
        Names of the linear layers that get adapters, or "all-linear".
    dora
        Decompose weights into magnitude and direction (arXiv 2402.09353).
    """

    rank: Rank = 16
    alpha: Annotated[int, Within(1, 10**6)] | None = None
    dropout: BelowOne = 0.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    dora: bool = False

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the training of a policy.

    Attributes
    ----------
    steps, epochs
        Updates of the optimiser; 1000 if neither is given. An epoch has as many updates as would
        read the larger set once if all updates followed its objective. An update that follows one
        objective does not read the other set.
    batch_size, preference_batch_size
        Rows of each objective that an update follows, over all processes and forward passes. The
        second, if given, is the number of pairs.
    rows_per_forward
        Rows of one forward pass of one process; fewer need less memory.
    tokens_per_pass
        Largest number of tokens of a forward pass, with padding, in place of a number of rows. A
        longer row has a pass of its own. Passes then have similar sizes for all lengths, which
        keeps a device busy.
    learning_rate, decay, warmup
        Largest rate; its decay over a stage ("constant", "cosine" or "linear" to zero); number of
        updates of linear warm-up. Each stage of a sequential schedule begins anew.
    preference_learning_rate
        Largest rate of updates that follow only the preference objective, such as those of a
        preference stage; ``None`` is ``learning_rate``.
    betas, epsilon, weight_decay, clip
        Moments and epsilon of AdamW; weight decay, of matrices only; largest norm of the gradient,
        ``None`` for no limit.
    loss, beta, label_smoothing
        A name of ``tradeoff.methods.PREFERENCE_LOSSES``; its inverse temperature; the
        probability that a label is flipped, for losses that have it (0: their default).
    chosen_nll
        Weight of the chosen response's negative log-likelihood per token, which is added to the
        preference loss of each pair. With "sigmoid" this is RPO (arXiv 2404.19733, equation 1), and
        ``pref_ftx`` of LLaMA-Factory. Held-out preference losses include it, too.
    router_loss
        Weight of the load-balancing loss of a mixture of experts, see :mod:`tradeoff.llm.routers`.
        It is added to the mean loss of each objective followed; None: it is not added. Held-out
        losses never include it.
    reference
        "initial": the policy before training. "stage": the policy at the start of its preference
        stage; evaluations before that stage compare with the policy before training. Otherwise a
        folder or hub name, such as that of an SFT optimum.
    reference_mode
        "cached": its log-probabilities are computed once, before training. "adapter_off": the
        policy with its adapters switched off, at every update. "second_model": a second model in
        memory.
    reference_rows
        Training pairs whose log-probabilities are cached. "read": those that the run will read, or
        may read if losses decide what an update follows. "all": every pair, for callbacks that use
        other pairs. The values of a pair are the same in both cases.
    reference_cache
        Folder where cached log-probabilities are kept for later runs, which add the pairs that they
        need. Training pairs are scored in the passes of their updates, so there is a cache for each
        seed and batch.
    row_cache
        Folder where rows and their token ids are kept on disk, for sets larger than memory. Token
        ids stay there for later runs with the same rows, tokenizer and settings. ``None``: in
        memory.
    dropout
        Which updates use the dropout of the model or its adapters: "sft", "always" or "never".
        References and evaluations never use it.
    optima
        Least training losses of (SFT, preference), from which MAXRIGHT measures gaps and
        Constrained its limit. "auto": short runs on each objective alone measure them before
        training, at a tenth of the run's updates each, see :mod:`tradeoff.llm.optima`. ``None``:
        MAXRIGHT uses zeros, which are lower bounds; Constrained uses the least SFT loss seen so
        far, with a warning.
    recent
        Weight of the newest loss in the running averages that MAXRIGHT and Constrained use.
    chat
        Render rows of plain text through the chat template, as a turn of the user and one of the
        assistant. False: train on plain text. None: train on plain text, with a warning if the
        tokenizer has a chat template.
    turns
        Turns of the assistant in a demonstration that carry loss: the "last", or "all". With "all",
        a conversation makes one row for each of these turns, with the turns before it as the
        prompt.
    max_length, preference_max_length
        Longest sequence, in tokens; the model's context if that is shorter. The second, if given,
        is that of pairs.
    layout
        "padded", "packed" or "shared", see :mod:`tradeoff.llm.batches`, or "auto". Packed rows need
        a mask, or on a GPU varlen, FlashAttention or flex attention. With plain SDPA on a
        GPU "padded" is faster, as rows of similar length share a pass. "auto" is the layout with
        the least computation in the first updates of a training, see :mod:`tradeoff.llm.waste`, if
        the model separates packed rows. Otherwise, and in evaluations, "auto" is "padded".
    precision
        "fp32", or "bf16": autocast over float32 weights; weights below adapters are in bf16. A
        model with weights of 16 bits is cast as this needs, with a warning. A reference is loaded
        with the same precision as the policy.
    save_precision
        Precision of the saved model: "fp32", in which weights are trained, or "bf16", which is half
        the size and rounds them. Checkpoints are always in float32.
    gradient_checkpointing, compile
        Compute activations again to save memory; compile each block.
    lora
        Adapters; ``None`` trains all weights.
    holdout
        Share of rows that is held out, by prompt, if no held-out rows are given.
    evaluate_every, evaluate_rows
        Updates between evaluations (``None``: ten over the run); largest number of held-out rows of
        each set.
    patience
        Stop early after this many evaluations in a row without a lower weighted held-out loss, ``(1
        - lam) * sft_loss + lam * preference_loss`` with the weight of the schedule. The policy with
        the lowest loss is then saved, also if the run reaches its end. In a schedule of stages,
        evaluations count from the start of the last stage. None: never stop early.
    log_every, save_every, keep
        Updates between log lines and between checkpoints (``None``: only at the end); number of
        checkpoints to keep.
    fsync
        Wait until every checkpoint, model and cache is on the disk, so that a power failure loses
        none. A slow disk makes saving slow.
    trackers
        Trackers that accelerate has, such as "tensorboard" or "wandb".
    seed
        Seed of the order of rows, the draws of the schedule, adapters and dropout.
    defects
        Faults of the official code to imitate.
    """

    steps: Updates | None = None
    epochs: Size | None = None
    batch_size: Rows = 32
    preference_batch_size: Rows | None = None
    rows_per_forward: Rows = 8
    tokens_per_pass: Annotated[int, Within(1, 2**31)] | None = None
    learning_rate: Rate = 5e-5
    preference_learning_rate: Rate | None = None
    decay: Literal["constant", "cosine", "linear"] = "constant"
    warmup: Annotated[int, Within(0, 10**8)] = 0
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.95)
    epsilon: UpToOne = 1e-8
    weight_decay: Annotated[float, Within(0, 1e3)] = 0.0
    clip: Size | None = 1.0
    loss: str = "sigmoid"
    beta: Size = 0.1
    label_smoothing: Annotated[float, Within(0, 0.5, "[)")] = 0.0
    chosen_nll: Annotated[float, Within(0, 1e3)] | None = None
    router_loss: Annotated[float, Within(0, 1e3)] | None = None
    reference: str = "initial"
    reference_mode: Literal["cached", "adapter_off", "second_model"] = "cached"
    reference_rows: Literal["read", "all"] = "read"
    reference_cache: str | None = None
    row_cache: str | None = None
    dropout: Literal["sft", "always", "never"] = "sft"
    optima: tuple[Loss, Loss] | Literal["auto"] | None = None
    recent: UpToOne = 0.1
    chat: bool | None = None
    turns: Literal["last", "all"] = "last"
    max_length: Annotated[int, Within(1, 2**24)] = 2048
    preference_max_length: Annotated[int, Within(1, 2**24)] | None = None
    layout: Literal["auto", "padded", "packed", "shared"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    save_precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    lora: Lora | None = None
    holdout: BelowOne = 0.05
    evaluate_every: Updates | None = None
    evaluate_rows: Count | None = None
    patience: Updates | None = None
    log_every: Updates = 10
    save_every: Updates | None = None
    keep: Rows = 2
    fsync: bool = True
    trackers: tuple[str, ...] = ()
    seed: Seed = 0
    defects: Defects = field(default_factory=Defects)

    def __post_init__(self) -> None:
        check(self)
        self._check_length()
        self._check_loss()
        self._check_reference()

    def batch(self, objective: int) -> int:
        """Number of rows of an update that follows this objective."""
        pairs = self.preference_batch_size if objective == PREFERENCE else None
        return pairs or self.batch_size

    def longest(self, objective: int) -> int:
        """Longest sequence of the rows of this objective, in tokens."""
        pairs = self.preference_max_length if objective == PREFERENCE else None
        return pairs or self.max_length

    def updates(self, sft: int, preference: int) -> int:
        """Number of updates of a run on this many training rows of each set."""
        if self.epochs is None:
            assert self.steps is not None
            return self.steps
        rows = (sft, preference)
        longest = max(math.ceil(count / self.batch(i)) for i, count in enumerate(rows))
        return int(fit(Updates, max(1, math.ceil(self.epochs * longest)), "epochs"))

    def _check_length(self) -> None:
        if self.epochs is None:
            object.__setattr__(self, "steps", 1000 if self.steps is None else self.steps)
            return
        if self.steps is not None:
            raise InputError(
                f"steps = {self.steps} is given, too",
                field="epochs",
                value=self.epochs,
                remedy="Give either steps or epochs.",
            )

    def _check_loss(self) -> None:
        known = sorted(
            name
            for name, kind in PREFERENCE_LOSSES.items()
            if name != "nominal" and kind.compares is None and not kind.grouped
        )
        _require("loss", self.loss, self.loss in known, f"Use one of {known}.")
        kinds = {name: PREFERENCE_LOSSES[name].__dataclass_fields__ for name in known}
        smoothed = [name for name, own in kinds.items() if "label_smoothing" in own]
        fits = not self.label_smoothing or self.loss in smoothed
        remedy = f"With a loss other than {', '.join(smoothed)} give 0."
        _require("label_smoothing", self.label_smoothing, fits, remedy)

    def preference_loss(self) -> PreferenceLoss:
        """The loss that these settings name, with defaults for what they do not set."""
        kind, given = PREFERENCE_LOSSES[self.loss], {"beta": self.beta}
        if self.label_smoothing:
            given["label_smoothing"] = self.label_smoothing
        known = {name: value for name, value in given.items() if name in kind.__dataclass_fields__}
        return kind(**known)

    def _check_reference(self) -> None:
        if self.reference_mode == "adapter_off":
            fits = self.lora is not None and self.reference == "initial"
            remedy = "Give lora and reference = 'initial', or use reference_mode = 'cached'."
            _require("reference_mode", self.reference_mode, fits, remedy)
        if self.reference == "stage":
            remedy = "Use 'cached': the stage's policy does not stay in memory."
            _require("reference_mode", self.reference_mode, self.reference_mode == "cached", remedy)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings of the model that is trained.

    Attributes
    ----------
    path
        Folder of a model or of a run, or hub name. "tiny" is the small model of the package, which
        needs no network.
    config_only
        Read only the configuration; weights are random.
    attention
        Implementation of attention in transformers; None: "sdpa" if the model has it, otherwise
        "eager". "varlen" separates packed rows by their bounds, without another package, see
        :mod:`tradeoff.llm.varlen`.
    quantise
        Hold the weights below adapters in 4 bits ("nf4", arXiv 2305.14314), by the package
        bitsandbytes, while adapters are trained. The saved adapters name the model before rounding.
        Without this setting, they are loaded on its unrounded weights.
    chat_template
        File with the chat template to use in place of the tokenizer's.
    eos_token
        Token to end responses in place of the tokenizer's.
    """

    path: str = "tiny"
    config_only: bool = False
    attention: Literal["sdpa", "eager", "varlen", "flash_attention_2", "flex_attention"] | None = (
        None
    )
    quantise: Literal["nf4"] | None = None
    chat_template: str | None = None
    eos_token: str | None = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Settings of the rows that are read.

    Attributes
    ----------
    sft, preference, sft_test, preference_test
        Sources for `tradeoff.read_sft` and `tradeoff.read_preferences`: a name, several names with
        commas, or a list of names. "synthetic" generates rows of the small language. Held-out rows
        of the hub need the name of their split: ``"owner/name@test"``. ``sft = "chosen"`` takes the
        prompts and chosen responses of the pairs; without `sft_test`, held-out demonstrations are
        those of the held-out pairs.
    skip_bad
        Leave out rows that cannot be read, or that the template or tokenizer rejects.
    columns
        Names of columns in the sources, by the names of a layout: ``{"completion": "answer"}``;
        ``"sft.prompt"`` or ``"preference.prompt"`` is for one set.
    use_labels
        Use unpaired rows with a label: the desired ones as demonstrations, and all of them, paired
        by prompt, as preferences. Otherwise such rows are errors.
    min_margin
        Least difference of the scores of a pair; pairs with a smaller one are left out.
    limit, preference_limit
        Largest number of rows of each training set, from its beginning; the second, if given, is
        for the pairs. Held-out sets are read whole; ``train.evaluate_rows`` limits them.
    """

    sft: str | tuple[str, ...] = "synthetic"
    preference: str | tuple[str, ...] = "synthetic"
    sft_test: str | tuple[str, ...] | None = None
    preference_test: str | tuple[str, ...] | None = None
    skip_bad: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    use_labels: bool = False
    min_margin: float | None = None
    limit: Count | None = None
    preference_limit: Count | None = None

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All settings of one run, as in a TOML file with tables of these names.

    Exact values of both losses at every update cost too much for language models. So if a table of
    MAXRIGHT or Constrained has no ``refresh`` or ``samples``, these are 10 and 64.

    The table ``[method]`` holds the other parts of a method, such as ``gradient = {name =
    "pcgrad"}``. Without it, both losses are those of ``[train]``.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: dict[str, Any] = field(default_factory=lambda: {"name": "alright", "lam": 0.5})
    method: dict[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check(self)

    def make_schedule(self) -> Schedule:
        """The schedule that the table describes.

        Raises
        ------
        InputError
            If its name or a setting is unknown or cannot be used.
        """
        table = dict(self.schedule)
        looking = schedules.Maxright, schedules.SmoothMaxright, schedules.Constrained
        if table.get("name") in [kind.name for kind in looking]:
            table = {**_ADAPTIVE, **table}
        try:
            return schedules.from_dict(table)
        except InputError as error:
            raise error.at(field=".".join(filter(None, ("schedule", error.field)))) from error

    def make_method(self) -> Method:
        """The method that the tables describe.

        Raises
        ------
        InputError
            As :meth:`make_schedule`, or if another part is unknown or cannot be used.
        """
        schedule = self.make_schedule()
        if not self.method:
            return Method(schedule)
        try:
            return Method.from_dict({**self.method, "schedule": schedule.to_dict()})
        except InputError as error:
            raise error.at(field=".".join(filter(None, ("method", error.field)))) from error


def read_experiment(path: str | PathLike[str]) -> Experiment:
    """Read a TOML file with tables ``[model]``, ``[data]``, ``[schedule]`` and ``[train]``."""
    return build(Experiment, read_settings(path), file=str(path))


def read_settings(path: str | PathLike[str]) -> dict[str, Any]:
    """The tables of a TOML file, unchecked."""
    return load_toml(path, remedy="Give a TOML file; `tradeoff train --help` shows one.")


def _require(name: str, value: Any, holds: bool, remedy: str) -> None:
    if not holds:
        raise InputError("out of range", field=name, value=value, remedy=remedy)
