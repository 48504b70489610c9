"""A loaded policy for evaluation: weights on their device, tokenizer, settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tradeoff.errors import InputError
from tradeoff.llm import models, setup
from tradeoff.llm._encoding import check_tokenizer, require_end
from tradeoff.llm._scorer import Scorer
from tradeoff.llm.config import ModelConfig, TrainConfig
from tradeoff.llm.logprobs import Policy


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy to evaluate, or a reference to compare with.

    Attributes
    ----------
    scorer
        The scorer of held-out losses that training also uses; its config gives layout, precision
        and the preference loss.
    tokenizer
        Tokenizer of the model.
    name
        Source of the model.
    """

    scorer: Scorer
    tokenizer: Any
    name: str

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, config: TrainConfig | None = None, name: str = "model"
    ) -> LoadedPolicy:
        """Wrap a causal model of transformers, which moves to the device.

        Raises
        ------
        InputError
            If tokenizer and model do not fit together.
        """
        config = config or TrainConfig()
        check_tokenizer(tokenizer, models.vocabulary(model), False)
        world = setup.accelerator(config, None)
        policy = Policy(model).to(world.device)
        return cls(Scorer(policy, config, setup.padding(tokenizer), world), tokenizer, name)

    @property
    def policy(self) -> Policy:
        """The map from token sequences to log-probabilities."""
        assert isinstance(self.scorer.policy, Policy)
        return self.scorer.policy

    @property
    def model(self) -> Any:
        """The model of transformers."""
        return self.policy.model

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.scorer.accelerator.device

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens: that of the settings, or the model's if it is shorter."""
        return longest(self.model.config, self.scorer.config)


@dataclass(frozen=True)
class Outline:
    """A model without its weights: enough to tokenise and check rows.

    Attributes
    ----------
    tokenizer, max_length, name
        As in `LoadedPolicy`.
    """

    tokenizer: Any
    max_length: int
    name: str


def outline(model: str | ModelConfig | LoadedPolicy, config: TrainConfig) -> Outline:
    """The outline of a model that `load` would read, or has read.

    Raises
    ------
    InputError
        If there is no configuration of a model or no tokenizer with an end token.
    """
    if isinstance(model, LoadedPolicy):
        return Outline(model.tokenizer, model.max_length, model.name)
    settings = model if isinstance(model, ModelConfig) else ModelConfig(path=model)
    found, tokenizer = models.without_weights(settings.path)
    tokenizer = models.with_overrides(tokenizer, settings)
    require_end(tokenizer)
    return Outline(tokenizer, longest(found, config), settings.path)


def compared(policy: LoadedPolicy | Outline, reference: LoadedPolicy | Outline) -> Outline:
    """Outline for rows that both models score: the policy's tokenizer, the shorter longest length.

    Raises
    ------
    InputError
        If the reference's tokenizer has other ids for the same tokens.
    """
    check_same_tokens(policy, reference.tokenizer, reference.name)
    shorter = min(policy.max_length, reference.max_length)
    return Outline(policy.tokenizer, shorter, policy.name)


def longest(found: Any, config: TrainConfig) -> int:
    """Longest sequence in tokens, by the settings and by a model's configuration `found`."""
    own = models.context(found)
    return min(config.max_length, own or config.max_length)


def load(path: str | Path | ModelConfig, config: TrainConfig | None = None) -> LoadedPolicy:
    """Read a model folder, the output folder of a training run, or a hub name.

    Parameters
    ----------
    path
        The folder or name. A folder of adapters is loaded with its base model. Settings may also
        say how the model is loaded.
    config
        Settings of scoring; by default those of training.

    Raises
    ------
    InputError
        If no causal model with a tokenizer is found.
    """
    config = config or TrainConfig()
    settings = path if isinstance(path, ModelConfig) else ModelConfig(path=str(path))
    found = models.load(settings, frozen_bf16=config.precision == "bf16")
    return LoadedPolicy.of(*found, config, settings.path)


def check_same_tokens(policy: LoadedPolicy | Outline, tokenizer: Any, reference: str) -> None:
    """Raise an `InputError` unless the reference's tokenizer has the same token ids."""
    if policy.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"its vocabulary differs from that of {policy.name}, so log-probabilities of the same "
            "tokens cannot be compared",
            field="reference",
            value=reference,
            remedy="Compare with a model that has the same tokenizer.",
        )
