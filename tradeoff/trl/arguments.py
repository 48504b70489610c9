"""Settings of a joint run, from TRL's ``SFTConfig`` and ``DPOConfig``.

A field is used, or does not affect the result, or has its default. All others are named in one
error, so that no setting of a script is silently ignored.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from tradeoff.errors import InputError
from tradeoff.llm.config import TrainConfig
from tradeoff.methods import PREFERENCE_LOSSES

BOTH = {
    "adam_beta1": "betas",
    "adam_beta2": "betas",
    "adam_epsilon": "epsilon",
    "weight_decay": "weight_decay",
    "max_grad_norm": "clip",
    "lr_scheduler_type": "decay",
    "bf16": "precision",
    "seed": "seed",
    "torch_compile": "compile",
    "router_aux_loss_coef": "router_loss",
}
"""Fields that a joint run has once, so that both configurations must agree, and their settings."""
TAKEN = {
    *("per_device_train_batch_size", "gradient_accumulation_steps", "max_steps"),
    *("num_train_epochs", "learning_rate", "warmup_steps", "warmup_ratio", "optim"),
    *("gradient_checkpointing", "activation_checkpointing", "logging_steps", "logging_strategy"),
    *("eval_strategy", "eval_steps", "save_strategy", "save_steps", "save_total_limit"),
    *("report_to", "beta", "label_smoothing", "loss_type", "disable_dropout", "disable_tqdm"),
    *("dataset_text_field", "completion_only_loss", "output_dir", "truncation_mode"),
    *("max_length", "assistant_only_loss", "resume_from_checkpoint"),
}
"""Other fields that are used."""
FREE = {
    *("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs", "padding_free"),
    *("activation_offloading", "pad_to_multiple_of", "pad_token", "dataset_num_proc"),
    *("precompute_ref_log_probs", "precompute_ref_batch_size", "use_cpu", "no_cuda"),
    *("per_device_eval_batch_size", "eval_accumulation_steps", "eval_on_start", "eval_packing"),
    *("prediction_loss_only", "bf16_full_eval", "eval_do_concat_batches", "do_train", "do_eval"),
    *("do_predict", "run_name", "logging_dir", "logging_first_step", "logging_nan_inf_filter"),
    *("log_level", "log_level_replica", "log_on_each_node", "overwrite_output_dir"),
    *("remove_unused_columns", "average_tokens_across_devices", "include_num_input_tokens_seen"),
    *("include_tokens_per_second", "skip_memory_metrics", "use_cache", "project"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "local_rank"),
    *("hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push"),
    *("hub_revision", "save_only_model", "save_safetensors", "save_on_each_node"),
    *("enable_jit_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
    *("torch_empty_cache_steps", "shuffle_dataset", "data_seed", "accelerator_config"),
    *("torch_compile_backend", "torch_compile_mode", "label_names", "model_init_kwargs"),
    *("length_column_name", "ref_model_mixup_alpha", "ref_model_sync_steps", "fsdp_config"),
    *("f_alpha_divergence_coef", "discopop_tau", "packing_strategy", "liger_kernel_config"),
    *("use_liger_kernel", "tf32", "greater_is_better"),
}
"""Fields that affect only how a run is computed, stored or shown, or that belong to unused
features."""
FREE_PREFIXES = ("dataloader_", "ddp_")
_WATCHED = (
    *("eval_strategy", "eval_steps", "save_strategy", "save_steps", "save_total_limit"),
    *("logging_strategy", "logging_steps", "report_to"),
)
"""Fields of evaluations, saves and log lines, of which a joint run takes those of SFT."""
_BEST = "patience = N keeps the policy with the lowest held-out loss, and stops early"
_LAUNCH = "start the script with accelerate launch, by DDP or FSDP 2"
_CHOSEN = "chosen_nll = a adds SFT on the chosen response, with this weight"
HINTS = {
    "packing": 'layout = "packed" packs rows without an effect on the result',
    "load_best_model_at_end": _BEST,
    "metric_for_best_model": _BEST,
    "push_to_hub": "tradeoff export prints the command that uploads the model",
    "resume_from_checkpoint": "train() goes on from the newest checkpoint in the output folder",
    "deepspeed": _LAUNCH,
    "fsdp": _LAUNCH,
    "fp16": "use bf16",
    "optim": "AdamW in float32 is used; joint_trainer takes another as optimizer",
    "lr_scheduler_type": "joint_trainer takes another course as rates",
    "loss_weights": _CHOSEN,
    "rpo_alpha": _CHOSEN,
    "sync_ref_model": 'loss = "tr_dpo" is the limit of a reference renewed at every update',
    "chat_template_path": "set the tokenizer's chat_template",
    "chat_template": "set the tokenizer's, or give --chat-template FILE",
    "eos_token": "set the tokenizer's eos_token",
    "dataset_kwargs": "rows are tokenised here",
    "max_prompt_length": "max_length is the limit of prompt and response together",
    "completion_only_loss": "give texts in a column text for loss on all tokens",
    "truncation_mode": "long responses lose their end",
    "dataset_name": "name one data set, or several as the list datasets",
    "dataset_mixer": "name the data set as dataset_name, or several as datasets",
    "test_split_size": "train.holdout holds out a share of one data set",
    "model_revision": "download this revision, and name its folder as model_name_or_path",
    "env": "set the variables in the shell",
    "ld_alpha": 'loss = "ld_dpo" has it',
    "f_divergence_type": 'loss = "f_dpo" has other divergences',
    "ref_model": "train.reference names its folder",
    "dataset_splits": "dataset_train_split and dataset_test_split name them",
    "use_rslora": "joint_trainer takes a LoraConfig with it",
    "lora_modules_to_save": "joint_trainer takes a LoraConfig with it",
}
"""What takes the place of unsupported fields."""
_DECAYS = {"constant": "constant", "constant_with_warmup": "constant", "linear": "linear"}
_DECAYS |= {"cosine": "cosine"}
_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")


def train_config(
    sft: Any, dpo: Any, rows: tuple[int, int], *, steps: int | None = None, processes: int = 1
) -> TrainConfig:
    """Make the settings of a joint run.

    Parameters
    ----------
    sft, dpo
        An ``SFTConfig`` and a ``DPOConfig`` of TRL. Batch, rate and number of updates may differ
        between the objectives; settings that a run has once must be equal in both.
    rows
        Numbers of training rows of (SFT, preference), from which epochs are counted.
    steps
        Updates of the joint run; None: the sum of the updates of both trainers.
    processes
        Number of processes that share an update.

    Raises
    ------
    InputError
        If fields are unsupported; the error names all of them.
    """
    problems = unsupported(sft, dpo)
    batch = [args.per_device_train_batch_size for args in (sft, dpo)]
    sizes = [batch_size(args, processes) for args in (sft, dpo)]
    total = steps or sum(updates(sft, dpo, rows, processes))
    warmup = [_warmup(args, total) for args in (sft, dpo)]
    if warmup[0] != warmup[1]:
        problems.append(f"warm-up takes {warmup[0]} updates for SFT and {warmup[1]} for DPO")
    if problems:
        raise InputError(
            f"a joint run does not support these settings: {'; '.join(problems)}",
            field="args",
            remedy="Give both configurations the same value, or leave the field at its default.",
        )
    if other := [name for name in _WATCHED if getattr(sft, name) != getattr(dpo, name)]:
        warnings.warn(
            f"{', '.join(other)} of SFT are taken, and those of DPO are not: a joint run has "
            "evaluations, saves and log lines once",
            stacklevel=2,
        )
    loss = _loss(dpo)
    if loss == "robust" and not dpo.label_smoothing:
        loss = "sigmoid"  # Robust DPO without flipped labels; the loss's own default has some.
    lengths = [args.max_length or 2**24 for args in (sft, dpo)]
    checkpointing = any(_either(args, "gradient", "activation") for args in (sft, dpo))
    return TrainConfig(
        steps=total,
        batch_size=sizes[0],
        preference_batch_size=sizes[1],
        rows_per_forward=min(batch),
        learning_rate=sft.learning_rate,
        preference_learning_rate=dpo.learning_rate,
        decay=_DECAYS[_name(sft.lr_scheduler_type)],  # type: ignore[arg-type]
        warmup=warmup[0],
        betas=(sft.adam_beta1, sft.adam_beta2),
        epsilon=sft.adam_epsilon,
        weight_decay=sft.weight_decay,
        clip=sft.max_grad_norm or None,
        loss=loss,
        beta=dpo.beta,
        label_smoothing=dpo.label_smoothing,
        router_loss=getattr(sft, "router_aux_loss_coef", None),
        dropout="sft" if dpo.disable_dropout else "always",
        turns="all" if getattr(sft, "assistant_only_loss", False) else "last",
        max_length=lengths[0],
        preference_max_length=lengths[1] if lengths[1] != lengths[0] else None,
        precision="bf16" if sft.bf16 else "fp32",
        gradient_checkpointing=checkpointing,
        compile=sft.torch_compile,
        holdout=0.0,
        evaluate_every=_every(sft, "eval", total),
        log_every=max(1, _every(sft, "logging", total) or total),
        save_every=_every(sft, "save", total),
        keep=sft.save_total_limit or 10**6,
        trackers=tuple(name for name in sft.report_to or () if name not in ("none", "all")),
        seed=sft.seed,
    )


def check_kinds(sft: Any, dpo: Any) -> None:
    """Raise an `InputError` unless these are an ``SFTConfig`` and a ``DPOConfig`` of TRL."""
    from trl import DPOConfig, SFTConfig  # type: ignore[attr-defined]

    for name, given, kind in (("sft_args", sft, SFTConfig), ("dpo_args", dpo, DPOConfig)):
        if not isinstance(given, kind):
            raise InputError(
                f"this is no {kind.__name__}",
                field=name,
                value=type(given).__name__,
                remedy=f"Give trl.{kind.__name__}, with the fields of the script.",
            )


def unsupported(sft: Any, dpo: Any) -> list[str]:
    """Texts that name all unsupported fields of both configurations, but for the warm-up.

    Raises
    ------
    InputError
        If these are no configurations of TRL.
    """
    check_kinds(sft, dpo)
    return [*_unsupported(sft), *_unsupported(dpo), *_different(sft, dpo), *_choices(sft, dpo)]


def not_applied(dtype: str) -> str:
    """A warning that weights are not trained in this precision."""
    return (
        f"dtype = {dtype} is not applied: weights are trained in float32, and bf16 = True computes "
        "in bfloat16"
    )


def hinted(text: str, name: str) -> str:
    """The text about an unsupported field, with what takes its place."""
    return f"{text} ({HINTS[name]})" if name in HINTS else text


def batch_size(args: Any, processes: int = 1) -> int:
    """Number of rows of an update of one of TRL's trainers."""
    return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * processes)


def updates(sft: Any, dpo: Any, rows: tuple[int, int], processes: int = 1) -> tuple[int, int]:
    """Numbers of updates that TRL's trainers would do, for (SFT, preference)."""
    return _updates(sft, rows[0], processes), _updates(dpo, rows[1], processes)


def _updates(args: Any, rows: int, processes: int) -> int:
    if args.max_steps > 0:
        return int(args.max_steps)
    size = args.per_device_train_batch_size * processes
    batches = rows // size if args.dataloader_drop_last else math.ceil(rows / size)
    return math.ceil(args.num_train_epochs * math.ceil(batches / args.gradient_accumulation_steps))


def _warmup(args: Any, total: int) -> int:
    return int(args.get_warmup_steps(total))


def _unsupported(args: Any) -> Iterator[str]:
    """Unsupported fields that do not have their defaults."""
    default = _default(args)
    known = {*BOTH, *TAKEN, *FREE}
    for field in fields(args):
        name = field.name
        if name in known or name.startswith(FREE_PREFIXES):
            continue
        if (value := getattr(args, name)) != getattr(default, name):
            yield hinted(f"{type(args).__name__}.{name} = {value!r}", name)
    if getattr(args.accelerator_config, "split_batches", False):
        yield f"{type(args).__name__}.accelerator_config with split_batches"


def _default(args: Any) -> Any:
    """The configuration with all defaults, except settings that depend on the device."""
    kept = {name: getattr(args, name) for name in ("bf16", "use_cpu") if hasattr(args, name)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return type(args)(output_dir=args.output_dir, report_to="none", **kept)


def _different(sft: Any, dpo: Any) -> Iterator[str]:
    for name, own in BOTH.items():
        values = [getattr(args, name, None) for args in (sft, dpo)]
        if values[0] != values[1]:
            first, second = (_name(value) for value in values)
            yield f"{name} is {first!r} for SFT and {second!r} for DPO, and {own} is one setting"


def _choices(sft: Any, dpo: Any) -> Iterator[str]:
    """Supported fields with unsupported values."""
    name = _loss(dpo)
    fixed = name in PREFERENCE_LOSSES and not hasattr(PREFERENCE_LOSSES[name], "beta")
    if fixed and dpo.beta != _default(dpo).beta:
        yield f"{type(dpo).__name__}.beta = {dpo.beta}, which the loss {name!r} does not have"
    if name == "discopop" and dpo.discopop_tau != _default(dpo).discopop_tau:
        yield f"{type(dpo).__name__}.discopop_tau = {dpo.discopop_tau}"
    checks: tuple[tuple[str, Callable[[Any], bool]], ...] = (
        ("optim", lambda value: _name(value) in _OPTIMIZERS),
        ("lr_scheduler_type", lambda value: _name(value) in _DECAYS),
        ("truncation_mode", lambda value: value == "keep_start"),
        ("completion_only_loss", lambda value: value is not False),
        ("resume_from_checkpoint", lambda value: value in (None, True)),
        ("loss_type", lambda value: _known_loss(value)),
        ("eval_strategy", lambda value: _name(value) in ("no", "steps", "epoch")),
        ("save_strategy", lambda value: _name(value) in ("no", "steps", "epoch")),
    )
    for args in (sft, dpo):
        for name, fits in checks:
            if hasattr(args, name) and not fits(getattr(args, name)):
                value = _name(getattr(args, name))
                several = name == "loss_type" and len(value) > 1 and not isinstance(value, str)
                text = f"{type(args).__name__}.{name} = {value!r}"
                yield hinted(text, "loss_weights" if several else name)


def _known_loss(value: Any) -> bool:
    """SFTConfig names one loss, DPOConfig a list of them."""
    if isinstance(value, str):
        return value in ("nll", "chunked_nll")  # The second has the same value, and less memory.
    return len(value) == 1 and value[0] in set(PREFERENCE_LOSSES) - {"nominal"}


def _loss(dpo: Any) -> str:
    return str(dpo.loss_type if isinstance(dpo.loss_type, str) else dpo.loss_type[0])


def _either(args: Any, *names: str) -> bool:
    """Whether checkpointing is on, under any of these names, which differ between versions."""
    return any(bool(getattr(args, f"{name}_checkpointing", False)) for name in names)


def _every(args: Any, what: str, total: int) -> int | None:
    """Updates between evaluations, log lines or saves; None if there are none."""
    strategy = _name(getattr(args, f"{what}_strategy"))
    if strategy == "no":
        return None
    if strategy == "epoch":
        return max(1, round(total / max(1.0, args.num_train_epochs)))
    steps = getattr(args, f"{what}_steps") or args.logging_steps
    return max(1, math.ceil(steps * total) if steps < 1 else int(steps))


def _name(value: Any) -> Any:
    """The name of a member of an enumeration; other values are returned unchanged."""
    return getattr(value, "value", value)
