"""Preparation of a run: devices, trainable weights, optimiser, and checks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import parse_flag_from_env
from torch import nn

from tradeoff import draws
from tradeoff.errors import InputError
from tradeoff.files import check_writable, size_of, writing
from tradeoff.llm import _sight, batches, models, snapshots, waste
from tradeoff.llm._corpora import Corpora
from tradeoff.llm._data import Pair, Tokenised, sizes
from tradeoff.llm._reference_values import evaluating
from tradeoff.llm.config import ModelConfig, TrainConfig
from tradeoff.llm.logprobs import Policy
from tradeoff.llm.meter import Costs
from tradeoff.methods import Method
from tradeoff.schedules import OBJECTIVES, PREFERENCE, Plan, Rule, Schedule, stage_lengths

DEAR = 10.0
"""Ratio of the work of probes to that of updates from which a warning is given."""


def accelerator(config: TrainConfig, output: Path | None) -> Any:
    """The processes and devices that accelerate or torchrun has laid out.

    Raises
    ------
    InputError
        If a tracker is missing, or processes or devices do not support the settings.
    """
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

    _check_trackers(config, output)
    world = launched()
    _forget_precision()
    with _joined(world):
        found = Accelerator(
            # On its own accelerate joins processes only on devices.
            cpu=world > 1 and not _device_joins(),
            log_with=list(config.trackers) or None,
            project_dir=None if output is None else str(output),
            # Autocast and gradient accumulation are done here, so a launcher's settings are
            # overridden.
            mixed_precision="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
    _check_processes(found, world)
    bare = found.device.type == "cuda" and not torch.cuda.is_bf16_supported(
        including_emulation=False
    )
    if config.precision == "bf16" and bare:
        remedy = "Use precision = 'fp32'."
        raise InputError(
            "this device has no bf16", field="precision", value=config.precision, remedy=remedy
        )
    return found


def _forget_precision() -> None:
    """Reset the precision that an earlier trainer in this process has set.

    accelerate keeps the precision of the first trainer, and rejects any other.
    """
    from accelerate.state import AcceleratorState

    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != "no":
        AcceleratorState._reset_state()


def _check_trackers(config: TrainConfig, output: Path | None) -> None:
    from accelerate.tracking import get_available_trackers

    known = sorted(str(tracker) for tracker in get_available_trackers())
    for name in config.trackers:
        if name not in known:
            remedy = f"Install its package, or use one of {known}."
            raise InputError("no such tracker", field="trackers", value=name, remedy=remedy)
    if config.trackers and output is None:
        remedy = "Give an output folder."
        raise InputError(
            "trackers write to a folder", field="trackers", value=config.trackers, remedy=remedy
        )


def launched() -> int:
    """Number of processes, according to the launcher; 1 without one."""
    found = [(name, os.environ[name]) for name in _WORLDS if os.environ.get(name)]
    for name, value in found:
        if not value.isdecimal():
            remedy = "Start the processes with torchrun or accelerate launch."
            raise InputError("no number of processes", field=name, value=value, remedy=remedy)
    return max((int(value) for _, value in found), default=1)


_WORLDS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Environment variables of torchrun, accelerate and kinds of MPI with the number of processes."""


def _device_joins() -> bool:
    """Whether there is a device over which processes can communicate."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return device is not None and device.type != "mps"


@contextmanager
def _joined(world: int) -> Iterator[None]:
    """Context manager: if several processes cannot form a group, give an `InputError`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if world == 1:
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise _apart(f"the {world} processes cannot be joined: {reason}", world) from error


def _apart(problem: str, world: int) -> InputError:
    remedy = "Start the processes with torchrun or accelerate launch, or a single one without."
    return InputError(problem, field="WORLD_SIZE", value=world, remedy=remedy)


def _check_processes(found: Any, world: int) -> None:
    from accelerate import DistributedType

    if found.num_processes != world:
        raise _apart(
            f"a launcher started {world} processes, but accelerate sees {found.num_processes}: "
            "each would train by itself and write to the same folder",
            world,
        )
    way, sharded = found.distributed_type, parse_flag_from_env("ACCELERATE_USE_FSDP")
    problem = None
    if way in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        problem = f"{way.value} is not supported"
    elif way is DistributedType.FSDP and not found.is_fsdp2:
        problem = "FSDP 1 is not supported"
    elif way is DistributedType.MULTI_CPU and sharded:
        problem = "accelerate does not shard on the CPU"
    if problem is not None:
        remedy = "Launch with DDP, or on GPUs with FSDP and fsdp_version 2."
        raise InputError(problem, field="distributed_type", value=str(way.value), remedy=remedy)


def check_kinds(model: Any, tokenizer: Any, schedule: Any, config: Any) -> None:
    """Raise an `InputError` for an object of another kind than a trainer needs."""
    load = "tradeoff.llm.models.load loads both."
    chosen = isinstance(schedule, Schedule | Method)
    needed = (
        ("model", model, isinstance(model, nn.Module), "a model of transformers", load),
        ("tokenizer", tokenizer, hasattr(tokenizer, "chat_template"),
         "a tokenizer of transformers", load),
        ("schedule", schedule, chosen, "a schedule or method",
         "tradeoff.methods.find makes one of its name."),
        ("config", config, isinstance(config, TrainConfig), "a TrainConfig",
         "TrainConfig(steps=100, ...) makes one."),
    )  # fmt: skip
    for name, value, fits, wanted, remedy in needed:
        if not fits:
            found = f"{wanted} is needed, and this is of type {type(value).__name__}"
            raise InputError(found, field=name, value=value, remedy=remedy)
    problem = None
    if hasattr(model, "_orig_mod") or not hasattr(model, "config"):
        problem = "the model is in a wrapper, as of torch.compile or DataParallel"
        remedy = "Give the model itself; compile = true compiles it, torchrun uses several devices."
    elif any(weight.is_meta or weight.is_inference() for weight in model.parameters()):
        problem = "the model has weights without values, or made in torch.inference_mode"
        remedy = "Load it anew, on one device and outside of such a context."
    if problem is not None:
        raise InputError(problem, field="model", value=type(model).__name__, remedy=remedy)


def within_context(config: TrainConfig, model: Any) -> TrainConfig:
    """The settings, with sequences no longer than the model's context."""
    context = models.context(model.config)
    if context is None:
        return config
    pairs = config.preference_max_length
    return replace(
        config,
        max_length=min(config.max_length, context),
        preference_max_length=None if pairs is None else min(pairs, context),
    )


def check_output(folder: Path, what: str = "output folder", field: str | None = None) -> None:
    """Make the folder and try to write there; messages call it `what`.

    Raises
    ------
    InputError
        If this fails.
    """
    check_writable(folder, what=what, field=field)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_space(output: Path, model: nn.Module, config: TrainConfig, steps: int) -> None:
    """Compare the free space of the output folder with the size of its checkpoints and model.

    A checkpoint has the trained weights with both averages of AdamW. One more than the kept
    checkpoints is counted, as a new one is written before an old one is removed; then the model.
    Files of an earlier run count as free space.

    Raises
    ------
    InputError
        If the disk has less space.
    """
    needed = space_needed(model, config, steps)
    there = sum(size_of(output / name) for name in (snapshots.CHECKPOINTS, models.MODEL))
    check_writable(output, needed=max(0, needed - there))


def space_needed(model: nn.Module, config: TrainConfig, steps: int) -> int:
    """Bytes of the checkpoints and the model of a run, as `check_space` counts them."""
    sizes = [(p.requires_grad, p.numel() * p.element_size()) for p in model.parameters()]
    trained = sum(size for trains, size in sizes if trains)
    saves = 1 if config.save_every is None else -(-steps // config.save_every)
    whole = trained if models.has_adapters(model) else sum(size for _, size in sizes)
    return 3 * trained * min(saves, config.keep + 1) + whole


def check_not_replaced(output: Path, field: str, place: str) -> None:
    """Raise an `InputError` if the run would overwrite the model that it starts from, or hide it.

    In a folder that holds a model and a run, the model of the run is the one that is found.
    """
    output, found = output.resolve(), Path(models.model_folder(place)).resolve()
    own = (output / models.MODEL, output / snapshots.CHECKPOINTS)
    if place and found.is_dir() and (found == output or {found, *found.parents} & {*own}):
        raise InputError(
            "the run would write its model over this one, or beside it, where it is found first",
            field=field,
            value=place,
            remedy="Give another output folder.",
        )


def check_method(method: Method, config: TrainConfig, processes: int) -> None:
    """Raise an `InputError` if a method cannot be trained with these settings."""
    method.check("llm")
    trained = method.changed().get("preference", config.preference_loss())
    batch = config.batch(PREFERENCE)
    whole = processes == 1 and config.rows_per_forward >= batch and config.tokens_per_pass is None
    if trained.whole_batch and not whole:  # type: ignore[attr-defined]
        raise InputError(
            "the loss compares the pairs of a whole batch",
            field="rows_per_forward",
            value=config.rows_per_forward,
            remedy=f"Set it to {batch}, without tokens_per_pass, and train in one process, or use "
            "another loss.",
        )
    if config.chosen_nll and "preference" in method.changed():
        raise InputError(
            "the method has a preference loss of its own",
            field="chosen_nll",
            value=config.chosen_nll,
            remedy="Leave one of both out.",
        )
    if method.hooks and config.patience is not None:
        raise InputError(
            "the weights that are evaluated are not those that are trained",
            field="patience",
            value=config.patience,
            remedy="Leave it out, or use a method without averages, anchors, masks and merges.",
        )
    config.defects.check_method(method)


def warn_of_probes(plan: Plan, sizes: tuple[int, int], config: TrainConfig, costs: Costs) -> None:
    """Warn if the evaluation of probe rows costs many times as much as the updates."""
    every, samples = plan.gaps.refresh, plan.gaps.samples
    if not plan.watched or every is None:
        return
    rows = sum(min(sizes[objective], samples or sizes[objective]) for objective in plan.watched)
    work = rows / costs.passes / every / config.batch_size
    if work > DEAR:
        warnings.warn(
            f"comparing gaps on {rows:,} rows every {every} updates is {work:,.0f} times the work "
            "of the updates; refresh=10 and samples=64 look at fewer",
            stacklevel=3,
        )


def warn_of_limit(plan: Plan, config: TrainConfig) -> None:
    """Warn if a limit is measured from the least SFT loss seen, as no optimum is given."""
    if plan.rule is Rule.WITHIN_LIMIT and config.optima is None:
        warnings.warn(
            "train.optima are not given: the limit counts from the least SFT training loss seen so "
            "far, which at the start is that of the model given. That suits a model after SFT; for "
            'a base model, give the SFT loss that training on SFT alone reaches, or "auto"',
            stacklevel=3,
        )


def warn_of_optima(plan: Plan, config: TrainConfig) -> None:
    """Warn if gaps are measured from zero, as the larger loss may then always be followed."""
    if plan.rule in (Rule.LARGER_GAP, Rule.SMOOTH_GAP) and config.optima is None:
        warnings.warn(
            "train.optima are not given: gaps count from zero, so the objective of the larger loss "
            'may be followed at every update. Give "auto", which measures them by short runs on '
            "each objective alone, or their values, or [0, 0] if zero is meant",
            stacklevel=3,
        )


def warn_of_neglect(plan: Plan, updates: Sequence[int], lam: float) -> None:
    """Warn if a rule that compares losses never followed an objective with positive weight."""
    weights, total = (1 - lam, lam), sum(updates)
    if not plan.watched or total < NEGLECTED:
        return
    for weight, count, name in zip(weights, updates, OBJECTIVES, strict=True):
        if weight and not count:
            warnings.warn(
                f"none of {total} updates followed the {name} objective; look at train.optima, "
                "from which the schedule measures gaps",
                stacklevel=3,
            )


NEGLECTED = 20
"""Number of updates from which an objective that was never followed gives a warning."""


def warn_of_warmup(plan: Plan, config: TrainConfig) -> None:
    """Warn if every stage ends in its warm-up, so that no update has the rate of the settings."""
    longest = int(stage_lengths(plan.clock).max())
    if config.warmup and longest <= config.warmup:
        warnings.warn(
            f"train.warmup is {config.warmup} updates, and the longest stage of the run has "
            f"{longest}: all rates are below train.learning_rate",
            stacklevel=3,
        )


def warn_of_precision(config: TrainConfig, device: torch.device) -> None:
    """Warn if a GPU with bf16 would compute in fp32."""
    if (
        device.type == "cuda"
        and config.precision == "fp32"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        warnings.warn(
            "precision = 'fp32' on a GPU that has bf16: 'bf16' is several times as fast and takes "
            "about half the memory for activations",
            stacklevel=3,
        )


def checked_rates(rates: Any, config: TrainConfig) -> np.ndarray:
    """Check rates and return them as (T,) numbers.

    Raises
    ------
    InputError
        If there is not one rate for each update, or a rate is negative or not finite.
    """
    found = np.asarray(rates, dtype=float)
    fits = found.shape == (config.steps,)
    if not fits or not np.isfinite(found).all() or (found < 0).any():
        raise InputError(
            "rates must be one finite number, not negative, for each update",
            field="rates",
            value=found.shape if not fits else float(found[~((found >= 0) & (found < np.inf))][0]),
            remedy=f"Return an array of shape ({config.steps},).",
        )
    return found


def check_attention(model: Any, config: TrainConfig, device: torch.device) -> None:
    """Raise an `InputError` for attention that cannot be trained on this device."""
    attention, remedy = str(model.config._attn_implementation), "Use attention = 'sdpa'."
    problem = None
    if device.type == "cpu" and attention == "flex_attention":
        problem = "flex attention has no backward pass on the CPU"
    elif device.type == "cpu" and attention.startswith("flash"):
        problem = "FlashAttention needs a GPU"
    elif attention.startswith("flash") and config.precision == "fp32":
        problem, remedy = "FlashAttention has no fp32", "Use precision = 'bf16', or 'sdpa'."
    if problem is not None:
        raise InputError(problem, field="attention", value=attention, remedy=remedy)


def adapters(model: Any, config: TrainConfig) -> str | None:
    """Description of the adapters for the summary; None if there are none."""
    if models.has_adapters(model):
        return "those of the model" if config.lora is None else "new, its own merged into the model"
    return None if config.lora is None else "new"


def trainable(model: Any, config: TrainConfig) -> Any:
    """The model with the adapters and the checkpointing that the settings ask for."""
    if config.lora is not None:
        model = models.with_adapters(model, config.lora, seed=config.seed)
    elif models.has_adapters(model):
        models.resume_adapters(model)
    for name, kind in getattr(model, "peft_config", {}).items():
        if getattr(kind, "is_prompt_learning", False):
            raise InputError(
                f"the adapters {name!r} are tokens before the prompt, which is not supported",
                field="model",
                value=type(kind).__name__,
                remedy="Use adapters of the layers, such as LoRA.",
            )
    make_precise(model, config)
    base = models.below_adapters(model)
    if config.gradient_checkpointing:
        # transformers before version 5 uses the second name.
        enable = getattr(base, "activation_checkpointing_enable", None)
        (enable or base.gradient_checkpointing_enable)({"use_reentrant": False})
    if not any(parameter.requires_grad for parameter in model.parameters()):
        remedy = "Unfreeze some weights, or give lora settings."
        raise InputError("the model has no weights to train", remedy=remedy)
    return model


def make_precise(model: Any, config: TrainConfig) -> None:
    """Cast weights of 16 bits in place if they would lose updates, with a warning.

    transformers loads weights with the precision of their files, often bfloat16. Its relative
    spacing of 2^-8 exceeds most updates of a weight; float16 also overflows. Trained weights are
    cast to float32. Frozen weights are cast, too, except those below adapters under ``precision =
    "bf16"``.
    """
    below = config.precision == "bf16" and models.has_adapters(model)
    cast: dict[tuple[torch.dtype, torch.dtype], int] = {}
    for weight in (*model.parameters(), *model.buffers()):
        kind = torch.bfloat16 if below and not weight.requires_grad else torch.float32
        if weight.dtype in _HALF and weight.dtype != kind:
            cast[weight.dtype, kind] = cast.get((weight.dtype, kind), 0) + weight.numel()
            weight.data, weight.grad = weight.data.to(kind), None
    for kinds, count in cast.items():
        given, needed = (str(name).removeprefix("torch.") for name in kinds)
        warnings.warn(
            f"{count:,} weights given as {given} are cast to {needed}, which training with "
            f"precision = {config.precision!r} needs; load them with dtype=torch.float32, or train "
            "adapters with precision = 'bf16', which keeps those below them in bfloat16",
            stacklevel=4,
        )


_HALF = (torch.float16, torch.bfloat16)


def compile_blocks(model: Any) -> None:
    """Compile each block, for the device on which the model is."""
    for block in _blocks(models.below_adapters(model)):
        block.compile(dynamic=True)


def optimizer(
    policy: nn.Module, config: TrainConfig, device: torch.device, own: Any = None
) -> torch.optim.Optimizer:
    """Make AdamW, or the optimiser of `own`; weight decay applies to matrices only.

    Raises
    ------
    InputError
        If `own` makes no optimiser, or one that leaves out trained weights.
    """
    trained = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if own is not None:
        return _own_optimizer(own, groups, config)
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        fused=device.type in ("cuda", "cpu") or None,
    )


def _own_optimizer(own: Any, groups: list[Any], config: TrainConfig) -> torch.optim.Optimizer:
    made = None
    if callable(own) and not (isinstance(own, type) and issubclass(own, torch.optim.Optimizer)):
        made = own(groups, config)
    if not isinstance(made, torch.optim.Optimizer):
        raise InputError(
            "a function of groups and settings that makes an optimiser of torch is needed",
            field="optimizer",
            value=getattr(own, "__name__", type(own).__name__),
            remedy="Give one, such as lambda groups, config: SGD(groups, lr=config.learning_rate).",
        )
    held = {id(weight) for group in made.param_groups for weight in group["params"]}
    if left := sum(id(weight) not in held for group in groups for weight in group["params"]):
        raise InputError(
            f"it leaves out {left} trained weights, whose gradients would add up",
            field="optimizer",
            value=type(made).__name__,
            remedy="Give it all groups, or freeze these weights by requires_grad_(False).",
        )
    return made


def sample(policy: nn.Module) -> list[float]:
    """The first numbers of each weight: training changes some of them, and they are few."""
    weights = (w.to_local() if hasattr(w, "to_local") else w for w in policy.parameters())
    parts = [weight.detach().flatten()[:8].float().nan_to_num() for weight in weights]
    return [float(number) for number in torch.cat(parts).tolist()]


def padding(tokenizer: Any) -> int:
    """The padding token; no token attends to it, so any token will do."""
    found = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if found is None else found)


def check_reference(config: TrainConfig) -> None:
    """Raise an `InputError` if the reference is a missing model."""
    if config.reference not in ("initial", "stage"):
        with _of_the_reference():
            models.without_weights(config.reference)


def load_reference(policy: Policy) -> Callable[[str], Any]:
    """Make a loader of reference models, with the precision of the policy."""
    frozen = any(weight.dtype == torch.bfloat16 for weight in policy.parameters())

    def load(path: str) -> Any:
        with _of_the_reference():
            return models.load(ModelConfig(path=path), frozen_bf16=frozen)[0]

    return load


@contextmanager
def _of_the_reference() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise error.at(field="reference") from error


def with_layout(
    policy: Policy, data: Corpora, config: TrainConfig, device: torch.device, costs: Costs
) -> TrainConfig:
    """The settings with a layout that the model supports, by default the fastest.

    Raises
    ------
    InputError
        If the layout of the settings cannot be used.
    """
    if config.layout != "auto":
        check_layout(policy, data, config)
        return config
    for layout in waste.quickest(costs, data, config, policy.attention, device.type):
        chosen = replace(config, layout=layout)
        try:
            check_layout(policy, data, chosen)
        except InputError:
            continue
        return chosen
    return replace(config, layout="padded")


@torch.no_grad()
def check_layout(policy: Policy, data: Corpora, config: TrainConfig) -> None:
    """Test the layout on two pairs: it must give the log-probabilities of padded rows.

    Raises
    ------
    InputError
        If the model does not separate packed sequences, or the layout cannot be used at all.
    """
    if config.layout == "padded":
        return
    _check_window(policy, data, config)
    if config.layout == "shared" and (
        batches.by_bounds(policy.attention) or not config.defects.prompts_can_be_shared
    ):
        remedy = "Use layout = 'packed'."
        raise InputError(
            "prompts cannot be shared with FlashAttention or varlen, nor with mask_first_token",
            field="layout",
            value=config.layout,
            remedy=remedy,
        )
    device = next(policy.parameters()).device
    # These need a device, to which the model may move later; they cannot be tested on the CPU.
    if device.type == "cpu" and policy.attention.startswith(("flex", "flash")):
        return
    items = _shortest(data)
    with evaluating(policy):
        expected = policy.responses(batches.pairs(items, "padded", 0).to(device))
        layout: Any = config.layout
        try:
            found = policy.responses(batches.pairs(items, layout, 0).to(device))
            apart = _sight.close(policy, found, expected)
            apart = apart and not _sight.leaks(policy, items, layout)
            apart = apart and _sight.endless(policy, items, layout)
        except torch.OutOfMemoryError:
            raise
        except _sight.UNFIT:  # the model cannot use a mask of this shape
            apart = False
    if not apart:
        raise InputError(
            "this model does not keep packed sequences apart",
            field="layout",
            value=config.layout,
            remedy="Use layout = 'padded'.",
        )


def check_sight(policy: Policy, data: Corpora) -> None:
    """Raise an `InputError` if the model attends to what it must not, see `_sight`."""
    _sight.check_causal(policy)
    _sight.check_varlen(policy, _shortest(data))


def _shortest(data: Corpora, length: int = 16) -> list[Pair]:
    """The two shortest pairs, or the only one, with texts of at most this length."""
    found = []
    for place in np.argsort(sizes(data.preference), kind="stable")[:2]:
        pair = data.preference[int(place)]
        first, last = max(0, pair.start - length), pair.start + length
        sides = pair.chosen[first:last], pair.rejected[first:last]
        found.append(Pair(*sides, pair.start - first))
    return found


def _check_window(policy: Policy, data: Corpora, config: TrainConfig) -> None:
    """Check the sliding window, which a block mask would replace, except in FlashAttention."""
    window = policy.window
    sets = [part for part in data.sets().values() if len(part)]
    longest = max(int(items.extents[0].max()) for items in sets if isinstance(items, Tokenised))
    if window is not None and longest > window and not batches.by_bounds(policy.attention):
        raise InputError(
            f"sequences of up to {longest} tokens exceed the model's sliding window of {window}",
            field="layout",
            value=config.layout,
            remedy="Use layout = 'padded', or a smaller max_length.",
        )


def seed_dropout(seed: int, step: int, process: int) -> None:
    """Make dropout a function of the run's seed, the update and the process."""
    key = draws.keys(seed, process, draws.PREFERENCE_NOISE)
    with np.errstate(over="ignore"):
        mixed = draws.mix(key + np.uint64(step) * draws.GOLDEN)
    number = int(mixed) % 2**63
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # The same draws. The function above would record the stack for each kind of device.
        torch.default_generator.manual_seed(number)


LESS_MEMORY = (
    "Lower rows_per_forward, tokens_per_pass or max_length, set gradient_checkpointing = true, "
    "precision = 'bf16', or train adapters with [train.lora]; the run goes on from its last "
    "checkpoint."
)


@contextmanager
def memory_errors(config: TrainConfig, remedy: str = LESS_MEMORY) -> Iterator[None]:
    """Context manager: give an `InputError` with a remedy if memory is not enough."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise InputError(
            "memory does not suffice",
            field="rows_per_forward",
            value=config.rows_per_forward,
            remedy=remedy,
        ) from error


def _blocks(base: Any) -> list[nn.Module]:
    names = set(base._no_split_modules or ())
    return [module for module in base.modules() if type(module).__name__ in names]
