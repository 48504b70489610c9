"""Preference losses as TRL computes them: TRL's code, without a model."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer


def dpo_trainer_loss(
    name: str, tokens: Tensor, lengths: Tensor, reference: Tensor, **settings: Any
) -> float:
    """Mean loss of n pairs by ``DPOTrainer``.

    Parameters
    ----------
    name
        A loss type of TRL.
    tokens
        (2n, T) log-probabilities of the tokens, chosen responses first; 0 beyond their lengths.
    lengths
        (2n,) tokens of each response.
    reference
        (2n,) log-probabilities of the responses under the reference.
    settings
        beta, label_smoothing, tau, or divergence.
    """
    count, width = tokens.shape
    inside = (torch.arange(width) < lengths[:, None]).long()
    mask = torch.cat([torch.zeros(count, 1, dtype=torch.long), inside], dim=1)
    outputs = SimpleNamespace(
        log_probs=tokens,
        entropy=torch.zeros_like(tokens),
        mean_logits=torch.zeros_like(tokens),
        is_top1=torch.zeros_like(tokens, dtype=torch.bool),
    )

    class Model:
        training = True

        def __call__(self, **given: Any) -> Any:
            return outputs

    same = SimpleNamespace(
        device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x
    )
    trainer = SimpleNamespace(
        model=Model(),
        accelerator=same,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type=settings.get("divergence", "reverse_kl"),
        f_alpha_divergence_coef=0.5,
        loss_types=[name],
        loss_weights=[1.0],
        beta=settings["beta"],
        label_smoothing=settings.get("label_smoothing", 0.0),
        args=SimpleNamespace(discopop_tau=settings.get("tau", 0.05)),
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    half = count // 2
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": reference[:half],
        "ref_rejected_logps": reference[half:],
    }
    return float(DPOTrainer._compute_loss(trainer, Model(), inputs, return_outputs=False))


def cpo_trainer_loss(kind: str, chosen: Tensor, rejected: Tensor, **settings: float) -> Tensor:
    """(n,) losses of ``CPOTrainer``; log-probabilities are means where the kind is "simpo"."""
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    trainer = SimpleNamespace(
        alpha=settings.get("alpha", 0.0),
        beta=settings["beta"],
        loss_type=kind,
        simpo_gamma=settings.get("gamma", 0.0),
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    return CPOTrainer.cpo_loss(trainer, chosen, rejected)[0]


def orpo_trainer_loss(weight: float, chosen: Tensor, rejected: Tensor) -> Tensor:
    """(n,) odds-ratio term of ``ORPOTrainer``, whose log-probabilities are means over tokens."""
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    trainer = SimpleNamespace(beta=weight, accelerator=SimpleNamespace(device=torch.device("cpu")))
    return -ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)[0]
