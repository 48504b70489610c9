"""Losses of demonstrations and of pairs, written once for all scales.

A loss is a small frozen record of its hyper-parameters. It maps log-probabilities of responses, as
numpy arrays or torch tensors, to one loss each.
"""

from tradeoff.methods.losses.base import MarginLoss, PreferenceLoss, SftLoss
from tradeoff.methods.losses.batches import Aot, AotUnpaired
from tradeoff.methods.losses.demonstrations import (
    Chord,
    Dft,
    ImportanceSft,
    Luffy,
    Nll,
    Poft,
    Uft,
    Weighted,
)
from tradeoff.methods.losses.divergences import Asft, Kto
from tradeoff.methods.losses.margins import (
    DiscoPop,
    Dpo,
    DpoPerToken,
    Exo,
    Hinge,
    Ipo,
    RobustDpo,
)
from tradeoff.methods.losses.nominal import Nominal
from tradeoff.methods.losses.ratios import (
    ApoDown,
    ApoZero,
    Bco,
    CalDpo,
    DivergenceDpo,
    DpoPositive,
    DpoShift,
    LengthDpo,
    Nca,
    Sppo,
)
from tradeoff.methods.losses.records import Pairs, Responses
from tradeoff.methods.losses.slopes import initial_pull, pair_slopes, sft_slopes
from tradeoff.methods.losses.with_sft import AlphaPo, Cpo, Orpo, Rpo, SimPo, Slic

SFT_LOSSES: dict[str, type[SftLoss]] = {
    cls.name: cls for cls in (Nll, Dft, Chord, Luffy, ImportanceSft, Uft, Poft, Asft)
}
"""Losses of demonstrations by name; a new one is a class and a place in this row."""

PREFERENCE_LOSSES: dict[str, type[PreferenceLoss]] = {
    cls.name: cls
    for cls in (
        *(Nominal, Dpo, DpoPerToken, RobustDpo, Hinge, Ipo, Exo, DiscoPop),
        *(Nca, Bco, ApoZero, ApoDown, Sppo, CalDpo, DpoPositive, DpoShift),
        *(DivergenceDpo, LengthDpo, SimPo, AlphaPo, Cpo, Rpo, Slic, Orpo, Aot, AotUnpaired, Kto),
    )
}
"""Losses of pairs by name, which is TRL's where TRL has it."""

__all__ = [
    "PREFERENCE_LOSSES",
    "SFT_LOSSES",
    "AlphaPo",
    "Aot",
    "AotUnpaired",
    "ApoDown",
    "ApoZero",
    "Asft",
    "Bco",
    "CalDpo",
    "Chord",
    "Cpo",
    "Dft",
    "DiscoPop",
    "DivergenceDpo",
    "Dpo",
    "DpoPerToken",
    "DpoPositive",
    "DpoShift",
    "Exo",
    "Hinge",
    "ImportanceSft",
    "Ipo",
    "Kto",
    "LengthDpo",
    "Luffy",
    "MarginLoss",
    "Nca",
    "Nll",
    "Nominal",
    "Orpo",
    "Pairs",
    "Poft",
    "PreferenceLoss",
    "Responses",
    "RobustDpo",
    "Rpo",
    "SftLoss",
    "SimPo",
    "Slic",
    "Sppo",
    "Uft",
    "Weighted",
    "initial_pull",
    "pair_slopes",
    "sft_slopes",
]
