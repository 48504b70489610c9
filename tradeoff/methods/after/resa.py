"""An adapter that is trained behind a sparse autoencoder of another policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from tradeoff.methods.after.base import After
from tradeoff.methods.hooks import Moment
from tradeoff.schedules import FORWARD
from tradeoff.settings import NotNegative, Positive, Within


@dataclass(frozen=True, kw_only=True)
class Resa(After):
    """After the last stage, the policy before it gets an adapter, and is what is kept.

    The trained policy is the source, and the policy with which the last stage began is the target.
    A sparse autoencoder learns the outputs of one of the source's hidden layers, and is put behind
    this layer of the target. Adapters of low rank beside all matrices then learn to undo what it
    changes: ``KL(target || target with both)`` falls, on the prompts of the demonstrations, without
    responses and pairs. Without the autoencoder again, the target and its adapters are the end of
    the run. Records within the run show the source.

    Attributes
    ----------
    share
        Updates of the autoencoder, and as many of the adapters, as a share of those of the run. At
        0 the end is the target.
    layer
        Number of the hidden layer, from 0; the last one if there are fewer.
    dictionary
        Units of the autoencoder for each unit of the layer, positive.
    sparsity
        Weight, not negative, of the mean unit beside the mean squared error.
    rank, strength
        Of the adapters ``strength * B A``.
    rate
        Step size of Adam for both, positive.

    Notes
    -----
    Card S13. Published adapters have rank 32 and the strength 4. That source and target are the
    policies after and before the last stage is ours, and so is the autoencoder: rectified units,
    without a bias of their input. Its updates count as a gradient of the network, and those of the
    adapters as one and a forward pass.
    """

    name: ClassVar[str] = "resa"
    title: ClassVar[str] = "Resa"
    source: ClassVar[str] = "arXiv 2506.09967"
    staged: ClassVar[bool] = True
    share: NotNegative = 0.5
    layer: Annotated[int, Within(0, 1000)] = 0
    dictionary: Annotated[int, Within(1, 1024)] = 2
    sparsity: NotNegative = 0.01
    rank: Annotated[int, Within(1, 4096)] = 4
    strength: Positive = 4.0
    rate: Positive = 0.01

    def costs(self, moment: Moment) -> tuple[float, float]:
        return self.share * (2 + FORWARD), 0.0

    def unsupported(self, scale: str) -> str | None:
        if scale == "convex":
            return "the policy has no hidden layers"
        if scale == "llm":
            return "an autoencoder for each model is out of proportion"
        return super().unsupported(scale)
