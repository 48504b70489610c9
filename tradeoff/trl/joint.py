"""A joint trainer from the arguments of TRL's ``SFTTrainer`` and ``DPOTrainer``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tradeoff.errors import InputError
from tradeoff.llm import setup
from tradeoff.llm.config import ModelConfig
from tradeoff.llm.routers import experts_per_token
from tradeoff.llm.trainer import JointTrainer
from tradeoff.methods import Method
from tradeoff.schedules import Alright, Schedule
from tradeoff.trl.arguments import train_config, updates
from tradeoff.trl.callbacks import HubCallbacks


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
    callbacks: Sequence[Any] = (),
    schedule: Schedule | Method | None = None,
    steps: int | None = None,
    output: str | Path | None = None,
    **settings: Any,
) -> JointTrainer:
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
        The tokenizer; None: that of a model given by name.
    peft_config
        A configuration of peft, such as ``LoraConfig``; peft makes the adapters.
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
        Fields of :class:`~tradeoff.llm.config.TrainConfig`, which override TRL's fields.

    Returns
    -------
    JointTrainer
        A trainer, ready for ``train()``. `settings` may name a ``loss`` of TRL or of this package.

    Raises
    ------
    InputError
        If a field is unsupported, with the names of all such fields; or if objects do not fit
        together.
    """
    from transformers import TrainerCallback

    model, tokenizer = _loaded(model, processing_class, bf16=bool(sft_args.bf16))
    if peft_config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
    sizes = _rows(sft_dataset, sft_args), _rows(dpo_dataset, dpo_args)
    processes = setup.launched()
    config = train_config(sft_args, dpo_args, sizes, steps=steps, processes=processes)
    _warn_of_turns(sft_dataset, settings.get("turns", config.turns))
    if experts_per_token(model) is None:
        # Older versions of TRL have a weight by default, and use it only with routers.
        config = replace(config, router_loss=None)
    if schedule is None:
        counts = updates(sft_args, dpo_args, sizes, processes)
        schedule = Alright(lam=counts[1] / sum(counts))
    of_hub = [c for c in callbacks if _is_hub(c, TrainerCallback)]
    own = [c for c in callbacks if not _is_hub(c, TrainerCallback)]
    if of_hub:
        own.append(HubCallbacks(of_hub, sft_args))
    return JointTrainer(
        model,
        tokenizer,
        sft=sft_dataset,
        preference=dpo_dataset,
        sft_test=sft_eval_dataset,
        preference_test=dpo_eval_dataset,
        schedule=schedule,
        # TRL does not render rows of plain text either.
        config=replace(config, **{"chat": False, **_reference(ref_model), **settings}),
        output=sft_args.output_dir if output is None else output,
        callbacks=own,
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


def _loaded(model: Any, tokenizer: Any, *, bf16: bool) -> tuple[Any, Any]:
    """Load model and tokenizer, if the model is given by name."""
    if isinstance(model, str | Path):
        from tradeoff.llm import models

        model, found = models.load(ModelConfig(path=str(model)))
        return model, tokenizer or found
    if tokenizer is None:
        remedy = "Give processing_class, as to TRL's trainers."
        raise InputError("there is no tokenizer", field="processing_class", remedy=remedy)
    return model, tokenizer


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
