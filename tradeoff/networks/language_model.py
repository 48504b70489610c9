"""A small decoder-only transformer with the architecture of Llama.

Rotary positions, RMS norms before each block, SwiGLU and fused attention. Its parameters have the
names of Llama in transformers (`tradeoff.networks.checkpoints` converts between the two). It has no
buffers and no branches on data, so `torch.func.functional_call` under `torch.vmap` runs a whole
ensemble as one model, see `stack_parameters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tradeoff.errors import InputError
from tradeoff.methods.parameters.added import LATENT
from tradeoff.networks._attention import (
    Attend,
    Cache,
    over_cache,
    over_ragged,
    over_rows,
    rotary_angles,
    spans,
)
from tradeoff.settings import BelowOne, Within, check

Size = Annotated[int, Within(1, 2**24)]


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """The shape of a model.

    Attributes
    ----------
    vocabulary
        Number of tokens.
    width, layers, heads, hidden
        Size of the residual stream, number of blocks, number of attention heads in a block, and
        size of the feed-forward layer. The width must split into heads of even size.
    context
        Longest sequence for users of the exported model; nothing here depends on it.
    tied
        Whether embedding and output layer share one matrix.
    theta, epsilon
        Base of the rotary wavelengths; floor of the RMS norms.
    """

    vocabulary: Size
    width: Size = 64
    layers: Annotated[int, Within(1, 1000)] = 4
    heads: Annotated[int, Within(1, 1000)] = 4
    hidden: Size = 176
    context: Size = 256
    tied: bool = True
    theta: Annotated[float, Within(0, 1e12, "(]")] = 10_000.0
    epsilon: BelowOne = 1e-6

    def __post_init__(self) -> None:
        check(self)
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


class LanguageModel(nn.Module):
    """Next-token logits of token sequences.

    Parameters
    ----------
    config
        Shape of the model.
    seed
        Seed of the initial weights. They are normal with variance one over the number of inputs;
        output layers of each block are divided by the square root of twice the depth; norms are
        one. Llama's constant standard deviation 0.02 suits widths in the thousands; at width 64 it
        costs half the training.
    """

    def __init__(self, config: LanguageModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        # Built on the meta device: the default initialisation would draw from the global generator.
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
        tokens: Int[Tensor, "*batch time"],
        positions: Int[Tensor, "batch time"] | None = None,
        cache: Cache | None = None,
        *,
        starts: Int[Tensor, " starts"] | None = None,
        after: Int[Tensor, " sequences"] | None = None,
        wanted: Int[Tensor, " some"] | None = None,
        others: tuple[Int[Tensor, "*batch time"], float] | None = None,
        factors: Float[Tensor, "*batch time width"] | None = None,
        features: bool = False,
    ) -> Float[Tensor, "*batch scored vocabulary"]:
        """Logits of the token after each position.

        Parameters
        ----------
        tokens
            Rows (batch, time), padded on the right; padding does not change the logits before it.
            With `starts`, packed sequences (time,).
        positions, cache
            For generation, see `tradeoff.networks.generation`: positions of the tokens, and keys
            and values of the tokens before them. By default positions are 0, 1, ... and there is no
            cache.
        starts, after
            On a CPU: the first token of each sequence and, as the last entry, the number of tokens;
            the sequence that each one continues, or -1. See `tradeoff.networks.batches.Ragged`.
        wanted
            Positions to score, all by default. The logits of the others would cost as much as a
            block of a small model.
        others
            Second tokens, and their share in the embeddings that are read.
        factors
            What the embeddings are multiplied by.
        features
            Return the input (*batch, scored, width) of the output layer in place of logits.
        """
        x = self._read(tokens)
        if others is not None:
            second, share = others
            x = x + share * (self._read(second) - x)
        if factors is not None:
            x = x * factors
        attend = self._attend(x, positions, cache, starts, after)
        for index, block in enumerate(self.layers):
            x = block(x, index, attend)
        if wanted is not None:
            x = x[..., wanted, :]
        if features:
            return self.norm(x)
        head = self.embed_tokens if self.config.tied else self.lm_head
        return F.linear(self.norm(x), head.weight)

    def _read(self, tokens: Tensor) -> Tensor:
        """Embeddings of tokens; numbers from the vocabulary's size on stand for latent vectors."""
        latent = getattr(self, LATENT, None)
        if latent is None:
            return self.embed_tokens(tokens)
        return F.embedding(tokens, torch.cat([self.embed_tokens.weight, latent]))

    def cache(self, batch: int, slots: int) -> Cache:
        """Make a zeroed cache for `slots` positions of `batch` sequences, on the same device."""
        c, like = self.config, self.embed_tokens.weight
        shape = (c.layers, batch, c.heads, slots, c.width // c.heads)
        return Cache(like.new_zeros(shape), like.new_zeros(shape))

    def _attend(
        self,
        x: Tensor,
        positions: Tensor | None,
        cache: Cache | None,
        starts: Tensor | None,
        after: Tensor | None,
    ) -> Attend:
        def turn(places: Tensor) -> tuple[Tensor, Tensor]:
            dim = self.config.width // self.config.heads
            angles = rotary_angles(places, dim, self.config.theta)
            return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

        if starts is not None and after is not None:
            longest = int(spans(starts, after).max())
            return over_ragged(*turn(torch.arange(longest)), starts, after)
        if positions is not None and cache is not None:
            return over_cache(*turn(positions), positions, cache)
        return over_rows(*turn(torch.arange(x.shape[-2], device=x.device)))


class _Block(nn.Module):
    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = _Attention(config)
        self.post_attention_layernorm = _norm(config)
        self.mlp = _FeedForward(config)

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layer, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Attention(nn.Module):
    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(config.width, config.width, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(attend(layer, query, key, value).flatten(-2))


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
    mask: Bool[Tensor, "batch time"] | Float[Tensor, "batch time"],
) -> Float[Tensor, " batch"]:
    """Sum the log-probabilities of the masked tokens of each sequence, in nats.

    The sum is in float32 at least, at any precision of the model.

    Parameters
    ----------
    logits
        Output of the model for `tokens`; entry t scores token t + 1.
    tokens
        Tokens that the model read.
    mask
        True at the tokens that count, or their weights. The first token never counts, as nothing
        predicts it.
    """
    scores = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    target = scores.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return ((target - scores.logsumexp(-1)) * mask[:, 1:]).sum(-1)


def stack_parameters(models: Sequence[LanguageModel]) -> dict[str, Tensor]:
    """Stack the parameters of an ensemble, with the member as first axis, as detached copies.

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
