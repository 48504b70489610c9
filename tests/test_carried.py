"""An adapter behind a sparse autoencoder: identities, a plain implementation, costs, places."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tests.test_language_task import TASK as LANGUAGE
from tradeoff.arena.network_board import network_left_out
from tradeoff.errors import InputError
from tradeoff.methods import Method, find
from tradeoff.methods.after import Resa
from tradeoff.networks import policies
from tradeoff.networks._carried import CARRIED, carried
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask, one_run
from tradeoff.networks.train import Run, train
from tradeoff.schedules import FORWARD, Alright, Mix, Rounds, Sequential

DATA = policy_data(0, prompts=24, test_prompts=8, demonstrations=40, pairs=30, test_rows=20)
TASK = PolicyTask(DATA, PolicyConfig(width=6, depth=2, head_scale=0.5), dtype=torch.float64)
PROMPTS = torch.from_numpy(DATA.prompts[DATA.demonstrations[:, 0]])
SETTINGS: dict[str, Any] = {"steps": 12, "learning_rate": 0.03, "batch_size": 8}


def trained() -> dict[str, torch.Tensor]:
    return train(TASK, [Run(Mix(), 0), Run(Mix(), 1)], **SETTINGS).params


STAGES = Sequential(share=0.5)


@pytest.mark.parametrize(
    "schedule", [STAGES, Sequential(first="preference"), Rounds(rounds=2, restart=True)]
)
def test_without_updates_of_its_own_it_ends_where_the_stage_began(schedule: Any) -> None:
    runs = [Run(Method(schedule, after=Resa(share=0.0)), 2), Run(schedule, 2)]
    done = train(TASK, runs, evaluate_every=1, **SETTINGS)
    # Records within the run are those of the source.
    table = done.table.set_index(["run", "step"])["sft_loss"].unstack("run")
    assert (table[0].iloc[:-1] == table[1].iloc[:-1]).all()
    plan = schedule.plan(12)
    begun = int(np.flatnonzero(plan.clock == 1)[-1])
    assert begun > 0
    assert table[0].iloc[-1] == table[1].loc[begun] != table[1].iloc[-1]
    assert runs[0].method.updates(90.0) == runs[1].method.updates(90.0)


@pytest.mark.parametrize("layer", [0, 1, 9])
def test_an_exact_autoencoder_teaches_nothing(layer: int) -> None:
    """Its gradient is zero, up to rounding, which Adam would enlarge in many updates."""
    base, eye = TASK.initial([0, 1]), torch.eye(6, dtype=torch.float64)
    exact = {
        "in": torch.cat([eye, -eye]).expand(2, 12, 6),
        "bias": torch.zeros(2, 12, dtype=torch.float64),
        "out": torch.cat([eye, -eye], dim=1).expand(2, 6, 12),
    }
    found = carried(trained(), base, PROMPTS, Resa(layer=layer), 1, 8, [0, 1], exact)
    for name, value in base.items():
        assert_allclose(found[name], value, atol=1e-7)
    poor = {**exact, "out": 0.5 * exact["out"]}
    other = carried(trained(), base, PROMPTS, Resa(layer=layer), 1, 8, [0, 1], poor)
    assert (other[policies.HEAD] - base[policies.HEAD]).abs().max() > 0.01


def plainly(
    source: dict[str, torch.Tensor],
    base: dict[str, torch.Tensor],
    part: Resa,
    updates: int,
    seed: int,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same for one run, step by step; also the divergences on the way."""
    rng = np.random.default_rng((seed, CARRIED))

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    def layers(p: dict[str, torch.Tensor], x: torch.Tensor, coder: Any = None) -> Any:
        first = torch.tanh(x @ p["body.0.weight"].T + p["body.0.bias"])
        second = torch.tanh(first @ p["body.1.weight"].T + p["body.1.bias"])
        read = second if coder is None else torch.relu(second @ coder[0].T + coder[1]) @ coder[2].T
        return second, (read / 6**0.5) @ p["head.weight"].T

    inner = normal(12, 6) / 6**0.5
    coder = [inner, torch.zeros(12, dtype=torch.float64), inner.T.clone() / 2]
    coder = [value.clone().requires_grad_() for value in coder]
    descent = torch.optim.Adam(coder, part.rate)
    for _ in range(updates):
        x = PROMPTS[torch.from_numpy(rng.integers(len(PROMPTS), size=8))]
        h = layers(source, x)[0].detach()
        z = torch.relu(h @ coder[0].T + coder[1])
        loss = ((z @ coder[2].T - h) ** 2).mean() + part.sparsity * z.mean()
        descent.zero_grad()
        loss.backward()
        descent.step()
    frozen = [value.detach() for value in coder]
    names = ["body.0.weight", "body.1.weight", "head.weight"]
    factors = {}
    for name in names:
        out, into = base[name].shape
        factors[name] = [
            torch.zeros(out, part.rank, dtype=torch.float64, requires_grad=True),
            (normal(part.rank, into) / into**0.5).requires_grad_(),
        ]
    descent = torch.optim.Adam([f for pair in factors.values() for f in pair], part.rate)
    apart = []
    for _ in range(updates):
        x = PROMPTS[torch.from_numpy(rng.integers(len(PROMPTS), size=8))]
        now = {n: base[n] + part.strength * factors[n][0] @ factors[n][1] for n in names}
        known = layers(base, x)[1].log_softmax(-1)
        found = layers({**base, **now}, x, frozen)[1].log_softmax(-1)
        loss = (known.exp() * (known - found)).sum(-1).mean()
        apart.append(float(loss.detach()))
        descent.zero_grad()
        loss.backward()
        descent.step()
    now = {n: (base[n] + part.strength * factors[n][0] @ factors[n][1]).detach() for n in names}
    return {**base, **now}, apart


def test_it_is_what_a_plain_loop_does() -> None:
    part = Resa(layer=1, rank=2, strength=1.5, sparsity=0.1)
    source, base = trained(), TASK.initial([0, 1])
    found = carried(source, base, PROMPTS, part, 25, 8, [5, 3])
    for run, seed in ((0, 5), (1, 3)):
        expected, apart = plainly(one_run(source, run), one_run(base, run), part, 25, seed)
        for name, value in expected.items():
            assert_allclose(found[name][run], value, atol=1e-9)
        assert np.mean(apart[-5:]) < 0.7 * np.mean(apart[:5])


def test_training_ends_with_it_and_scores_it() -> None:
    method = Method(STAGES, after=Resa(share=0.5))
    assert find("resa").schedule == Sequential()
    done = train(TASK, [Run(method, 0), Run(method, 1), Run(STAGES, 0)], **SETTINGS)
    base = TASK.initial([0, 1])
    # The first stage alone, on the same draws.
    sft = [Run(Alright(lam=0.0), seed) for seed in (0, 1)]
    target = train(TASK, sft, **{**SETTINGS, "steps": 6}).params
    source = train(TASK, [Run(STAGES, seed) for seed in (0, 1)], **SETTINGS).params
    expected = carried(source, target, PROMPTS, method.after, 6, 8, [0, 1])
    moved = expected[policies.HEAD] - target[policies.HEAD]
    assert moved.abs().max() > 0.01
    for name, value in expected.items():
        assert_allclose(done.params[name][:2], value, atol=1e-9)
        assert_allclose(done.params[name][2], source[name][0], atol=1e-9)
    again = TASK.evaluate(expected, TASK.reference(base))["sft_loss"]
    last = done.table[done.table["step"] == 12].set_index("run")["sft_loss"]
    assert_allclose(last[[0, 1]], again, atol=1e-9)


def test_costs_and_places() -> None:
    method = find("resa")
    assert method.updates(1000, pair=1.0) == round(1000 / (1 + 0.5 * (2 + FORWARD)))
    with pytest.raises(InputError, match="no stages"):
        Method(Mix(), after=Resa()).plan(10)
    assert "hidden layers" in str(method.unsupported("convex"))
    assert "proportion" in str(method.unsupported("llm"))
    assert method.unsupported("networks") is None
    assert network_left_out("resa", "policies") is None
    assert "autoencoder" in str(network_left_out("resa", "language"))


def test_what_it_cannot_do_is_one_clear_error() -> None:
    run = [Run(find("resa"), 0)]
    flat = replace(TASK, config=PolicyConfig(width=4, depth=0))
    with pytest.raises(InputError, match="no hidden layer"):
        train(flat, run, **SETTINGS)
    with pytest.raises(InputError, match="some are not trained"):
        train(TASK, run, last_layer_only=True, **SETTINGS)
    with pytest.raises(InputError, match="no autoencoder"):
        train(LANGUAGE, run, **SETTINGS)
