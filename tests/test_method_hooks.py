"""Hooks: averages, anchors, masks and merges, by their definitions, on problems and networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tradeoff.convex.instances import random_log_linear, random_quadratic
from tradeoff.convex.quadratic import Quadratic
from tradeoff.convex.simulate import Trajectories, trajectories
from tradeoff.convex.solve import minimise
from tradeoff.errors import InputError
from tradeoff.methods import Method, find
from tradeoff.methods.after import Bema, Ema, OnlineMerging
from tradeoff.methods.anchors import Ewc, L2Sp, SynapticIntelligence
from tradeoff.methods.chain import Chain, depths
from tradeoff.methods.hooks import Hook, largest
from tradeoff.methods.merges import Dare, Lines, Slerp, Soup, TaskArithmetic, Ties, WiseFt
from tradeoff.methods.method import IDENTITY, KNOWN
from tradeoff.methods.parameters import (
    HalfFineTuning,
    LotteryTicket,
    Ogd,
    SmallModel,
    Subset,
    TopGradient,
)
from tradeoff.methods.parameters.ogd import across
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask
from tradeoff.networks.train import grid, train
from tradeoff.schedules import Alright, Mix, Sequential, Stages

STEPS = 24
PROBLEM = random_log_linear(0)
HOOKS = [
    kind()
    for slot in ("anchor", "parameters", "after", "merge")
    for kind in KNOWN[slot].values()
    if kind() != IDENTITY[slot]
]
CONVEX = [hook for hook in HOOKS if hook.unsupported("convex") is None]
NETWORKS = [
    hook
    for hook in HOOKS
    if hook.unsupported("networks") is None and not getattr(hook, "by_token", False)
]
"""Those that look at tokens have tests of their own."""
ALONE = [hook for hook in HOOKS if not (getattr(hook, "sees", "") or isinstance(hook, SmallModel))]
"""Hooks that do not need the policy."""


def run(*methods: Any, problem: Any = PROBLEM, steps: int = STEPS, **more: Any) -> Trajectories:
    settings = {
        "step_size": 0.3,
        "replicas": 3,
        "checkpoints": np.arange(steps + 1),
        "engine": "numpy",
    }
    return trajectories(problem, methods, steps=steps, **{**settings, **more})


def last(method: Any, **more: Any) -> np.ndarray:
    """(R, K, d) parameters of one method after every update."""
    return np.asarray(run(method, **more).last[0])


def sequential(**parts: Any) -> Method:
    return Method(Sequential(), **parts)


def shown(merge: Any, base: Any, sft: Any, preference: Any, **about: Any) -> np.ndarray:
    """Result of a merge of arrays."""
    chain = Chain(sequential(merge=merge), Sequential().plan(4), ("w.0.x", "w.1.x"), Any)
    moment = chain._moment(0, about.get("block", 0), None)
    arrays = (np.asarray(x, dtype=float) for x in (base, sft, preference))
    return np.asarray(merge.merged(*arrays, moment))


# ---------------------------------------------------------------------- all of them


@pytest.mark.parametrize("hook", ALONE, ids=lambda hook: hook.name)
def test_numpy_and_torch_do_the_same(hook: Hook) -> None:
    method = Method(Sequential(), **{hook.kind: hook})
    rng = np.random.default_rng(0)
    plan = method.plan(6)
    found = []
    weights = [rng.normal(size=(2, size)) for size in (5, 3)]
    noise = rng.normal(size=(6, 40, 2, 8))
    coins = rng.random((6, 2, 2, 5))
    for array in (np.array, torch.tensor):

        def uniform(step: int, block: int, w: Any, array: Any = array) -> Any:
            return array(coins[step, block, :, : w.shape[-1]])

        chain = Chain(method, plan, ("body.0.weight", "body.1.weight"), uniform)
        now = [array(w) for w in weights]
        chain.start(now)
        seen = []
        for t in range(6):
            now = chain.begin(now, t)
            for slot, _, rows in list(chain.passes(t)):
                for j in range(min(rows, 38)):
                    chain.observe(slot, [array(noise[t, j, :, :5]), array(noise[t, j, :, 5:])], t)
                chain.conclude(slot, t)
            slopes = [array(noise[t, 39, :, :5]), array(noise[t, 39, :, 5:])]
            slopes = chain.direct(slopes, now, t)
            now = [w - 0.1 * g for w, g in zip(now, slopes, strict=True)]
            now = chain.finish(now, t)
            seen += [np.asarray(x) for x in (*now, *chain.output(now, t + 1))]
        found.append(np.concatenate([x.ravel() for x in seen]))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-12)
    assert np.isfinite(found[0]).all()


def test_every_hook_runs_in_the_ball_and_each_run_is_alone() -> None:
    methods = [Method(Sequential(lam=0.4), **{hook.kind: hook}) for hook in CONVEX]
    every = run(*methods)
    assert np.isfinite(every.last).all()
    assert np.linalg.norm(every.last, axis=-1).max() <= PROBLEM.radius * (1 + 1e-9)
    plain = last(Sequential(lam=0.4), engine="numpy")
    changed = [not np.array_equal(found, plain) for found in every.last]
    assert all(changed), [h.name for h, c in zip(CONVEX, changed, strict=True) if not c]
    alone = run(methods[4], replicas=2)
    np.testing.assert_array_equal(alone.last[0], every.last[4][:2])


@pytest.mark.slow
def test_networks_run_every_hook_and_each_run_is_alone() -> None:
    task = PolicyTask(policy_data(0), PolicyConfig(width=8, depth=2), dtype=torch.float64)
    methods = [Method(Sequential(lam=0.4), **{hook.kind: hook}) for hook in NETWORKS]
    settings: dict[str, Any] = {"steps": 8, "learning_rate": 0.05, "batch_size": 4}
    every = train(task, grid([Sequential(lam=0.4), *methods], [0, 1]), **settings)
    head = every.params["head.weight"]
    assert bool(torch.isfinite(head).all())
    for k, hook in enumerate(NETWORKS):
        own = [every.params[name][2 * k + 2] for name in every.params]
        plain = [every.params[name][0] for name in every.params]
        assert any(not torch.equal(a, b) for a, b in zip(own, plain, strict=True)), hook.name
    pick = [3, 7]
    alone = train(task, grid([methods[k] for k in pick], [1]), **settings)
    for place, k in enumerate(pick):
        torch.testing.assert_close(alone.params["head.weight"][place], head[2 * k + 3])
    # The returned policy is the scored one.
    ended = alone.table[alone.table.step == 8].reset_index()
    again = task.evaluate(alone.params, task.reference(task.initial([1])))
    np.testing.assert_allclose(ended.sft_loss, again["sft_loss"], rtol=1e-12)


# ---------------------------------------------------------------------- after


def test_averages_are_what_they_say() -> None:
    plain = last(Mix(), engine="numpy")
    mean = last(Method(Mix(), after=Ema(decay=1.0)))
    expected = np.cumsum(plain[:, 1:], axis=1) / np.arange(1, STEPS + 1)[:, None]
    np.testing.assert_allclose(mean[:, 1:], expected, atol=1e-12)
    np.testing.assert_array_equal(last(Method(Mix(), after=Ema(decay=0.0))), plain)
    cold = last(Method(Mix(), after=Ema(decay=0.9, warm=False)))
    by_hand = plain[:, 0]
    for t in range(1, STEPS + 1):
        by_hand = 0.9 * by_hand + 0.1 * plain[:, t]
    np.testing.assert_allclose(cold[:, -1], by_hand, atol=1e-12)


def test_bema_without_correction_is_an_average() -> None:
    plain = last(Mix(), engine="numpy")
    found = last(Method(Mix(), after=Bema(eta=None, rho=1.0, kappa=1.0)))
    by_hand = plain[:, 0]
    for t in range(1, STEPS + 1):
        by_hand = by_hand + (plain[:, t] - by_hand) / (1 + t)
    np.testing.assert_allclose(found[:, -1], by_hand, atol=1e-12)
    lagged = last(Method(Mix(), after=Bema(rho=1.0, kappa=1.0, eta=1.0)))
    corrected = by_hand + (plain[:, -1] - plain[:, 0]) / (1 + STEPS)
    np.testing.assert_allclose(lagged[:, -1], PROBLEM.project(corrected), atol=1e-12)
    late = last(Method(Mix(), after=Bema(start_at=10)))
    np.testing.assert_array_equal(late[:, :11], plain[:, :11])


def test_bema_counts_updates_as_the_callback_of_trl_does() -> None:
    start, every = 4, 5
    plain = last(Mix(), engine="numpy")
    found = last(Method(Mix(), after=Bema(start_at=start, every=every)))
    shown = first = mean = plain[:, start]
    for t in range(start + every, STEPS + 1, every):
        mean = mean + (10.0 + t) ** -0.5 * (plain[:, t] - mean)
        shown = mean + (10.0 + t) ** -0.2 * (plain[:, t] - first)
    np.testing.assert_allclose(found[:, -1], PROBLEM.project(shown), atol=1e-12)


def test_averages_begin_anew_with_each_stage() -> None:
    plain = last(Sequential(), engine="numpy")
    found = last(sequential(after=Ema(decay=1.0)))
    second = plain[:, STEPS // 2 + 1 :].mean(axis=1)
    np.testing.assert_allclose(found[:, -1], second, atol=1e-12)


@pytest.mark.slow
def test_online_merging_stops_where_the_pull_holds_the_gradient() -> None:
    problem = random_quadratic(0, dimension=4)
    alpha, size = 0.01, 0.1
    method = sequential(after=OnlineMerging(alpha=alpha, keep=1.0))
    settings: dict[str, Any] = {"replicas": 1, "gradients": "full", "checkpoints": [0, 1000, 2000]}
    ends = last(method, problem=problem, steps=2000, step_size=size, **settings)
    pull = ends[0, 1] - ends[0, 0]
    slope = problem.gradients(ends[:, -1])[0, 1]
    np.testing.assert_allclose((1 - alpha) * slope, alpha / size * pull, atol=1e-6)
    top = sequential(after=OnlineMerging(alpha=0.0, keep=0.25, sparse="top"))
    moved = np.diff(last(top, problem=problem, steps=8)[0, 4:], axis=0)
    assert (np.count_nonzero(moved, axis=1) <= 1).all()


# ---------------------------------------------------------------------- anchors


def test_l2_sp_stops_at_the_regularised_optimum() -> None:
    problem = random_quadratic(1, dimension=4)
    method = sequential(anchor=L2Sp(weight=0.7))
    settings: dict[str, Any] = {"replicas": 1, "gradients": "full", "checkpoints": [200, 400]}
    ends = last(method, problem=problem, steps=400, step_size=0.1, **settings)
    start, end = ends[0, 0], ends[:, -1]
    slope = problem.gradients(end)[0, 1] + 0.7 * (end[0] - start)
    np.testing.assert_allclose(slope, 0, atol=1e-9)
    first = last(Sequential(), engine="numpy")
    np.testing.assert_array_equal(last(sequential(anchor=L2Sp()))[:, :13], first[:, :13])
    every = last(sequential(anchor=L2Sp(weight=1.0, stages="all")))
    assert not np.array_equal(every[:, :13], first[:, :13])


def test_ewc_with_equal_information_is_l2_sp() -> None:
    rows = np.array([[1.0, 2.0], [3.0, -1.0]])
    method = sequential(anchor=Ewc(count=2, weight=0.5))
    chain = Chain(method, method.plan(2), ("w",), Any)
    chain.start([np.zeros(2)])
    assert list(chain.passes(0)) == []
    assert list(chain.passes(1)) == [("anchor", 0, 2)]
    chain.begin([np.ones(2)], 1)
    for row in rows:
        chain.observe("anchor", [row], 1)
    chain.conclude("anchor", 1)
    (found,) = chain.direct([np.zeros(2)], [np.array([3.0, 2.0])], 1)
    np.testing.assert_allclose(found, 0.5 * (rows**2).mean(axis=0) * [2.0, 1.0])


def test_contributions_of_si_sum_to_the_fall_of_the_loss() -> None:
    problem = random_quadratic(2, dimension=3)
    start = problem.project(np.ones(3))
    method = Method(
        Stages(schedules=(Mix(), Mix()), shares=(0.5, 0.5)), anchor=SynapticIntelligence()
    )
    chain = Chain(method, method.plan(1600), ("w",), Any)
    theta = start
    chain.start([theta])
    for t in range(800):
        (theta,) = chain.begin([theta], t)
        gradient = problem.gradients(theta[None])[0].mean(axis=0)
        (gradient,) = chain.direct([gradient], [theta], t)
        (theta,) = chain.finish([theta - 1e-3 * gradient], t)
    fall = problem.losses(start).mean() - problem.losses(theta).mean()
    assert chain.states[0]["anchor"]["fall"].sum() == pytest.approx(fall, rel=2e-2)


# ---------------------------------------------------------------------- parameters


def test_masks_hold_and_free_bit_for_bit() -> None:
    plain = last(Mix(), engine="numpy")
    np.testing.assert_array_equal(last(Method(Mix(), parameters=HalfFineTuning(share=1.0))), plain)
    still = last(Method(Mix(), parameters=HalfFineTuning(share=0.0)))
    np.testing.assert_array_equal(still, np.zeros_like(still))
    half = last(Method(Mix(), parameters=HalfFineTuning()))
    d = half.shape[-1]
    assert (np.count_nonzero(half[:, -1], axis=-1) == round(d / 2)).all()
    top = last(Method(Mix(), parameters=TopGradient(share=0.25, count=4)))
    assert (np.count_nonzero(top[:, -1], axis=-1) <= max(1, round(d / 4))).all()
    every = Method(Mix(), parameters=LotteryTicket(share=1.0, search=0.0))
    np.testing.assert_array_equal(last(every), plain)
    ticket = last(Method(Mix(), parameters=LotteryTicket(share=0.2)))
    assert (np.count_nonzero(ticket[:, -1], axis=-1) <= max(1, round(0.2 * d))).all()


def test_halves_are_counted_by_kind() -> None:
    blocks = (*(f"layer.{i}.{kind}" for i in range(6) for kind in ("q", "k")), "embed")
    found = {blocks[k] for k in HalfFineTuning().chosen(blocks, 0)}
    assert "embed" in found
    assert [sum(name.endswith(kind) for name in found) for kind in (".q", ".k")] == [3, 3]
    assert HalfFineTuning().chosen(blocks, 0) != HalfFineTuning().chosen(blocks, 1)


def test_half_of_each_tensor_moves_where_no_kind_has_two() -> None:
    task = PolicyTask(policy_data(0), PolicyConfig(width=8, depth=1))
    method = Method(Alright(lam=0.0), parameters=HalfFineTuning())
    done = train(task, grid([method], [0]), steps=20, learning_rate=0.05)
    for name, value in task.initial([0]).items():
        moved = (done.params[name] != value).flatten(1).sum(dim=1)
        assert 0 < int(moved) <= round(value[0].numel() / 2), name


def test_a_subset_of_a_network_moves() -> None:
    task = PolicyTask(policy_data(0), PolicyConfig(width=8, depth=1))
    method = Method(Mix(), parameters=Subset())
    settings: dict[str, Any] = {"steps": 5, "learning_rate": 0.05, "weight_decay": 0.1}
    done = train(task, grid([method], [0]), **settings)
    only = train(task, grid([Mix()], [0]), last_layer_only=True, **settings)
    for name, value in done.params.items():
        torch.testing.assert_close(value, only.params[name], rtol=0, atol=0)
    assert "one tensor" in str(method.unsupported("convex"))


def test_ogd_leaves_what_it_remembers() -> None:
    rng = np.random.default_rng(0)
    hook, method = Ogd(count=3), sequential(parameters=Ogd(count=3))
    chain = Chain(method, method.plan(2), ("w",), Any)
    chain.start([np.zeros((2, 6))])
    rows = rng.normal(size=(3, 2, 6))
    rows[2] = rows[0] + rows[1]
    for row in rows:
        chain.observe("parameters", [row], 1)
    (found,) = chain.direct([rng.normal(size=(2, 6))], [np.zeros((2, 6))], 1)
    np.testing.assert_allclose(np.einsum("krd,rd->kr", rows, found), 0, atol=1e-12)
    basis = chain.states[0]["parameters"]["basis"]
    assert (np.linalg.norm(basis, axis=-1) > 0.5).sum(axis=-1).tolist() == [2, 2]
    np.testing.assert_allclose(across(found, basis), found, atol=1e-12)
    assert hook.rows(chain._moment(0, 0, None))[1] == 0


# ---------------------------------------------------------------------- merges


def test_merges_are_of_branches_that_start_alike() -> None:
    sft = last(Alright(lam=0.0), engine="numpy", steps=12)[:, -1]
    lam = 0.5
    merged = last(Method(Sequential(lam=lam), merge=Soup(lam=lam)))
    second = 2 * merged[:, -1] - sft
    alone = last(Method(Sequential(lam=lam), merge=Soup(lam=1.0)))
    np.testing.assert_allclose(second, alone[:, -1], atol=1e-12)
    np.testing.assert_array_equal(alone[:, 12], np.zeros_like(sft))
    plain = last(Sequential(), engine="numpy")
    np.testing.assert_allclose(last(sequential(merge=WiseFt(lam=1.0)))[:, 13:], plain[:, 13:])
    middle = last(sequential(merge=WiseFt(lam=0.25)))[:, -1]
    np.testing.assert_allclose(middle, 0.75 * plain[:, 12] + 0.25 * plain[:, -1], atol=1e-12)
    at = find("soup", 0.3)
    assert (at.schedule.first_share, at.merge) == (0.7, Soup(lam=0.3))


def test_merges_by_hand() -> None:
    base, sft, pref = np.zeros(4), np.array([4.0, 1.0, -2.0, 0.0]), np.array([-1.0, 3.0, -4.0, 2.0])
    kept = shown(Ties(keep=1.0), base, sft, pref)
    np.testing.assert_allclose(kept, [4.0, 2.0, -3.0, 2.0])
    np.testing.assert_allclose(shown(Ties(keep=0.25), base, sft, pref), [4.0, 0.0, -4.0, 0.0])
    soup = shown(Soup(lam=0.3), base + 1, sft, pref)
    for merge in (
        Dare(drop=0.0, lam=0.3),
        TaskArithmetic(scale=0.5, lam=0.3),
        Lines(first=1, lam=0.3),
    ):
        np.testing.assert_allclose(shown(merge, base + 1, sft, pref), soup, atol=1e-12)
    wide = [shown(Dare(drop=0.5, seed=s), base, sft, pref) for s in range(400)]
    np.testing.assert_allclose(np.mean(wide, axis=0), (sft + pref) / 2, atol=0.5)
    half = [shown(Lines(first=0.0), base, sft, pref, block=k) for k in (0, 1)]
    np.testing.assert_allclose(half, [base, (sft + pref) / 2])
    arc = shown(Slerp(), [0.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    np.testing.assert_allclose(arc, np.sqrt([0.5, 0.5]))
    np.testing.assert_allclose(shown(Slerp(), base, sft, sft), sft)


def test_the_segment_is_the_front_where_hessians_are_proportional() -> None:
    given = random_quadratic(3, dimension=3)
    problem = Quadratic(given.centres, np.stack([given.hessians[0], given.hessians[0]]))
    settings: dict[str, Any] = {"replicas": 1, "gradients": "full", "checkpoints": [800]}
    for lam in (0.3, 0.5):
        end = last(find("soup", lam), problem=problem, steps=800, step_size=1.0, **settings)[0]
        best = minimise(problem, lam).value
        np.testing.assert_allclose(problem.losses(end)[0] @ [1 - lam, lam], best, atol=1e-8)


def test_passes_over_rows_are_part_of_the_budget() -> None:
    plain, asked = Sequential(), sequential(anchor=Ewc(count=100))
    assert Method(plain).updates(1000) == 1000
    assert asked.updates(1000) == 900
    assert asked.updates(1000, batch=10) == 990
    mask = sequential(parameters=TopGradient(count=50))
    assert mask.updates(1000, pair=2.0) == Method(plain).updates(1000 - 150, pair=2.0)


def test_what_cannot_be_says_why() -> None:
    with pytest.raises(InputError, match="has no stages"):
        Method(Mix(), merge=Soup()).plan(10)
    with pytest.raises(InputError, match="one branch for each"):
        Method(Sequential(replay=0.2), merge=Soup()).plan(10)
    with pytest.raises(InputError, match="has no stages"):
        find("mix+online_merging").plan(10)
    with pytest.raises(InputError, match="decay"):
        Ema(decay=1.5)
    assert "without layers" in str(find("lines").unsupported("convex"))
    with pytest.raises(InputError, match="compiled engine"):
        run(find("mix+ema"), engine="numba")


def test_helpers() -> None:
    assert largest(np.array([3.0, 1.0, 2.0, 2.0]), 0.25).tolist() == [True, False, False, False]
    assert depths(["embed", "h.2.w", "h.4.w", "h.8.w", "head"]) == [0.0, 0.0, 0.5, 1.0, 0.0]
