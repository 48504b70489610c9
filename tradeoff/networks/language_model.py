"""A small decoder-only transformer with the architecture of Llama.

Rotary positions, RMS norms before each block, SwiGLU and fused attention. Its parameters carry
the names that Llama has in transformers (`tradeoff.networks.checkpoints` exchanges the two). It
keeps no buffers and decides nothing from data, so `torch.func.functional_call` under `torch.vmap`
runs a whole ensemble of it as one model, see `stack_parameters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tradeoff.errors import InputError
from tradeoff.networks.attention import cached_attention, causal_attention, rotary_angles, rotate


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """The shape of a model.

    Attributes
    ----------
    vocabulary
        Number of tokens.
    width, layers, heads, hidden
        Size of the residual stream, number of blocks, attention heads of each, and size of the
        feed-forward layer. The width must split into heads of even size.
    context
        Longest sequence a user of the exported model should feed; nothing here depends on it.
    tied
        Whether one matrix both embeds tokens and scores the next one.
    theta, epsilon
        Base of the rotary wavelengths; floor of the RMS norms.
    """

    vocabulary: int
    width: int = 64
    layers: int = 4
    heads: int = 4
    hidden: int = 176
    context: int = 256
    tied: bool = True
    theta: float = 10_000.0
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "heads", "hidden", "context"):
            if (value := getattr(self, name)) < 1:
                raise InputError(
                    "a size must be positive", field=name, value=value, remedy="Give 1 or more."
                )
        if self.width % (2 * self.heads):
            raise InputError(
                f"{self.heads} heads of even size do not fill the width",
                field="width",
                value=self.width,
                remedy=f"Use a multiple of {2 * self.heads}.",
            )

    @classmethod
    def preset(cls, name: str, vocabulary: int, **changes: Any) -> LanguageModelConfig:
        """Shape "nano" (0.2 M parameters beside the embedding), "micro" (1 M) or "tiny" (5 M)."""
        if name not in PRESETS:
            raise InputError(
                "unknown preset", field="name", value=name, remedy=f"Use one of {sorted(PRESETS)}."
            )
        return replace(cls(vocabulary=vocabulary, **PRESETS[name]), **changes)


PRESETS: dict[str, dict[str, Any]] = {
    "nano": {"width": 64, "layers": 4, "heads": 4, "hidden": 176},
    "micro": {"width": 128, "layers": 5, "heads": 4, "hidden": 344},
    "tiny": {"width": 256, "layers": 6, "heads": 8, "hidden": 688},
}
"""Sizes by name; parameters outside the embedding: 201 k, 990 k and 4.75 M."""


@dataclass
class Cache:
    """Keys and values of every layer, one slot per position; generation writes into it.

    Attributes
    ----------
    keys, values
        (layers, batch, heads, slots, dim).
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def empty(cls, model: LanguageModel, batch: int, slots: int) -> Cache:
        """Zeroed room for `slots` positions of `batch` sequences, where the parameters live."""
        c, like = model.config, model.embed_tokens.weight
        shape = (c.layers, batch, c.heads, slots, c.width // c.heads)
        return cls(like.new_zeros(shape), like.new_zeros(shape))

    def update(
        self, layer: int, positions: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store (batch, heads, time, dim) at (batch, time) positions; all slots of the layer."""
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        for store, new in ((self.keys, key), (self.values, value)):
            store[layer][rows, :, positions] = new.transpose(1, 2)
        return self.keys[layer], self.values[layer]


class LanguageModel(nn.Module):
    """Next-token logits of token sequences.

    Parameters
    ----------
    config
        Shape of the model.
    seed
        Fixes the initial weights: normal with variance one over the number of inputs, output
        layers of each block scaled down by the square root of twice the depth, norms at one.
        Llama's constant 0.02 suits widths in the thousands; at 64 it costs half the training.
    """

    def __init__(self, config: LanguageModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        # Built without storage: the default initialisation would draw from the global generator.
        with torch.device("meta"):
            self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
            self.layers = nn.ModuleList(_Block(config) for _ in range(config.layers))
            self.norm = _norm(config)
            if not config.tied:
                self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        self.to_empty(device="cpu")
        self._initialise(seed)

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
                continue
            into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
            shrink = (2 * self.config.layers) ** -0.5 if into_stream else 1.0
            parameter.normal_(0.0, shrink * parameter.shape[1] ** -0.5, generator=generator)

    def forward(
        self,
        tokens: Int[Tensor, "batch time"],
        positions: Int[Tensor, "batch time"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch time vocabulary"]:
        """Logits of the token after each position.

        Parameters
        ----------
        tokens
            Padded on the right; padding never reaches the logits of what stands before it.
        positions, cache
            For generation, see `tradeoff.networks.generation`: where the tokens stand, and the
            keys and values of what stands before them. Without them: 0, 1, ... and none.
        """
        c = self.config
        place = torch.arange(tokens.shape[1], device=tokens.device)
        angles = rotary_angles(
            place if positions is None else positions, c.width // c.heads, c.theta
        )
        if positions is not None:
            angles = angles[:, None]
        x = self.embed_tokens(tokens)
        turn = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        for index, block in enumerate(self.layers):
            x = block(x, turn, index, positions, cache)
        head = self.embed_tokens if c.tied else self.lm_head
        return F.linear(self.norm(x), head.weight)


class _Block(nn.Module):
    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = _norm(config)
        self.mlp = _FeedForward(config)

    def forward(self, x: Tensor, *place: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *place)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Attention(nn.Module):
    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(config.width, config.width, bias=False) for _ in range(4)
        )

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        layer: int,
        positions: Tensor | None,
        cache: Cache | None,
    ) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, *turn), rotate(key, *turn)
        if cache is None or positions is None:
            seen = causal_attention(query, key, value)
        else:
            key, value = cache.update(layer, positions, key, value)
            slots = torch.arange(key.shape[-2], device=x.device)
            seen = cached_attention(query, key, value, slots <= positions[..., None])
        return self.o_proj(seen.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (
            nn.Linear(config.width, config.hidden, bias=False) for _ in range(2)
        )
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def _norm(config: LanguageModelConfig) -> nn.RMSNorm:
    return nn.RMSNorm(config.width, eps=config.epsilon)


def response_log_probs(
    logits: Float[Tensor, "batch time vocabulary"],
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, " batch"]:
    """Sum the log-probabilities of the masked tokens of each sequence, in nats.

    In float32 at least, whatever the precision of the model.

    Parameters
    ----------
    logits
        Output of the model for `tokens`: entry t scores token t + 1.
    tokens
        What the model read.
    mask
        Which tokens count. The first one never does: nothing predicts it.
    """
    scores = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    target = scores.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return ((target - scores.logsumexp(-1)) * mask[:, 1:]).sum(-1)


def stack_parameters(models: Sequence[LanguageModel]) -> dict[str, Tensor]:
    """Parameters of an ensemble, with the member as first axis; detached copies.

    Examples
    --------
    >>> config = LanguageModelConfig.preset("nano", vocabulary=10)
    >>> models = [LanguageModel(config, seed) for seed in range(3)]
    >>> def logits(parameters, tokens):
    ...     return torch.func.functional_call(models[0], parameters, (tokens,))
    >>> tokens = torch.zeros(2, 5, dtype=torch.long)
    >>> torch.vmap(logits, in_dims=(0, None))(stack_parameters(models), tokens).shape
    torch.Size([3, 2, 5, 10])
    """
    states = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([s[name].detach() for s in states]) for name in states[0]}
