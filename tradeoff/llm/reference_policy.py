"""Reference policies for preference learning, and their training.

There are three kinds: the base model, the optimum of SFT on demonstrations, and SFT on the chosen
responses of the pairs. The least preference loss depends on the kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tradeoff.data.chosen import chosen_as_sft
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.errors import InputError
from tradeoff.llm import models
from tradeoff.llm.config import ModelConfig, TrainConfig
from tradeoff.llm.trainer import JointTrainer
from tradeoff.schedules import Alright

KINDS = ("base", "sft", "chosen")


@dataclass(frozen=True, kw_only=True)
class ReferenceRows:
    """Rows for the training of a reference.

    Attributes
    ----------
    sft, preference
        Training rows; both are needed, as both losses are evaluated.
    sft_test, preference_test
        Held-out rows; by default ``config.holdout`` of the training rows.
    """

    sft: Sequence[SftRow]
    preference: Sequence[PreferenceRow]
    sft_test: Sequence[SftRow] | None = None
    preference_test: Sequence[PreferenceRow] | None = None

    def of_chosen(self) -> ReferenceRows:
        """The same pairs, with their chosen responses as demonstrations."""
        test = None if self.preference_test is None else chosen_as_sft(self.preference_test)
        return replace(self, sft=chosen_as_sft(self.preference), sft_test=test)


def train_reference(
    kind: str,
    model: ModelConfig,
    rows: ReferenceRows,
    config: TrainConfig,
    output: str | Path,
    *,
    progress: bool = True,
) -> str:
    """Train a reference policy by SFT alone.

    Parameters
    ----------
    kind
        "base": the model itself, without training. "sft": trained on ``rows.sft``. "chosen":
        trained on the chosen responses of ``rows.preference``.
    model
        The base model.
    rows
        Training and held-out rows.
    config
        Settings of the training; its reference is not used.
    output
        Folder for log, checkpoints and the trained model. An interrupted call is resumed, and a
        complete one does nothing.
    progress
        Show progress bars.

    Returns
    -------
    str
        A value for ``TrainConfig.reference``: the path of the base model or of the trained model.

    Raises
    ------
    InputError
        For an unknown kind, or as for :class:`JointTrainer`.

    Notes
    -----
    The scripts of the official code of arXiv 2410.15483 use "sft" for the runs that are compared
    with SFT followed by DPO, and "chosen" for the runs that are compared with DPO followed by SFT.
    """
    if kind not in KINDS:
        remedy = f"Use one of {', '.join(KINDS)}."
        raise InputError("there is no such reference", field="kind", value=kind, remedy=remedy)
    if kind == "base":
        return model.path
    given = rows.of_chosen() if kind == "chosen" else rows
    adapted = config.lora is not None or models.has_adapter_files(model.path)
    policy, tokenizer = models.load(
        model, seed=config.seed, frozen_bf16=adapted and config.precision == "bf16"
    )
    trainer = JointTrainer(
        policy,
        tokenizer,
        schedule=Alright(lam=0.0),
        config=replace(config, reference="initial", reference_mode="cached"),
        output=output,
        **vars(given),
    )
    trainer.train(progress=progress)
    return str(Path(output) / "model")
