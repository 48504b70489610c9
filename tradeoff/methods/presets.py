"""Names for parts and schedules with settings of their own: other methods of the literature."""

from __future__ import annotations

from tradeoff.methods.anchors import LearningWithoutForgetting
from tradeoff.methods.gradients import Mgda
from tradeoff.methods.losses import Cpo, DivergenceDpo, Dpo, Rpo, SrftDemonstrations, SrftOwn
from tradeoff.methods.merges.sparse import Ties
from tradeoff.methods.method import Method
from tradeoff.methods.parameters import GradientMemory, TopGradient
from tradeoff.parts import Part
from tradeoff.schedules import (
    Alright,
    Alternation,
    Evenly,
    Mix,
    MovingMix,
    Rounds,
    Sequential,
    SmoothMaxright,
    Stages,
)

PRESETS: dict[str, Method | Part] = {
    "evenly": Method(Evenly()),
    "evenly_budget": Method(Evenly(probability=0.5)),
    "alternation": Method(Alternation()),
    "moving_mix": Method(MovingMix()),
    "replay": Method(Sequential(replay=0.1)),
    "der": Method(
        Sequential(replay=0.1), anchor=LearningWithoutForgetting(direction="logits", weight=0.1)
    ),
    "smooth_maxright": Method(SmoothMaxright()),
    "tracked": Method(Evenly(), parameters=GradientMemory()),
    "cyclic": Method(Rounds(rounds=8, restart=True)),
    "rewind": Method(
        Stages(schedules=(Sequential(), Alright(lam=0.0)), shares=(0.9, 0.1)), name="rewound SFT"
    ),
    "tpo": Method(Mix(), preference=Cpo(alpha=0.0), name="TPO"),
    "srft": Method(Mix(), sft=SrftDemonstrations(), preference=SrftOwn(), name="SRFT"),
    "paft": Method(Sequential(), merge=Ties(keep=0.5), name="PAFT"),
    "mgda_unit": Mgda(scaled="length"),
    "cdpo": Dpo(label_smoothing=0.1),
    "forward_dpo": DivergenceDpo(divergence="forward"),
    "rpo_reg": Rpo(alpha=0.005),
    "green": TopGradient(share=0.45),
}
r"""Methods and parts by name, see :func:`tradeoff.methods.catalogue.find`.

| name | what it is |
| --- | --- |
| evenly, evenly_budget | ALRIGHT with even turns in place of a coin; with half of the turns each |
| alternation | strict turns, with weighted gradients |
| moving_mix | Mix whose weights move there from SFT, CHORD-μ (arXiv 2508.11408) |
| replay | SFT, then preferences with a tenth of replayed demonstrations |
| der | replay, held near the logits that the second stage began with |
| smooth_maxright | a coin, by the smooth Tchebycheff function of the losses |
| tracked | even turns, with a running mean of the gradients of each objective |
| cyclic | eight rounds of SFT and preferences, each begun anew |
| rewind | SFT, preferences, and a last tenth of SFT, each begun anew |
| tpo | demonstrations and pairs without a reference together (arXiv 2405.16681) \* |
| srft | demonstrations and own responses by entropy (arXiv 2506.19767) \* |
| paft | TIES of two branches from one start (arXiv 2406.17923) \* |
| mgda_unit | MGDA of gradients of unit length \* |
| cdpo | DPO with a tenth of its labels taken as flipped |
| forward_dpo | DPO with the forward KL divergence (arXiv 2309.16240) \* |
| rpo_reg | DPO with little SFT on the chosen response (arXiv 2405.16436) \* |
| green | the 45 % of the weights whose gradients are largest (arXiv 2309.13192) |

\* after a second-hand description. Published runs of tpo and rpo_reg have a beta of 0.01; here it
is that of DPO, 0.1.
"""
