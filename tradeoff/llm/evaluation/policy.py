"""A model folder made ready to be scored: weights on their device, tokenizer, settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tradeoff.errors import InputError
from tradeoff.llm import models, setup
from tradeoff.llm.config import ModelConfig, TrainConfig
from tradeoff.llm.encoding import check_tokenizer, require_end
from tradeoff.llm.logprobs import Policy
from tradeoff.llm.scoring import Scorer


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy to evaluate, or to compare with.

    Attributes
    ----------
    scorer
        What training measures held-out losses with; its config gives layout, precision and the
        preference loss.
    tokenizer
        Of the model.
    name
        Where it came from.
    """

    scorer: Scorer
    tokenizer: Any
    name: str

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, config: TrainConfig | None = None, name: str = "model"
    ) -> LoadedPolicy:
        """Make a causal model of transformers ready; it moves to the device, else stays as it is.

        Raises
        ------
        InputError
            If tokenizer and model do not fit together.
        """
        config = config or TrainConfig()
        check_tokenizer(tokenizer, model.get_input_embeddings().num_embeddings, False)
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
        """Where it runs."""
        return self.scorer.accelerator.device

    @property
    def max_length(self) -> int:
        """Most tokens of a sequence: of the settings, or of the model if it has fewer."""
        return longest(self.model.config, self.scorer.config)


@dataclass(frozen=True)
class Outline:
    """What a model's folder tells without its weights: enough to lay rows out and check them.

    Attributes
    ----------
    tokenizer, max_length, name
        As those of `LoadedPolicy`.
    """

    tokenizer: Any
    max_length: int
    name: str


def outline(model: str | ModelConfig | LoadedPolicy, config: TrainConfig) -> Outline:
    """The outline of what `load` would read, or of what it has read.

    Raises
    ------
    InputError
        If there is no configuration of a model, or no tokenizer with an end token.
    """
    if isinstance(model, LoadedPolicy):
        return Outline(model.tokenizer, model.max_length, model.name)
    settings = model if isinstance(model, ModelConfig) else ModelConfig(path=model)
    found, tokenizer = models.without_weights(settings.path)
    tokenizer = models.with_overrides(tokenizer, settings)
    require_end(tokenizer)
    return Outline(tokenizer, longest(found, config), settings.path)


def compared(policy: LoadedPolicy | Outline, reference: LoadedPolicy | Outline) -> Outline:
    """How rows are laid out that both score: by the policy's tokenizer, of lengths both allow.

    Raises
    ------
    InputError
        If the reference's tokenizer gives other ids to the same tokens.
    """
    check_same_tokens(policy, reference.tokenizer, reference.name)
    shorter = min(policy.max_length, reference.max_length)
    return Outline(policy.tokenizer, shorter, policy.name)


def longest(found: Any, config: TrainConfig) -> int:
    """Most tokens of a sequence, by the settings and by a model's configuration `found`."""
    own = getattr(found.get_text_config(), "max_position_embeddings", None)
    return min(config.max_length, own or config.max_length)


def load(path: str | Path | ModelConfig, config: TrainConfig | None = None) -> LoadedPolicy:
    """Read a model folder, the output folder of a training run, or a hub name.

    Parameters
    ----------
    path
        Also a folder of adapters, whose base model is then loaded with them; or settings that say
        how it is loaded.
    config
        Settings of scoring; the defaults of training when not given.

    Raises
    ------
    InputError
        If there is no causal model with a tokenizer.
    """
    config = config or TrainConfig()
    settings = path if isinstance(path, ModelConfig) else ModelConfig(path=str(path))
    found = models.load(settings, frozen_bf16=config.precision == "bf16")
    return LoadedPolicy.of(*found, config, settings.path)


def check_same_tokens(policy: LoadedPolicy | Outline, tokenizer: Any, reference: str) -> None:
    """An `InputError` unless the reference's tokenizer gives the same ids to the same tokens."""
    if policy.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"its vocabulary differs from that of {policy.name}, so log-probabilities of the same "
            "tokens cannot be compared",
            field="reference",
            value=reference,
            remedy="Compare with a model that has the same tokenizer.",
        )
