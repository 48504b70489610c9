"""The published experiments of arXiv 2410.15483, as its official code (XRIGHT) runs them.

All that the scripts of that code say is kept: models, adapters, batches, rates, the budget of 6,000
updates that every method has. Its faults are not, unless they are asked for by name.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from tradeoff.errors import InputError
from tradeoff.llm.config import DataConfig, Defects, Experiment, Lora, ModelConfig, TrainConfig
from tradeoff.schedules import PREFERENCE, SFT, Alright, Maxright, Mix, Schedule, Sequential

_REFRESH = 10
"""Updates between MAXRIGHT's evaluations of both losses, in all scripts."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the scripts set for one model.

    Attributes
    ----------
    path
        Name on the hub.
    rows
        Training rows of (SFT, preference).
    batch
        Rows of an update: those of one device times the devices.
    devices
        As many as the scripts use.
    epochs
        Passes over the rows, of all stages together.
    lora
        Adapters; their scale is 1.
    optima
        Least losses of (SFT, preference), from which MAXRIGHT measures gaps.
    checkpointing
        Whether activations are computed twice to save memory.
    """

    path: str
    rows: tuple[int, int]
    batch: tuple[int, int]
    devices: int
    epochs: int
    lora: Lora
    optima: tuple[float, float]
    checkpointing: bool

    @property
    def steps(self) -> int:
        """Updates of a run; an epoch has as many of either objective."""
        return self.epochs * (self.rows[SFT] // self.batch[SFT])


PUBLISHED = {
    "pythia-1b": Published(
        path="EleutherAI/pythia-1b",
        rows=(24_000, 8_000),
        batch=(24, 8),
        devices=2,
        epochs=6,
        lora=Lora(rank=32, alpha=32, targets=("query_key_value",)),
        optima=(1.4980, 0.0522),
        checkpointing=False,
    ),
    "llama-3-8b": Published(
        path="meta-llama/Meta-Llama-3-8B",
        rows=(24_000, 6_000),
        batch=(16, 4),
        devices=4,
        epochs=4,
        lora=Lora(rank=16, alpha=16, targets=("q_proj", "v_proj")),
        optima=(1.02426, 0.04935),
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
    defects: Literal["none", "all"] = "none",
) -> Experiment:
    """One published run.

    Parameters
    ----------
    model
        A name of :data:`PUBLISHED`.
    schedule
        "sequential", "dpo-sft" (the other order), "mix", "alright", "maxright", or "sft" and
        "dpo": one objective alone, as the optima were found.
    lam
        Weight of the preference objective; of a sequential run, the share of its stage.
    reference
        Folder of the SFT optimum, which is what the run "sft" leaves: the official code compares
        every policy with it, though they start from the base model. "initial" compares with the
        base model instead.
    defects
        "all": with every fault of the official code that :class:`Defects` names, and with
        MAXRIGHT's gaps from the newest batch alone.

    Returns
    -------
    Experiment
        Ready for a :class:`tradeoff.llm.trainer.JointTrainer` or a file.

    Raises
    ------
    InputError
        For an unknown name, or a weight outside [0, 1].

    Examples
    --------
    >>> from tradeoff.llm.xright import xright
    >>> run = xright("pythia-1b", "alright", 0.25)
    >>> run.train.steps, run.train.batch_size, run.train.lora.targets
    (6000, 24, ('query_key_value',))
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
        optima=found.optima,
        precision="bf16",
        gradient_checkpointing=found.checkpointing,
        lora=found.lora,
        evaluate_every=100,
        seed=42,
    )
    if _known("defects", defects, ("none", "all")) == "all":
        train = replace(train, defects=_all(), recent=1.0, layout="padded")
    data = DataConfig(
        sft="vicgalle/alpaca-gpt4",
        preference="Dahoas/rm-hh-rlhf",
        limit=found.rows[SFT],
        preference_limit=found.rows[PREFERENCE],
    )
    return Experiment(
        model=ModelConfig(path=found.path), data=data, schedule=wanted.to_dict(), train=train
    )


def _schedule(name: str, lam: float, found: Published) -> Schedule:
    """The schedule as the official code has it: MAXRIGHT's gradient is not weighted."""
    made: dict[str, Schedule] = {
        "sequential": Sequential(lam=lam, share=1 - lam),
        "dpo-sft": Sequential(lam=lam, first="preference", share=lam),
        "mix": Mix(lam=lam),
        "alright": Alright(lam=lam),
        "maxright": Maxright(lam=lam, refresh=_REFRESH, samples=found.batch[SFT], weighted=False),
        "sft": Sequential(lam=lam, share=1.0),
        "dpo": Sequential(lam=lam, first="preference", share=1.0),
    }
    return made[_known("schedule", name, tuple(made))]


def _all() -> Defects:
    return Defects(**{item.name: True for item in fields(Defects)})


def _known(field: str, value: str, names: tuple[str, ...]) -> str:
    if value not in names:
        remedy = f"Use one of {', '.join(names)}."
        raise InputError("there is no such name", field=field, value=value, remedy=remedy)
    return value
