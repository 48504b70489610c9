"""What methods add to a language model: experts beside its matrices, and a small network.

Hooks of the model's modules do it, so that the model itself knows nothing of what is added. The
names of the parameters tell what there is, see `tradeoff.methods.parameters.added`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tradeoff.methods.parameters.added import SHIFT, SIDE, UP, is_added
from tradeoff.networks.language_model import LanguageModel
from tradeoff.networks.policies import HEAD, expert_share, with_experts

MATRIX = ".weight"
Params = Mapping[str, Tensor]


def functional_call(
    model: LanguageModel,
    params: dict[str, Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
) -> Tensor:
    """As that of ``torch.func``, with what the names of the parameters say is added."""
    own, added = _parted(params)
    hooks = _attached(model, added) if added else []
    try:
        found: Tensor = torch.func.functional_call(model, own, args, kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def load(model: LanguageModel, params: Params) -> None:
    """Give a model the parameters of one run, for good, with what is added to it."""
    own, added = _parted(params)
    model.load_state_dict(own)
    _attached(model, added)


def router_shares(
    model: LanguageModel, params: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Float[Tensor, "*tokens E"]]:
    """Shares of the experts beside each matrix, for each token that is read."""
    found: dict[str, Tensor] = {}

    def note(name: str, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        found[name] = expert_share(params, name, given[0])

    names = [name.removesuffix(UP) for name in params if name.endswith(UP)]
    hooks = [_of(model, name).register_forward_pre_hook(partial(note, name)) for name in names]
    try:
        functional_call(model, params, args, kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[name] for name in names]


def _parted(params: Params) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters of the model itself, and those that are added."""
    added = {name: value for name, value in params.items() if is_added(name)}
    return {name: value for name, value in params.items() if name not in added}, added


def _of(model: LanguageModel, name: str) -> nn.Module:
    return model.get_submodule(name.removesuffix(MATRIX))


def _attached(model: LanguageModel, added: Params) -> list[Any]:
    """Hooks that add to what modules give, until they are removed."""
    hooks: list[Any] = []
    for name in (name.removesuffix(UP) for name in added if name.endswith(UP)):

        def more(
            module: nn.Module, given: tuple[Tensor, ...], found: Tensor, name: str = name
        ) -> Tensor:
            return with_experts(added, name, given[0], found)

        hooks.append(_of(model, name).register_forward_hook(more))
    if SIDE + HEAD not in added:
        return hooks
    states: dict[int, Tensor] = {}
    modules = [*model.layers, model.norm]

    def read(module: nn.Module, given: tuple[Any, ...], layer: int) -> None:
        states[layer] = given[0]

    def beside(
        module: LanguageModel, given: tuple[Any, ...], settings: dict[str, Any], found: Tensor
    ) -> Tensor:
        if settings.get("features", False):
            return found
        found = found + _side_logits(added, states, settings.get("wanted"))
        if SHIFT not in added:
            return found
        return found + F.linear(module.norm(states[len(modules) - 1]), added[SHIFT])

    for layer, each in enumerate(modules):
        hooks.append(each.register_forward_pre_hook(partial(read, layer=layer)))
    return [*hooks, model.register_forward_hook(beside, with_kwargs=True)]


def _side_logits(added: Params, states: Mapping[int, Tensor], wanted: Tensor | None) -> Tensor:
    """Logits of the small network, which reads the states of the model between its blocks.

    The last state is there at the places that are wanted alone.
    """
    side: Tensor | None = None
    last = len(states) - 1
    for layer in range(last + 1):
        x = states[layer]
        if wanted is not None and layer < last:
            x = x[..., wanted, :]
        x = F.rms_norm(x, x.shape[-1:])
        weight, bias = (added[f"{SIDE}body.{layer}.{kind}"] for kind in ("weight", "bias"))
        side = F.silu(F.linear(x if side is None else torch.cat([side, x], dim=-1), weight, bias))
    assert side is not None, "there is one state at least"
    return F.linear(side, added[SIDE + HEAD])
