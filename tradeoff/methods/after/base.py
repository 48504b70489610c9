"""The base of what is kept beside the weights while these are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tradeoff.methods.hooks import Hook


@dataclass(frozen=True, kw_only=True)
class After(Hook):
    """Acts after each update; what it gives is evaluated and saved instead of the weights."""

    kind: ClassVar[str] = "after"


@dataclass(frozen=True, kw_only=True)
class LastIterate(After):
    """The weights as they are: the identity of the slot."""

    name: ClassVar[str] = "last"
    title: ClassVar[str] = "last iterate"
