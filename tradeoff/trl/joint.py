"""A joint trainer from the arguments of TRL's ``SFTTrainer`` and ``DPOTrainer``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from tradeoff.errors import InputError
from tradeoff.llm import models, setup
from tradeoff.llm.callbacks import as_callback
from tradeoff.llm.config import ModelConfig, TrainConfig
from tradeoff.llm.routers import experts_per_token
from tradeoff.methods import Method
from tradeoff.schedules import Alright, Schedule
from tradeoff.trl.arguments import check_kinds, not_applied, train_config, updates
from tradeoff.trl.callbacks import HubCallbacks
from tradeoff.trl.trainer import ScriptTrainer

_OF_TRAINER = ("optimizer", "rates", "collator")
"""Arguments of `JointTrainer` beside its settings."""
_INSTEAD = {
    "formatting_func": "Give sft_dataset.map(lambda row: {'text': FUNCTION(row)}).",
    "train_dataset": "Give sft_dataset and dpo_dataset.",
    "eval_dataset": "Give sft_eval_dataset and dpo_eval_dataset.",
    "args": "Give sft_args and dpo_args.",
    "tokenizer": "Give processing_class.",
    "data_collator": "Give collator, see JointTrainer.",
    "optimizers": "Give optimizer and rates, see JointTrainer.",
    "optimizer_cls_and_kwargs": "Give optimizer, see JointTrainer.",
    "compute_metrics": "Give a function of the trainer and the record in callbacks.",
    "quantization_config": "Load the model with it, and give the model.",
}
"""Arguments of TRL's trainers that have another name here."""
_MODEL_FREE = ("device_map", "use_cache", "trust_remote_code", "low_cpu_mem_usage")
"""Settings of loading that do not change a model. Code that comes with one is never run."""


def joint_trainer(
    model: Any,
    *,
    sft_args: Any,
    dpo_args: Any,
    sft_dataset: Any,
    dpo_dataset: Any,
    sft_eval_dataset: Any = None,
    dpo_eval_dataset: Any = None,
    processing_class: Any = None,
    peft_config: Any = None,
    ref_model: Any = None,
    callbacks: Sequence[Any] | None = None,
    schedule: Schedule | Method | None = None,
    steps: int | None = None,
    output: str | Path | None = None,
    **settings: Any,
) -> ScriptTrainer:
    """Make a joint trainer from the arguments of TRL's two trainers.

    Parameters
    ----------
    model
        A model of transformers or peft, or its folder or hub name.
    sft_args, dpo_args
        ``SFTConfig`` and ``DPOConfig``; see :func:`~tradeoff.trl.arguments.train_config`.
    sft_dataset, dpo_dataset
        Training rows, as ``Dataset`` objects or any other source of `JointTrainer`.
    sft_eval_dataset, dpo_eval_dataset
        Held-out rows, likewise; by default nothing is held out.
    processing_class
        The tokenizer; None: that of the folder or hub name from which the model comes.
    peft_config
        A configuration of peft, such as ``LoraConfig``; peft makes the adapters, with the seed of
        the configurations.
    ref_model
        Folder or hub name of the reference; None: the policy before training.
    callbacks
        ``TrainerCallback`` objects of transformers, or callbacks of `JointTrainer`.
    schedule
        The schedule; None: ALRIGHT, whose weight is DPO's share of all updates.
    steps
        Number of updates; None: the sum of the updates of both trainers.
    output
        Folder of the run; None: ``sft_args.output_dir``.
    settings
        Fields of :class:`~tradeoff.llm.config.TrainConfig`, which override TRL's fields; and
        ``optimizer``, ``rates`` and ``collator`` of `JointTrainer`.

    Returns
    -------
    ScriptTrainer
        A trainer, ready for ``train()``, with the methods that scripts call on TRL's trainers, such
        as ``save_model``. `settings` may name a ``loss`` of TRL or of this package.

    Raises
    ------
    InputError
        If a field is unsupported, with the names of all such fields; or if objects do not fit
        together.
    """
    from transformers import TrainerCallback

    check_kinds(sft_args, dpo_args)
    _check_settings(settings)
    of_trainer = {name: settings.pop(name) for name in _OF_TRAINER if name in settings}
    sizes = _rows(sft_dataset, sft_args), _rows(dpo_dataset, dpo_args)
    processes = setup.launched()
    config = train_config(sft_args, dpo_args, sizes, steps=steps, processes=processes)
    if "completion" in _columns(sft_dataset):
        config = replace(config, turns="last")  # Only the completion carries loss.
    config = replace(config, **{"chat": False, **_reference(ref_model), **settings})
    if not sft_args.assistant_only_loss:
        _warn_of_turns(sft_dataset, config.turns)
    model, tokenizer = _loaded(model, processing_class, (sft_args, dpo_args))
    if peft_config is not None:
        model = _with_adapters(model, peft_config, config.seed)
    if experts_per_token(model) is None:
        # Older versions of TRL have a weight by default, and use it only with routers.
        config = replace(config, router_loss=None)
    if schedule is None:
        counts = updates(sft_args, dpo_args, sizes, processes)
        schedule = Alright(lam=counts[1] / sum(counts))
    callbacks = callbacks or ()
    of_hub: list[Any] = [c for c in callbacks if _is_hub(c, TrainerCallback)]
    own = [as_callback(c) for c in callbacks if not _is_hub(c, TrainerCallback)]
    if of_hub:
        own.append(HubCallbacks(of_hub, sft_args))
    field = sft_args.dataset_text_field
    made = ScriptTrainer(
        model,
        tokenizer,
        sft=_of_texts(sft_dataset, field),
        preference=dpo_dataset,
        sft_test=None if sft_eval_dataset is None else _of_texts(sft_eval_dataset, field),
        preference_test=dpo_eval_dataset,
        schedule=schedule,
        config=config,
        output=sft_args.output_dir if output is None else output,
        callbacks=own,
        **of_trainer,
    )
    if config.turns == "all":
        _warn_of_rows(made, sizes[0])
    return made


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raise an `InputError` for a keyword that is no setting of a joint run."""
    known = {field.name for field in fields(TrainConfig)} | {*_OF_TRAINER}
    for name in settings:
        if name not in known:
            raise InputError(
                "a joint run has no such argument",
                field=name,
                remedy=_INSTEAD.get(name, f"Give fields of TrainConfig, or {_OF_TRAINER}."),
            )


def _with_adapters(model: Any, given: Any, seed: int) -> Any:
    """The model with adapters of peft, which are the same for each run with one seed."""
    from peft import PeftConfig, get_peft_model

    if not isinstance(given, PeftConfig):
        remedy = "Give a configuration of peft, such as LoraConfig."
        value = type(given).__name__
        raise InputError("this is no such thing", field="peft_config", value=value, remedy=remedy)
    if models.has_adapters(model):
        raise InputError(
            "the model has adapters already",
            field="peft_config",
            value=type(given).__name__,
            remedy="Leave it out to train these, or give model.merge_and_unload().",
        )
    torch.manual_seed(seed)
    return get_peft_model(model, given)


def _columns(dataset: Any) -> list[str]:
    """Names of the columns of a ``Dataset``, or of a stream by its first row; otherwise none."""
    if not hasattr(dataset, "select_columns"):
        return []
    return list(dataset.column_names or next(iter(dataset), ()))


def _of_texts(dataset: Any, field: str) -> Any:
    """The rows without the columns beside their text, which TRL does not read then.

    TRL reads texts from `field` unless a row has a prompt or messages. Here a row of instructions
    and outputs is no text otherwise.
    """
    columns = _columns(dataset)
    if field not in columns or {"prompt", "messages", "conversations"} & {*columns}:
        if field != "text" and not columns:
            raise InputError(
                "only a Dataset can have another name for its texts",
                field="dataset_text_field",
                value=field,
                remedy="Name the column text.",
            )
        return dataset
    dataset = dataset.select_columns([field])
    return dataset if field == "text" else dataset.rename_column(field, "text")


def _warn_of_rows(made: ScriptTrainer, conversations: int) -> None:
    """Warn if turns are rows, so that an update has fewer of them than TRL's has."""
    rows, batch = len(made.data.sft), made.config.batch_size
    if rows > conversations > 1:
        warnings.warn(
            f'with turns = "all" each turn of the assistant is a row: {conversations:,} '
            f"conversations are {rows:,} rows. TRL's batches have conversations: with batch_size = "
            f"{round(batch * rows / conversations)} an update has as many turns as there",
            stacklevel=3,
        )


def _warn_of_turns(dataset: Any, turns: str) -> None:
    """Warn of conversations on all of whose tokens TRL would put loss."""
    columns = set(getattr(dataset, "column_names", None) or ())
    if {"messages", "conversations"} & columns and "completion" not in columns:
        warnings.warn(
            "the SFT rows are whole conversations: TRL's SFTTrainer puts loss on every token of "
            "them, by default also on those of the user, and this trainer only on the "
            f"{'last turn' if turns == 'last' else 'turns'} of the assistant"
            + ('; turns = "all" includes its other turns' if turns == "last" else ""),
            stacklevel=3,
        )


def _is_hub(given: Any, kind: type) -> bool:
    return isinstance(given, kind) or (isinstance(given, type) and issubclass(given, kind))


def _loaded(model: Any, tokenizer: Any, args: tuple[Any, Any]) -> tuple[Any, Any]:
    """Load the model, if it is given by name, and the tokenizer, if it is not given."""
    from transformers import PreTrainedTokenizerBase

    if isinstance(model, str | Path):
        config = ModelConfig(path=str(model), attention=_attention(args))
        model, found = models.load(config)
        tokenizer = tokenizer or found
    elif tokenizer is None:
        tokenizer = _tokenizer_of(model)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise InputError(
            "this is no tokenizer",
            field="processing_class",
            value=type(tokenizer).__name__,
            remedy="Give a tokenizer of transformers, such as that of a processor.",
        )
    return model, tokenizer


def _tokenizer_of(model: Any) -> Any:
    """The tokenizer of the folder or hub name from which a model was loaded."""
    name = getattr(model, "name_or_path", "")
    try:
        return models.tokenizer_of(name, models.base_of(name))
    except (OSError, ValueError) as error:
        raise InputError(
            "there is no tokenizer",
            field="processing_class",
            remedy="Give processing_class, as to TRL's trainers.",
        ) from error


def _attention(args: tuple[Any, Any]) -> Any:
    """The attention that ``model_init_kwargs`` name, by which TRL loads a model given by name."""
    given = [dict(one.model_init_kwargs or {}) for one in args]
    dtypes = {str(one.pop(k, "float32")) for one in given for k in ("dtype", "torch_dtype")}
    if wrong := sorted(dtypes - {"auto", "None", "float32", "torch.float32"}):
        warnings.warn(not_applied(wrong[0]), stacklevel=4)
    attentions = {one.pop("attn_implementation", None) for one in given} - {None}
    used = (*_MODEL_FREE, "revision")
    left = {k: v for one in given for k, v in one.items() if k not in used}
    revisions = {str(one.get("revision") or "main") for one in given} - {"main"}
    left |= {"revision": sorted(revisions)} if revisions else {}
    left |= {"attn_implementation": sorted(attentions)} if len(attentions) > 1 else {}
    if left:
        raise InputError(
            "a model that is given by name is loaded without these settings",
            field="model_init_kwargs",
            value=left,
            remedy="Load the model with them, and give the model.",
        )
    return next(iter(attentions), None)


def _rows(dataset: Any, args: Any) -> int:
    """Number of rows of a set, from which epochs are counted."""
    if hasattr(dataset, "__len__"):
        return len(dataset)
    if args.max_steps > 0:
        return 1
    raise InputError(
        "a stream has no length, so epochs cannot be counted",
        field="max_steps",
        value=args.max_steps,
        remedy="Give max_steps.",
    )


def _reference(model: Any) -> dict[str, str]:
    if model is None:
        return {}
    if not isinstance(model, str | Path):
        raise InputError(
            "the reference cannot be a model in memory",
            field="ref_model",
            value=type(model).__name__,
            remedy="Leave it out for the policy before training, or give its folder.",
        )
    return {"reference": str(model)}
