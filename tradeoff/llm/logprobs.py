"""Log-probabilities of responses under a causal language model.

Training, reference and evaluation all use :class:`Policy`. It scores only completion tokens. Prompt
positions never reach the output layer, whose logits over the whole vocabulary are the largest
tensor of an update. The other positions go through the output layer in chunks.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tradeoff.llm.batches import Batch
from tradeoff.llm.models import below_adapters

# Elements of a chunk of logits: enough to keep a device busy, few compared with activations.
_CHUNK = {"cuda": 2**26, "cpu": 2**22}


class Policy(nn.Module):
    """A causal language model as a map from token sequences to token log-probabilities.

    Parameters
    ----------
    model
        A causal model of transformers, plain or with adapters of peft.

    Notes
    -----
    If the model's output layer is one linear map, it is applied in chunks. If the model does more
    there (soft caps, scales, adapters), its own logits are used.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # accelerate reads from this which blocks FSDP may shard.
        self._no_split_modules = getattr(below_adapters(model), "_no_split_modules", None)
        self._linear_head = _has_linear_head(model)
        self.experts: int | None = None
        """Number of experts for each token, if passes should keep their load-balancing loss."""
        self.balance: Tensor | None = None
        """Load-balancing loss of the latest pass."""

    @property
    def attention(self) -> str:
        """Name of the attention implementation."""
        return str(below_adapters(self.model).config._attn_implementation)

    @property
    def window(self) -> int | None:
        """Sliding window of the model, in tokens; ``None``: no window."""
        settings = below_adapters(self.model).config.get_text_config()
        return getattr(settings, "sliding_window", None) or None  # 0 is none, as in Qwen2-MoE

    def forward(self, batch: Batch, greedy: bool = False) -> Tensor:
        """Log pi of each completion token given all tokens before it, in nats.

        Parameters
        ----------
        batch
            The sequences. With second tokens, their embeddings are mixed with those of the tokens.
        greedy
            Return the likeliest token at each of these places instead.

        Returns
        -------
        Tensor, shape (M,)
            Values in the order of ``batch.labels``; float32, or float64 for a float64 model.
            Token ids if `greedy`.
        """
        inputs: dict[str, Any] = batch.inputs(self.attention) | {"use_cache": False}
        if self.experts is not None:
            inputs["output_router_logits"] = True
        base = below_adapters(self.model)
        if batch.others is not None:
            embed, tokens = base.get_input_embeddings(), inputs.pop("input_ids")
            own = embed(tokens)
            inputs["inputs_embeds"] = own + batch.fed_back * (embed(batch.others) - own)
        if self._linear_head:
            backbone = getattr(base, base.base_model_prefix)
            found = backbone(**inputs)
            self._keep_balance(found, batch)
            hidden = found.last_hidden_state
            head = base.get_output_embeddings()
            rows = hidden.flatten(0, 1)[batch.select]
            if greedy:
                parts = (rows[part] for part in _chunks(rows, head.weight))
                return torch.cat([head(part).argmax(1) for part in parts])
            return token_log_probs(rows, head.weight, head.bias, batch.labels)
        found = self.model(**inputs)
        self._keep_balance(found, batch)
        rows = found.logits.flatten(0, 1)[batch.select]
        if greedy:
            return rows.argmax(1)
        return _gather(rows, batch.labels)

    def _keep_balance(self, found: Any, batch: Batch) -> None:
        # Evaluations, and a reference that is the policy itself, keep no loss.
        if self.experts is not None and torch.is_grad_enabled():
            from tradeoff.llm.routers import balance, used

            self.balance = balance(tuple(found.router_logits), used(batch), self.experts)

    def responses(self, batch: Batch) -> Float[Tensor, " S"]:
        """Log pi(y|x) of each response of the batch: the sum over its tokens."""
        return batch.per_response(self(batch))


def token_log_probs(
    hidden: Float[Tensor, "M d"],
    weight: Float[Tensor, "V d"],
    bias: Float[Tensor, " V"] | None,
    labels: Int[Tensor, " M"],
) -> Float[Tensor, " M"]:
    """Compute ``log_softmax(hidden @ weight.T + bias)`` at the labels, chunk by chunk.

    Parameters
    ----------
    hidden
        Last hidden states of the positions that predict a label.
    weight, bias
        Weight and bias of the output layer.
    labels
        Token ids.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(kind), weight.to(kind)
        bias = None if bias is None else bias.to(kind)
    return _TokenLogProbs.apply(hidden, weight, bias, labels)


class _TokenLogProbs(torch.autograd.Function):
    """Log-probabilities with the logits of only one chunk in memory.

    If the output layer is frozen, as with adapters, the gradient of each token in its hidden state
    is computed in the forward pass, so nothing is computed twice. Otherwise the logits of a chunk
    are computed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        found = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] and not trained else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(hidden, weight):
                log_probs = _log_softmax(hidden[rows], weight, bias, wide)
                found[rows] = log_probs.gather(1, labels[rows, None])[:, 0]
                if slope is not None:
                    slope[rows] = _slope(log_probs, labels[rows]).to(hidden.dtype) @ weight
        if slope is not None:
            ctx.save_for_backward(slope)
        else:
            ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.frozen = not trained
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        if ctx.frozen:
            (slope,) = ctx.saved_tensors
            return gradient[:, None].to(slope.dtype) * slope, None, None, None
        hidden, weight, bias, labels = ctx.saved_tensors
        wide = gradient.dtype
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device)
        to_bias = None if bias is None else torch.zeros(bias.shape, dtype=wide, device=bias.device)
        for rows in _chunks(hidden, weight):
            log_probs = _log_softmax(hidden[rows], weight, bias, wide)
            slope = _slope(log_probs, labels[rows]).mul_(gradient[rows, None])
            if to_bias is not None:
                to_bias += slope.sum(0)
            slope = slope.to(hidden.dtype)
            to_hidden[rows] = slope @ weight
            to_weight += slope.T @ hidden[rows]
        bias_gradient = None if to_bias is None else to_bias.to(bias.dtype)
        return to_hidden, to_weight.to(weight.dtype), bias_gradient, None


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = max(1, _CHUNK.get(hidden.device.type, _CHUNK["cuda"]) // len(weight))
    return [slice(start, start + size) for start in range(0, len(hidden), size)]


def _log_softmax(hidden: Tensor, weight: Tensor, bias: Tensor | None, wide: torch.dtype) -> Tensor:
    logits = nn.functional.linear(hidden, weight, bias).to(wide)
    return logits.sub_(torch.logsumexp(logits, dim=1, keepdim=True))


def _slope(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Derivative of each label's log-probability in the logits; it overwrites its argument."""
    slope = log_probs.exp_().neg_()
    return slope.scatter_add_(1, labels[:, None], torch.ones_like(slope[:, :1]))


def _gather(logits: Tensor, labels: Tensor) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).log_softmax(1).gather(1, labels[:, None])[:, 0]


@torch.no_grad()
def _has_linear_head(model: nn.Module) -> bool:
    """Whether logits are a linear map of the backbone's output, tested on four tokens.

    The input of the output layer is scaled up for the test, so that a soft cap shows even if logits
    are small, as with random weights.
    """
    base = below_adapters(model)
    head = base.get_output_embeddings()
    backbone = getattr(base, base.base_model_prefix, None)
    if type(head) is not nn.Linear or backbone is None or backbone is base:
        return False
    training, attention = model.training, base.config._attn_implementation
    model.eval()
    # The model's attention may need a device to which it has not moved yet.
    base.config._attn_implementation = "eager"
    try:
        return _scales_to_logits(base, backbone, head)
    finally:
        base.config._attn_implementation = attention
        model.train(training)


def _scales_to_logits(base: Any, backbone: Any, head: nn.Linear) -> bool:
    """Whether logits are proportional to the input of the output layer."""
    tokens = torch.arange(4, device=head.weight.device)[None] % len(head.weight)
    hidden = backbone(input_ids=tokens, use_cache=False).last_hidden_state
    factor = 1e3 / float(head(hidden).abs().max().clamp_min(1e-6))
    hook = head.register_forward_pre_hook(lambda module, given: (given[0] * factor,))
    expected = base(input_ids=tokens, use_cache=False).logits
    hook.remove()
    found = head(hidden * factor)
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1.0)
