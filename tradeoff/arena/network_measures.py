"""Third measures of networks: those of :mod:`tradeoff.arena.measures`, on rows that no run saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradeoff.arena.measures import calibration_error, changed_rows
from tradeoff.networks import policies
from tradeoff.networks.batches import Batch
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.tasks import Params, PolicyTask, Task, one_run
from tradeoff.networks.threads import one_thread
from tradeoff.networks.train import Run, train
from tradeoff.schedules import Alright

Array = NDArray[np.float64]


def network_measures(
    task: Task,
    params: Params,
    base: Params,
    specialist: Params,
    documents: Callable[[], Batch] | None = None,
) -> dict[str, Array]:
    """What neither objective trains, for each of R runs.

    On finite policies a row is a held-out demonstration, and it is right where its response is
    the likeliest. The divergence is exact, a mean over the held-out prompts. On language models a
    row is a token of a held-out demonstration, given all tokens before it. The divergence is that
    of the laws of the next token, exact at these places, a mean over them in nats a token.

    Parameters
    ----------
    task
        A task of finite policies or of a language model, with held-out rows.
    params
        Stacked parameters of R runs.
    base
        Stacked policies before training, R or one for all.
    specialist
        Stacked policies that were trained on demonstrations alone: S of them, where S divides R;
        run r is compared with number ``r % S``.
    documents
        Gives held-out documents of a language model.

    Returns
    -------
    dict
        ``kl``: KL divergence from the policy before training. ``lost`` and ``gained``: shares of
        the rows that are right under the specialist and wrong under the run, and the other way
        round. ``flips``: both together over what chance gives. ``calibration``: expected
        calibration error of the likeliest answer. With documents, also ``documents``: how much
        their loss exceeds that of the policy before training, in nats a token.
    """
    with torch.no_grad(), one_thread():
        if isinstance(task, PolicyTask):
            return _of_policies(task, params, base, specialist)
        assert isinstance(task, LanguageTask), "the boards have no other tasks"
        found = _of_language(task, params, base, specialist)
        if documents is not None:
            held = documents().to(task.device)
            rise = task.token_loss(params, held) - task.token_loss(base, held)
            found["documents"] = rise.double().cpu().numpy()
        return found


def relearning_of_networks(
    task: Task,
    params: Params,
    level: float,
    *,
    learning_rate: float,
    limit: int = 100,
    every: int = 1,
    **settings: Any,
) -> Array:
    """Updates of SFT until the loss of training demonstrations is at most a level again.

    Parameters
    ----------
    task
        A task of networks.
    params
        Stacked parameters of R runs.
    level
        In nats, such as what a specialist of SFT reached and a little more.
    learning_rate, settings
        As for :func:`tradeoff.networks.train.train`; run r has the seed r.
    limit, every
        Updates after which the search ends, and updates between two looks at the loss.

    Returns
    -------
    ndarray
        (R,) updates, up to the spacing of looks; infinite where ``limit`` was not enough. A run
        that has the loss needs none.

    Notes
    -----
    After arXiv 2306.05539; :func:`tradeoff.arena.probes.relearning` is that of convex problems.
    """
    runs = [Run(Alright(lam=0.0), seed) for seed in range(len(next(iter(params.values()))))]
    done = train(
        task, runs, steps=limit, learning_rate=learning_rate, start=params, evaluate_every=every,
        **settings,
    ).table  # fmt: skip
    there = done["step"].where(done["sft_loss_train"] <= level, np.inf)
    return np.asarray(there.groupby(done["run"]).min(), dtype=float)


def _of_policies(
    task: PolicyTask, params: Params, base: Params, specialist: Params
) -> dict[str, Array]:
    rows = task.data.test_demonstrations
    asked = np.unique(np.concatenate([rows[:, 0], task.data.test_pairs[:, 0]]))
    prompts = torch.from_numpy(task.data.prompts[asked]).to(task.device, task.dtype)
    place, shown = (
        torch.from_numpy(np.searchsorted(asked, rows[:, 0])),
        torch.from_numpy(rows[:, 1]),
    )

    def every(of: Params) -> Tensor:
        return torch.vmap(policies.logits, (0, None))(of, prompts).log_softmax(-1)

    def right(log_probs: Tensor) -> Tensor:
        return log_probs[:, place, shown] >= log_probs.amax(-1)[:, place]

    ends, before = every(params), every(base)
    divergence = (ends.exp() * (ends - before)).sum(-1).mean(-1)
    peaks = ends.amax(-1).exp()[:, place]
    return {"kl": _numbers(divergence), **_scored(right(every(specialist)), right(ends), peaks)}


def _of_language(
    task: LanguageTask, params: Params, base: Params, specialist: Params
) -> dict[str, Array]:
    rows = task.test_sft.to(task.device)
    before = [task.every_token(each, rows)[0] for each in _each(base)]
    known = torch.stack([_right_tokens(*task.every_token(one, rows)) for one in _each(specialist)])
    kl, right, peaks = [], [], []
    for run, one in enumerate(_each(params)):
        every, targets = task.every_token(one, rows)
        old = before[run % len(before)]
        kl.append((every.exp() * (every - old)).sum(-1).mean())
        right.append(_right_tokens(every, targets))
        peaks.append(every.amax(-1).exp())
    return {
        "kl": _numbers(torch.stack(kl)),
        **_scored(known, torch.stack(right), torch.stack(peaks)),
    }


def _each(params: Mapping[str, Tensor]) -> list[Params]:
    return [one_run(params, run) for run in range(len(next(iter(params.values()))))]


def _right_tokens(every: Tensor, targets: Tensor) -> Tensor:
    """(M,) whether the token that comes is the likeliest."""
    return every.gather(1, targets[:, None])[:, 0] >= every.amax(-1)


def _scored(known: Tensor, right: Tensor, peaks: Tensor) -> dict[str, Array]:
    """Flips and calibration from (S, M) and (R, M) tensors."""
    before = known.cpu().numpy().T
    after = right.cpu().numpy().T
    before = np.tile(before, (1, after.shape[1] // before.shape[1]))
    weights = np.full(len(after), 1 / len(after))
    confidence = peaks.double().cpu().numpy().T
    return {
        **changed_rows(before, after, weights),
        "calibration": calibration_error(confidence, after, weights),
    }


def _numbers(values: Tensor) -> Array:
    return np.asarray(values.double().cpu().numpy())
