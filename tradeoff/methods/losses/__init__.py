"""Losses of demonstrations and of pairs, written once for all scales.

A loss is a small frozen record of its hyper-parameters. It maps log-probabilities of responses, as
numpy arrays or torch tensors, to one loss each.
"""

from tradeoff.methods.losses.base import MarginLoss, PreferenceLoss, SftLoss, TokenWeighted
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
from tradeoff.methods.losses.desensitised import LdDpo
from tradeoff.methods.losses.divergences import AnchoredDpo, Asft, Kto, Tdpo, Wpo
from tradeoff.methods.losses.groups import Egpo, Grouped, Grpo, SemanticReward
from tradeoff.methods.losses.imitation import (
    ExpectedReward,
    FaultAware,
    GatedSft,
    Mpo,
    RewardWeighted,
    Ulma,
)
from tradeoff.methods.losses.inputs import IntuitiveSft, MaskedThought
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
from tradeoff.methods.losses.online import BestAgainstWorst, OnlineDpo, Xpo
from tradeoff.methods.losses.proximal import OneTokenRollout, ProximalSft
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
from tradeoff.methods.losses.records import Pairs, ResponseGroup, Responses
from tradeoff.methods.losses.rollouts import HintedRollouts, PrefixRft, Rollouts
from tradeoff.methods.losses.scaled import Adpo, AlphaDpo, Modpo, MovingReferenceDpo, UnitDpo
from tradeoff.methods.losses.single_stage import SrftDemonstrations, SrftOwn
from tradeoff.methods.losses.slopes import group_slopes, initial_pull, pair_slopes, sft_slopes
from tradeoff.methods.losses.token_classes import RationaleSft, TlTraining
from tradeoff.methods.losses.with_sft import AlphaPo, Cpo, Orpo, Rpo, SimPo, Slic
from tradeoff.parts import collected

SFT_LOSSES: dict[str, type[SftLoss]] = collected(__name__, SftLoss)  # type: ignore[type-abstract]
"""Losses of demonstrations by name; a new one is a file in this folder."""

PREFERENCE_LOSSES: dict[str, type[PreferenceLoss]] = collected(__name__, PreferenceLoss)  # type: ignore[type-abstract]
"""Losses of pairs by name, which is TRL's where TRL has it; a new one is a file in this folder."""

__all__ = [
    "PREFERENCE_LOSSES",
    "SFT_LOSSES",
    "Adpo",
    "AlphaDpo",
    "AlphaPo",
    "AnchoredDpo",
    "Aot",
    "AotUnpaired",
    "ApoDown",
    "ApoZero",
    "Asft",
    "Bco",
    "BestAgainstWorst",
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
    "Egpo",
    "Exo",
    "ExpectedReward",
    "FaultAware",
    "GatedSft",
    "Grouped",
    "Grpo",
    "Hinge",
    "HintedRollouts",
    "ImportanceSft",
    "IntuitiveSft",
    "Ipo",
    "Kto",
    "LdDpo",
    "LengthDpo",
    "Luffy",
    "MarginLoss",
    "MaskedThought",
    "Modpo",
    "MovingReferenceDpo",
    "Mpo",
    "Nca",
    "Nll",
    "Nominal",
    "OneTokenRollout",
    "OnlineDpo",
    "Orpo",
    "Pairs",
    "Poft",
    "PreferenceLoss",
    "PrefixRft",
    "ProximalSft",
    "RationaleSft",
    "ResponseGroup",
    "Responses",
    "RewardWeighted",
    "RobustDpo",
    "Rollouts",
    "Rpo",
    "SemanticReward",
    "SftLoss",
    "SimPo",
    "Slic",
    "Sppo",
    "SrftDemonstrations",
    "SrftOwn",
    "Tdpo",
    "TlTraining",
    "TokenWeighted",
    "Uft",
    "Ulma",
    "UnitDpo",
    "Weighted",
    "Wpo",
    "Xpo",
    "group_slopes",
    "initial_pull",
    "pair_slopes",
    "sft_slopes",
]
