"""Rules that decide which objective each update follows.

A schedule is a small frozen dataclass. Its :meth:`Schedule.plan` describes every update of a run of
given length. A plan has one of five rules: draw an objective at random, follow both, follow the one
with the larger weighted gap, draw that one the likelier, or follow preferences while the SFT loss
is within a limit. These are enough for every method of arXiv 2410.15483 and for ours. The same
schedule object drives compiled kernels, small networks and language models.

Throughout, index 0 is SFT and index 1 is the preference objective, and ``lam`` is the weight of
the PREFERENCE objective.
"""

from tradeoff.schedules.adaptive import Constrained, Maxright, SmoothMaxright
from tradeoff.schedules.base import Schedule
from tradeoff.schedules.joint import Alright, Mix
from tradeoff.schedules.moving import MovingMix
from tradeoff.schedules.ordered import Alternation, Evenly
from tradeoff.schedules.plan import (
    FORWARD,
    OBJECTIVES,
    PREFERENCE,
    SFT,
    Decay,
    GapValues,
    Plan,
    Rule,
    check_decay,
    stage_lengths,
    step_shares,
)
from tradeoff.schedules.registry import SCHEDULES, from_dict
from tradeoff.schedules.stages import Rounds, Sequential, Stages

__all__ = [
    "FORWARD",
    "OBJECTIVES",
    "PREFERENCE",
    "SCHEDULES",
    "SFT",
    "Alright",
    "Alternation",
    "Constrained",
    "Decay",
    "Evenly",
    "GapValues",
    "Maxright",
    "Mix",
    "MovingMix",
    "Plan",
    "Rounds",
    "Rule",
    "Schedule",
    "Sequential",
    "SmoothMaxright",
    "Stages",
    "check_decay",
    "from_dict",
    "stage_lengths",
    "step_shares",
]
