"""The preference loss that a problem, a task or a trainer has of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tradeoff.errors import InputError
from tradeoff.methods.losses.base import PreferenceLoss
from tradeoff.methods.losses.records import Array, Pairs


@dataclass(frozen=True, kw_only=True)
class Nominal(PreferenceLoss):
    """The loss that is scored: DPO with the beta and the reference of the problem.

    It is the identity of the slot. A trainer of language models takes the loss of its settings.
    """

    name: ClassVar[str] = "nominal"
    title: ClassVar[str] = "DPO"

    def losses(self, pairs: Pairs) -> Array:
        raise InputError(
            "the nominal loss is that of a problem, and has no beta of its own",
            field="preference",
            remedy="Use tradeoff.methods.losses.Dpo with a beta.",
        )
