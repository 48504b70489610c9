"""Which training rows are used: filters and selections before training."""

from tradeoff.methods.transforms.base import EveryRow, TrainingRows, Transform
from tradeoff.methods.transforms.online import Online, Uds
from tradeoff.methods.transforms.retrieved import Documents, Retrieved
from tradeoff.methods.transforms.written import Prompts, Written
from tradeoff.parts import collected

TRANSFORMS: dict[str, type[Transform]] = collected(__name__, Transform)
"""Parts of the slot by name; a new one is a file in this folder."""

__all__ = [
    "TRANSFORMS",
    "Documents",
    "EveryRow",
    "Online",
    "Prompts",
    "Retrieved",
    "TrainingRows",
    "Transform",
    "Uds",
    "Written",
]
