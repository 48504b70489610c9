"""The published experiments of arXiv 2410.15483, as its official code (XRIGHT) runs them.

The settings are those of its scripts: models, adapters, batches, rates, and the budget of 6,000
updates of every method. The defects of that code are off unless they are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from tradeoff.errors import InputError
from tradeoff.llm.config import DataConfig, Experiment, Lora, ModelConfig, TrainConfig
from tradeoff.llm.defects import Defects
from tradeoff.schedules import PREFERENCE, SFT, Alright, Maxright, Mix, Schedule, Sequential

_REFRESH = 10
"""Number of updates between MAXRIGHT's evaluations of both losses, in all scripts."""
_WARMUP = 0.03
"""Share of warm-up updates, in SFT on chosen responses only."""
Name = TypeVar("Name", bound=str)
Trained = Literal["demonstrations", "chosen"]
"""Rows on which a reference was trained by SFT."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Settings of the scripts for one model.

    Attributes
    ----------
    path
        Name on the hub.
    rows
        Numbers of training rows of (SFT, preference).
    batch
        Rows of an update: rows of one device times the number of devices.
    devices
        Number of devices in the scripts.
    epochs
        Number of passes over the rows, of all stages together.
    lora
        Adapters; their scale is 1.
    optima
        Least losses of (SFT, preference), from which MAXRIGHT measures gaps, by the rows on which
        the reference was trained. The least preference loss depends on the reference.
    checkpointing
        Whether gradient checkpointing is on.
    """

    path: str
    rows: tuple[int, int]
    batch: tuple[int, int]
    devices: int
    epochs: int
    lora: Lora
    optima: dict[Trained, tuple[float, float]]
    checkpointing: bool

    @property
    def steps(self) -> int:
        """Number of updates of a run; an epoch has equally many of both objectives."""
        return self.epochs * (self.rows[SFT] // self.batch[SFT])


PUBLISHED = {
    "pythia-1b": Published(
        path="EleutherAI/pythia-1b",
        rows=(24_000, 8_000),
        batch=(24, 8),
        devices=2,
        epochs=6,
        lora=Lora(rank=32, alpha=32, targets=("query_key_value",)),
        optima={"demonstrations": (1.4980, 0.0522), "chosen": (1.4980, 0.0647)},
        checkpointing=False,
    ),
    "llama-3-8b": Published(
        path="meta-llama/Meta-Llama-3-8B",
        rows=(24_000, 6_000),
        batch=(16, 4),
        devices=4,
        epochs=4,
        lora=Lora(rank=16, alpha=16, targets=("q_proj", "v_proj")),
        optima={"demonstrations": (1.02426, 0.04935)},
        checkpointing=True,
    ),
}
"""Settings by model, from ``examples/scripts`` of the official code."""


def xright(
    model: str,
    schedule: str,
    lam: float = 0.5,
    *,
    reference: str = "initial",
    trained_on: Trained | None = None,
    defects: Literal["none", "all"] = "none",
) -> Experiment:
    """Settings of one published run.

    In the official code every policy starts from the base model, but its reference was trained
    first. The reference depends on the sequential order with which a run is compared: for SFT
    followed by DPO it is the SFT optimum, and for DPO followed by SFT it is SFT on the chosen
    responses of the pairs. The runs "sft" and "sft-chosen" train these references.

    Parameters
    ----------
    model
        A key of :data:`PUBLISHED`.
    schedule
        "sequential" (SFT, then DPO), "dpo-sft", "mix", "alright" or "maxright"; or "sft",
        "sft-chosen" or "dpo": one objective alone, as references and optima were found.
    lam
        Weight of the preference objective; in a sequential run, the share of its stage.
    reference
        Folder of the reference, which the run "sft" or "sft-chosen" writes. "initial" compares with
        the base model, which no script does.
    trained_on
        The rows on which the reference was trained: "demonstrations" or the "chosen" responses.
        They determine the least preference loss for MAXRIGHT. The default is that of the scripts:
        "chosen" for "dpo-sft" if the model has such a run, "demonstrations" for all others.
    defects
        "all": with every defect of the official code in :class:`Defects`, and with MAXRIGHT's gaps
        from the newest batch alone.

    Returns
    -------
    Experiment
        Ready for a :class:`tradeoff.llm.trainer.JointTrainer` or a file.

    Raises
    ------
    InputError
        For an unknown name, a weight outside [0, 1], or a reference that no script of the model
        trains.

    Notes
    -----
    The script of "sft-chosen" lets the rate fall along a cosine to a tenth of its start; ours
    falls to zero. For Llama-3-8B the joint scripts name an SFT optimum of four epochs, while the
    script that trains one stops after a single epoch; here "sft" has four.

    Examples
    --------
    >>> from tradeoff.llm.xright import xright
    >>> run = xright("pythia-1b", "alright", 0.25)
    >>> run.train.steps, run.train.batch_size, run.train.lora.targets
    (6000, 24, ('query_key_value',))
    >>> xright("pythia-1b", "maxright", trained_on="chosen").train.optima
    (1.498, 0.0647)
    """
    found = PUBLISHED.get(_known("model", model, tuple(PUBLISHED)))
    assert found is not None
    wanted = _schedule(schedule, lam, found)
    train = TrainConfig(
        steps=found.steps,
        batch_size=found.batch[SFT],
        preference_batch_size=found.batch[PREFERENCE],
        rows_per_forward=found.batch[PREFERENCE] // found.devices,
        reference=reference,
        optima=_optima(found, schedule, trained_on),
        precision="bf16",
        gradient_checkpointing=found.checkpointing,
        lora=found.lora,
        evaluate_every=100,
        seed=42,
    )
    if _known("defects", defects, ("none", "all")) == "all":
        train = replace(train, defects=Defects.everything(), recent=1.0, layout="padded")
    data = DataConfig(
        sft="vicgalle/alpaca-gpt4",
        preference="Dahoas/rm-hh-rlhf",
        limit=found.rows[SFT],
        preference_limit=found.rows[PREFERENCE],
    )
    if schedule == "sft-chosen":
        data, train = replace(data, sft="chosen"), _halved(train, found.steps)
    return Experiment(
        model=ModelConfig(path=found.path), data=data, schedule=wanted.to_dict(), train=train
    )


def _optima(found: Published, schedule: str, trained_on: Trained | None) -> tuple[float, float]:
    """Least losses with the requested reference, or with that of the scripts."""
    if trained_on is None:
        of_order = schedule == "dpo-sft" and "chosen" in found.optima
        trained_on = "chosen" if of_order else "demonstrations"
    return found.optima[_known("trained_on", trained_on, tuple(found.optima))]


def _halved(train: TrainConfig, steps: int) -> TrainConfig:
    """SFT on chosen responses: half as many rows in twice as many updates, with a falling rate."""
    warmup = math.ceil(_WARMUP * 2 * steps)
    return replace(
        train, steps=2 * steps, batch_size=train.batch_size // 2, decay="cosine", warmup=warmup
    )


def _schedule(name: str, lam: float, found: Published) -> Schedule:
    """The schedule of the official code, in which MAXRIGHT's gradient is not weighted."""
    made: dict[str, Schedule] = {
        "sequential": Sequential(lam=lam, share=1 - lam),
        "dpo-sft": Sequential(lam=lam, first="preference", share=lam),
        "mix": Mix(lam=lam),
        "alright": Alright(lam=lam),
        "maxright": Maxright(lam=lam, refresh=_REFRESH, samples=found.batch[SFT], weighted=False),
        "sft": Sequential(lam=lam, share=1.0),
        "sft-chosen": Sequential(lam=lam, share=1.0),
        "dpo": Sequential(lam=lam, first="preference", share=1.0),
    }
    return made[_known("schedule", name, tuple(made))]


def _known(field: str, value: Name, names: tuple[Name, ...]) -> Name:
    if value not in names:
        remedy = f"Use one of {', '.join(names)}."
        raise InputError("there is no such name", field=field, value=value, remedy=remedy)
    return value
