"""Methods that change what a policy consists of or what its prompts say: their identities."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_method_hooks import PROBLEM, last, run

from tradeoff.convex._chosen_rows import added_logits, trained_on
from tradeoff.convex._in_context import InContextSampler
from tradeoff.convex.instances import random_log_linear, random_quadratic
from tradeoff.convex.solve import minimise
from tradeoff.convex.views import PolicyView
from tradeoff.errors import InputError
from tradeoff.methods import Method
from tradeoff.methods.anchors import DrTune, KlToBase, ViewConsistency
from tradeoff.methods.anchors.dr_tune import calibrated
from tradeoff.methods.hooks import Moment
from tradeoff.methods.losses import Nll, Nominal
from tradeoff.methods.losses.demonstrations import Dft
from tradeoff.methods.parameters import LoraMoe, SmallModel
from tradeoff.methods.transforms.retrieved import InContext, SearchInstruct
from tradeoff.networks import policies
from tradeoff.networks.followed import Choices
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask
from tradeoff.networks.train import Ensemble, Run, grid, train
from tradeoff.schedules import Alright, Mix, Sequential

FULL: dict[str, Any] = {"gradients": "full", "replicas": 1}


# ---------------------------------------------------------------------- a small model beside it


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_front_of_a_small_model_is_that_of_its_own_features(lam):
    """From the uniform policy, training ends at the minimum of the problem in omega alone."""
    problem = random_log_linear(1, dimension=8, radius=2.0)
    basis = PolicyView(problem).main_directions(3)
    small = minimise(replace(problem, features=problem.features @ basis.T), lam)
    method = Method(Mix(lam=lam), parameters=SmallModel(size=3))
    ends = last(method, problem=problem, steps=300, step_size=1.0, checkpoints=[300], **FULL)
    losses = problem.losses(ends[0, -1]) @ [1 - lam, lam]
    assert losses == pytest.approx(small.value, abs=1e-6)
    assert losses > minimise(problem, lam).value + 1e-3


def test_the_frozen_policy_stays_in_the_ball_and_out_of_reach():
    start = np.random.default_rng(0).normal(size=PROBLEM.dimension)
    start *= 0.99 * PROBLEM.radius / np.linalg.norm(start)
    method = Method(Sequential(), parameters=SmallModel(size=2))
    found = last(method, start=start, step_size=2.0)
    np.testing.assert_array_equal(found[:, 0], np.broadcast_to(start, found[:, 0].shape))
    assert np.linalg.norm(found, axis=-1).max() <= PROBLEM.radius * (1 + 1e-12)
    moved = found - start
    basis = PolicyView(PROBLEM).main_directions(2)
    np.testing.assert_allclose(moved, moved @ basis.T @ basis, atol=1e-10)
    assert np.abs(moved[:, -1]).max() > 0.1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_what_the_small_model_reaches_is_the_nearest_point(seed, size):
    """Of the ball and the frozen policy's plane: no other point of both is nearer."""
    rng = np.random.default_rng(seed)
    view = PolicyView(random_log_linear(0, dimension=8, radius=1.5))
    frozen, step, other = rng.normal(size=(3, 8))
    frozen *= 1.4 / np.linalg.norm(frozen)
    basis = view.main_directions(size)
    part, now = SmallModel(size=size), moment(view)
    wanted = frozen + step @ basis.T @ basis
    ends, _ = part.finish(wanted, {"frozen": frozen}, now)
    assert np.linalg.norm(ends) <= 1.5 * (1 + 1e-12)
    if np.linalg.norm(wanted) <= 1.5:
        np.testing.assert_allclose(ends, wanted, atol=1e-12)
    near = part.finish(frozen + other @ basis.T @ basis, {"frozen": frozen}, now)[0]
    assert np.linalg.norm(wanted - ends) <= np.linalg.norm(wanted - near) + 1e-12


def test_a_small_model_of_all_sizes_is_the_policy():
    found = last(Method(Mix(), parameters=SmallModel(size=4096)))
    np.testing.assert_allclose(found, last(Mix(), engine="numpy"), atol=1e-12)
    with pytest.raises(InputError, match="sees features"):
        run(Method(Mix(), parameters=SmallModel()), problem=random_quadratic(0))


# ---------------------------------------------------------------------- two views of a prompt


def test_one_view_and_no_memory_have_no_slope():
    plain = last(Mix(), engine="numpy")
    same = ViewConsistency(noise=0.0, decay=0.0, weight=5.0)
    np.testing.assert_array_equal(last(Method(Mix(), anchor=same)), plain)
    for part in (replace(same, noise=0.5), replace(same, decay=0.9)):
        assert not np.array_equal(last(Method(Mix(), anchor=part)), plain)


@pytest.mark.parametrize("exact", [True, False])
def test_the_pull_is_the_slope_of_the_divergence_of_a_noisy_prompt(exact):
    """By hand: KL(average at the prompt || policy at features times factors), over prompts."""
    problem = random_log_linear(3, responses=3, demonstrations=5)
    part = ViewConsistency(noise=0.7, decay=0.9, exact=exact)
    rng = np.random.default_rng(0)
    theta, average = rng.normal(size=(2, problem.dimension)) * 0.5
    draws = rng.random(problem.dimension)
    now = moment(PolicyView(problem), uniform=draws[None])
    # Each weights what it sees: the average before this update and the policy now.
    _, state = part.begin(theta[None], {"anchor": average[None]}, now)
    found = part.direct(0 * theta[None], theta[None], state, now)[0][0]
    teacher = 0.9 * average + 0.1 * theta
    factor = 1 + 0.7 * np.sqrt(12) * (draws - 0.5)
    rows = problem.demonstrations
    if not exact:
        rows = rows[[int((4096 * draws[0]) % 1 * len(rows))]]

    def value(at: np.ndarray) -> float:
        total = 0.0
        for x in problem.prompt_of_row[rows]:
            phi = problem.features[problem.offsets[x] : problem.offsets[x + 1]]
            p, a = (z - np.log(np.exp(z).sum()) for z in ((factor * phi) @ at, phi @ teacher))
            total += (np.exp(a) * (a - p)).sum()
        return total / len(rows)

    step = 1e-6 * np.eye(problem.dimension)
    slopes = [(value(theta + e) - value(theta - e)) / 2e-6 for e in step]
    np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-8)


def test_views_cost_a_gradient_and_a_forward_pass():
    counts = run(Method(Alright(lam=0.0), anchor=ViewConsistency()), checkpoints=[3, 24]).counts
    np.testing.assert_array_equal(counts[0, 0], [[3 + 4, 0], [24 + 32, 0]])
    assert Method(Alright(lam=0.0), anchor=ViewConsistency()).updates(700) == 300
    assert Method(Mix(), anchor=ViewConsistency(of="preference")).updates(1000) == 300


def a_task(**about: Any) -> PolicyTask:
    data = policy_data(0, prompts=12, test_prompts=4, responses=4, demonstrations=20, pairs=20)
    return PolicyTask(replace(data, **about), PolicyConfig(width=6, depth=1), dtype=torch.float64)


def trained(methods: Any, task: PolicyTask | None = None, **more: Any) -> Ensemble:
    about = {"steps": 4, "learning_rate": 0.3, "batch_size": 3, "optimizer": "sgd", "clip": None}
    return train(task or a_task(), grid(methods, [0, 1]), **{**about, **more})


def with_records(task: PolicyTask) -> Any:
    """A task that gives its losses and the log-probabilities of its rows alone."""
    found = bare(task)
    for name in ("tokens", "pair_log_probs"):
        setattr(found, name, getattr(task, name))
    return found


def bare(task: PolicyTask) -> Any:
    """A task that gives its losses alone."""

    class Bare:
        sizes, batched, last_layer_name = task.sizes, True, task.last_layer_name
        initial, losses = task.initial, task.losses
        reference, evaluate = task.reference, task.evaluate

        def to(self, device: Any) -> Any:
            return self

    return Bare()


def test_networks_with_one_view_and_no_memory_have_no_slope():
    same = ViewConsistency(noise=0.0, decay=0.0, weight=5.0)
    parts = [same, replace(same, noise=0.5), replace(same, decay=0.9)]
    done = trained([Mix(), *(Method(Mix(), anchor=part) for part in parts)])
    head = done.params["body.0.weight"].reshape(4, 2, -1)
    torch.testing.assert_close(head[1], head[0], rtol=0, atol=1e-14)
    assert ((head[2:] - head[0]).abs().amax(-1) > 1e-6).all()
    # The forward pass of the averaged policy is a third of a gradient.
    used = done.table[done.table.step == 4].sft_updates.to_numpy().reshape(4, 2)
    np.testing.assert_array_equal(used, [[4, 4], [9, 9], [9, 9], [9, 9]])


def test_the_pull_of_a_noisy_prompt_is_the_slope_of_its_divergence():
    """By hand, with the factors of the run: of mean one and of the deviation that is said."""
    task, part = a_task(), ViewConsistency(noise=0.7, weight=1.0, decay=0.0, exact=True)
    method = Method(Alright(lam=0.0), anchor=part)
    seen: list[torch.Tensor] = []
    factors = Choices.factors

    def told(*given: Any) -> Any:
        seen.append(torch.from_numpy(factors(*given)))
        return factors(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Choices, "factors", told)
        done = trained([Alright(lam=0.0), method], task, steps=1)
    base = {name: p[0].requires_grad_() for name, p in task.initial([0]).items()}
    prompts = torch.from_numpy(task.data.prompts)[task.data.demonstrations[:, 0]]
    own = policies.logits(base, prompts * seen[0][0]).log_softmax(-1)
    earlier = policies.logits(base, prompts).log_softmax(-1).detach()
    value = (earlier.exp() * (earlier - own)).sum(-1).mean()
    for name, slope in zip(base, torch.autograd.grad(value, list(base.values())), strict=True):
        moved = (done.params[name][0] - done.params[name][2]) / 0.3
        torch.testing.assert_close(moved, slope, rtol=1e-9, atol=1e-12)
    assert seen[0].mean() == pytest.approx(1, abs=0.1)
    assert seen[0].std() == pytest.approx(0.7, abs=0.1)


# ---------------------------------------------------------------------- features of an earlier one


def test_features_that_did_not_move_double_the_loss():
    """With prompts of one length and no hidden layer: twice the steps of SFT."""
    task = a_task()
    prompts = task.data.prompts / np.linalg.norm(task.data.prompts, axis=1, keepdims=True)
    task = replace(a_task(prompts=prompts), config=PolicyConfig(depth=0))
    plain = trained([Alright(lam=0.0)], task, learning_rate=0.2, steps=1)
    held = trained([Method(Alright(lam=0.0), anchor=DrTune())], task, learning_rate=0.1, steps=1)
    assert float(plain.params[policies.HEAD].abs().max()) > 1e-3
    torch.testing.assert_close(held.params[policies.HEAD], plain.params[policies.HEAD])
    none = Method(Alright(lam=0.0), anchor=DrTune(weight=0.0))
    same, free = trained([none], task), trained([Alright(lam=0.0)], task)
    assert torch.equal(same.params[policies.HEAD], free.params[policies.HEAD])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_calibrated_features_undo_a_turn_and_a_length(seed):
    rng = np.random.default_rng(seed)
    own, labels = rng.normal(size=(9, 4)), np.eye(3)[rng.integers(3, size=9)]
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    expected = own / np.linalg.norm(own, axis=1, keepdims=True)
    expected = expected * np.linalg.norm(own, axis=1).mean()
    np.testing.assert_allclose(calibrated(own, 3 * own @ turn, labels), expected, atol=1e-9)
    # With one label for each row, any features are shifted to the own ones.
    other = rng.normal(size=(9, 4))
    np.testing.assert_allclose(calibrated(own, other, np.eye(9)), expected, atol=1e-9)
    found = calibrated(*(torch.tensor(x)[None] for x in (own, other, labels)))[0]
    np.testing.assert_allclose(found, calibrated(own, other, labels), atol=1e-9)


def test_features_are_those_with_which_a_stage_begins():
    methods = [Sequential(), Method(Sequential(), anchor=DrTune(count=5, weight=3.0))]
    # The stage of pairs begins with the third update; until then there is no difference.
    one = trained(methods, steps=4, evaluate_every=1).table
    losses = one.sft_loss_train.to_numpy().reshape(2, 2, 5)
    np.testing.assert_array_equal(losses[0, :, :3], losses[1, :, :3])
    assert (losses[0, :, 3] != losses[1, :, 3]).all()
    used = one[one.step == 4].sft_updates.to_numpy()
    np.testing.assert_array_equal(used, [2, 2, 3, 3])  # Two forward passes in two updates.


def test_the_queue_forgets_and_its_loss_is_the_mean():
    """By brute force over the last rows, with features of both policies as they were drawn."""
    rng = np.random.default_rng(0)
    part, head = DrTune(count=5, weight=0.7), rng.normal(size=(3 * 4,))
    own, earlier = rng.normal(size=(2, 3, 3, 4))
    labels = np.eye(3)[rng.integers(3, size=(3, 3))]

    class Policy:
        head = "theta"

        def features_of(self, moment: Moment) -> dict[str, np.ndarray]:
            t = moment.step
            return {"own": own[t], "earlier": earlier[t], "labels": labels[t]}

    state = part.start(head)
    for t in range(3):
        now = replace(moment(Policy()), step=t, clock=t + 1)
        head, state = part.begin(head, state, now)
        found, state = part.direct(0 * head, head, state, now)
    last_rows = [x.reshape(9, -1)[4:] for x in (own, earlier, labels)]
    features = calibrated(*last_rows)

    def loss(flat: np.ndarray) -> float:
        z = features @ flat.reshape(3, 4).T
        return float((np.log(np.exp(z).sum(axis=1)) - (z * last_rows[2]).sum(axis=1)).mean())

    steps = 1e-6 * np.eye(12)
    slopes = [0.7 * (loss(head + e) - loss(head - e)) / 2e-6 for e in steps]
    np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-8)


def test_anchors_that_see_features_need_a_task_that_has_them():
    task = a_task()

    for part in (DrTune(), ViewConsistency(), KlToBase()):
        with pytest.raises(InputError, match="does not give"):
            trained([Method(Mix(), anchor=part)], bare(task))
    assert "do not move" in DrTune().unsupported("convex")
    assert "not features" in DrTune().unsupported("llm")
    assert "logits" in KlToBase(direction="logits").unsupported("networks")


# ---------------------------------------------------------------------- what is added to networks


LEVI = Method(Mix(), parameters=SmallModel(size=3))
EXPERTS = Method(Mix(), parameters=LoraMoe(experts=3, rank=2))


def test_what_is_added_begins_with_the_policy_and_moves_alone():
    done = trained([Mix(), LEVI, EXPERTS])
    begun = done.table[done.table.step == 0]
    for loss in ("sft_loss", "preference_loss"):
        plain, *others = begun[loss].to_numpy().reshape(3, 2)
        np.testing.assert_array_equal(others, [plain, plain])
    base = a_task().initial([0, 1])
    for name, value in base.items():
        plain, levi, experts = done.params[name].reshape(3, 2, *value.shape[1:])
        assert not torch.equal(plain, value)
        assert torch.equal(levi, value) == (name != policies.HEAD)
        assert torch.equal(experts, value)
    side = done.params["side.head.weight"]
    assert side.shape == (6, 4, 3)
    assert not side[[0, 1, 4, 5]].any()
    assert (side[2:4].abs().amax((1, 2)) > 1e-4).all()
    moved = done.params["body.0.weight.up"]
    assert not moved[:4].any()
    assert moved[4:].any()


def test_ensembles_with_other_tensors_are_those_alone():
    task, methods = a_task(), [EXPERTS, Mix(), LEVI, Mix(lam=0.9)]
    rates = [[0.1 * k, 0.2] for k in range(1, 9)]
    every = trained(methods, task, learning_rate=rates)
    assert every.table.run.tolist() == sorted(every.table.run)
    assert every.table.groupby("run").step.count().nunique() == 1
    labels = every.table.drop_duplicates("run").schedule
    assert labels.tolist() == [Method.of(m).label for m in methods for _ in range(2)]
    for k, method in enumerate(methods):
        alone = trained([method], task, learning_rate=rates[2 * k : 2 * k + 2])
        for name, value in alone.params.items():
            torch.testing.assert_close(every.params[name][2 * k : 2 * k + 2], value)
        own = every.table[every.table.run // 2 == k]
        np.testing.assert_allclose(own.sft_loss, alone.table.sft_loss, rtol=1e-9)
    # All parameters together say what each policy answers.
    again = task.evaluate(every.params, task.reference(task.initial([0, 1] * 4)))
    ends = every.table[every.table.step == 4]
    np.testing.assert_allclose(ends.preference_loss, again["preference_loss"], rtol=1e-12)


def test_one_expert_is_lora():
    """Its matrices, merged into those of the network, make the same policy."""
    one = Method(Mix(), parameters=LoraMoe(experts=1, rank=2, alpha=6.0))
    done = trained([one])
    params = {name: value[1] for name, value in done.params.items()}
    merged = {}
    for name in ("body.0.weight", policies.HEAD):
        more = params[f"{name}.up"][0] @ params[f"{name}.down"][0]
        assert more.abs().max() > 1e-4
        merged[name] = params[name] + 6.0 / 2 * more
    plain = {"body.0.weight": merged["body.0.weight"], "body.0.bias": params["body.0.bias"]}
    prompts = torch.from_numpy(a_task().data.prompts)
    expected = policies.logits(plain | {policies.HEAD: merged[policies.HEAD]}, prompts)
    torch.testing.assert_close(policies.logits(params, prompts), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0, 0.9))
def test_the_balance_is_the_squared_variation_of_shares(seed, experts, more):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(experts), size=(2, 4))
    part = LoraMoe(experts=experts, balance=0.3, specialised=more)
    for objective in (0, 1):
        total = 0.0
        for layer in shares:
            wanted = [
                share * (1 + more if (i < (experts + 1) // 2) == (objective == 0) else 1 - more)
                for row in layer
                for i, share in enumerate(row)
            ]
            total += np.var(wanted) / np.mean(wanted) ** 2 / 2
        assert float(part.penalty(shares, objective)) == pytest.approx(0.3 * total, abs=1e-12)
    even = np.full((2, 4, experts), 1 / experts)
    assert float(LoraMoe(experts=experts, balance=1.0).penalty(even, 0)) == pytest.approx(0)


def test_routers_follow_the_balance():
    """Before adapters say anything, the first step of a router is that of the balance alone."""
    task = a_task()
    free, held = (
        Method(Alright(lam=0.0), parameters=LoraMoe(experts=4, rank=2, balance=balance))
        for balance in (0.0, 2.0)
    )
    rows = len(task.data.demonstrations)
    every = np.tile(np.arange(rows), (2, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Choices, "batch", lambda *_: every)
        done = [trained([method], task, steps=1).params for method in (free, held)]
    begun = {name: value[0].clone().requires_grad_() for name, value in done[0].items()}
    begun |= {name: p[0] for name, p in task.initial([0]).items()}
    prompts = torch.from_numpy(task.data.prompts)[task.data.demonstrations[:, 0]]
    shares = policies.expert_shares(begun, prompts)
    value = 2.0 * (shares.var((1, 2), correction=0) / shares.mean((1, 2)) ** 2).mean()
    for name in ("body.0.weight.router", "head.weight.router"):
        (slope,) = torch.autograd.grad(value, begun[name], retain_graph=True)
        assert slope.abs().max() > 1e-4
        torch.testing.assert_close(done[0][name][0] - done[1][name][0], 0.3 * slope)


def test_nothing_is_added_where_it_has_no_place():
    task = a_task()
    with pytest.raises(InputError, match="adds to the network"):
        trained([LEVI], task, last_layer_only=True)
    with pytest.raises(InputError, match="take nothing that is added"):
        trained([EXPERTS], bare(task))
    assert "no layers" in LoraMoe().unsupported("convex")
    assert "no router" in LoraMoe().unsupported("llm")
    assert "one model" in SmallModel().unsupported("llm")


# ---------------------------------------------------------------------- demonstrations looked up


def test_nothing_shown_and_nothing_new_is_sft_bit_for_bit():
    plain = last(Mix(), engine="numpy")
    for part in (InContext(count=0), InContext(strength=0.0), SearchInstruct(expansion=0)):
        np.testing.assert_array_equal(last(Method(Mix(), data=part)), plain)
    for part in (InContext(), SearchInstruct()):
        assert not np.array_equal(last(Method(Mix(), data=part)), plain)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_demonstrations_changes_nothing(seed):
    problem = random_log_linear(seed, prompts=6, responses=3, demonstrations=9)
    order = np.random.default_rng(seed).permutation(9)
    other = replace(problem, demonstrations=problem.demonstrations[order])
    for count in (1, 3):
        found = [added_logits(p, InContext(count=count)) for p in (problem, other)]
        np.testing.assert_allclose(found[0], found[1], atol=1e-12)


def labelled(prompts: np.ndarray, labels: int) -> np.ndarray:
    """(P labels, d labels) features of prompts (P, d) for one label, and zero for the others."""
    each = np.einsum("pd,kl->pkld", prompts, np.eye(labels))
    return each.reshape(len(prompts) * labels, -1)


def test_support_is_the_histogram_of_labels_weighted_by_likeness():
    """By brute force over all ways to show one demonstration of each of the nearest prompts."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(5, 3))
    shown = np.array([0, 0, 1, 4, 5, 6, 7, 9, 13, 13])  # Prompt x has the rows 3 x to 3 x + 2.
    problem = replace(
        random_log_linear(0, prompts=5, responses=3, dimension=9),
        features=labelled(h, 3), demonstrations=shown, chosen=np.array([0]), rejected=np.array([1]),
    )  # fmt: skip
    part = InContext(count=2, strength=1.5)
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    cosines = unit @ unit.T
    found = added_logits(problem, part).reshape(5, 3)
    for x in range(5):
        others = sorted((y for y in range(5) if y != x), key=lambda y: -cosines[x, y])[:2]
        ways = list(product(*(shown[shown // 3 == y] for y in others)))
        expected = np.zeros(3)
        for rows in ways:
            for row in rows:
                expected[row % 3] += 1.5 * cosines[x, row // 3] / len(rows) / len(ways)
        np.testing.assert_allclose(found[x], expected, atol=1e-12)


@pytest.mark.parametrize("sft", [Nll(), Dft()])
@pytest.mark.parametrize("engine", ["auto", "numpy"])
def test_in_context_the_loss_is_that_of_shifted_logits(sft, engine):
    """Single rows against finite differences of the loss, for the plain loss and another."""
    problem = random_log_linear(2, prompts=5, dimension=6, demonstrations=7)
    added = added_logits(problem, InContext(strength=3.0))
    method = Method(Alright(lam=0.0), sft=sft, data=InContext(strength=3.0))
    found = last(method, problem=problem, steps=3, engine=engine, step_size=0.1)
    offsets, rows = problem.offsets, problem.demonstrations

    def loss(theta: np.ndarray, row: int) -> float:
        x = problem.prompt_of_row[row]
        z = problem.features @ theta + added
        own = slice(offsets[x], offsets[x + 1])
        return float(np.log(np.exp(z[own]).sum()) - z[row])

    for theta, after in zip(found[0, :-1], found[0, 1:], strict=True):
        slopes = []
        for row in rows:
            step = 1e-6 * np.eye(6)
            slope = [(loss(theta + e, row) - loss(theta - e, row)) / 2e-6 for e in step]
            factor = np.exp(-loss(theta, row)) if isinstance(sft, Dft) else 1.0
            slopes.append(factor * np.array(slope))
        moved = (theta - after) / 0.1
        assert np.abs(moved - slopes).max(axis=1).min() < 1e-6


def test_full_gradients_in_context_are_means_of_single_ones():
    problem = random_log_linear(2, prompts=5, dimension=6, demonstrations=7)
    part = InContext(count=3)
    settings = {"sft": Nll(), "preference": Nominal()}
    added, one = added_logits(problem, part), np.zeros(1, dtype=np.int64)
    sampler = InContextSampler(problem, added, 0, one, **settings)
    theta = np.random.default_rng(0).normal(size=(1, 6))
    for objective, shares in enumerate((problem.sft_weights, problem.preference_weights)):
        rows = (sampler.evaluate(objective, theta, one + k)[1] for k in range(len(shares)))
        expected = sum(share * row for share, row in zip(shares, rows, strict=True))
        np.testing.assert_allclose(sampler.mean_gradient(objective, theta), expected, atol=1e-12)
    # Pairs have no demonstrations before them.
    plain = problem.gradients(theta)[:, 1]
    np.testing.assert_allclose(sampler.mean_gradient(1, theta), plain, atol=1e-12)


def test_long_prompts_cost_what_they_have():
    part = InContext(count=3)
    assert Method(Alright(lam=0.0), data=part).updates(400) == 100
    assert Method(Mix(), data=part).updates(500) == 100
    assert Method(Alright(lam=1.0), data=part).updates(400) == 400
    assert Method(Mix(), data=SearchInstruct()).updates(400) == 200


def test_new_prompts_are_mixtures_with_the_answers_of_their_documents():
    """Without noise a mixture lies between two prompts, and like labels speak for themselves."""
    problem = random_log_linear(5, prompts=7, responses=3, dimension=4, demonstrations=8)
    part = SearchInstruct(expansion=3, noise=0.0, error=0.25)
    whole = trained_on(problem, part, np.zeros(4))
    shown = np.unique(problem.prompt_of_row[problem.demonstrations])
    count, rows = 3 * len(shown), len(problem.features)
    assert len(whole.offsets) == len(problem.offsets) + count
    np.testing.assert_array_equal(whole.features[:rows], problem.features)
    old = problem.features.reshape(7, -1)[shown]
    for k, new in enumerate(whole.features[rows:].reshape(count, -1)):
        base = old[k // 3]
        lines = [(o - base, new - base) for o in old if not np.array_equal(o, base)]
        shares = [float(a @ b / (a @ a)) for a, b in lines]
        apart = [np.abs(s * a - b).max() for s, (a, b) in zip(shares, lines, strict=True)]
        assert min(apart) < 1e-12
        assert 0 <= shares[int(np.argmin(apart))] <= 0.5
    weights = whole.demonstrated[rows:].reshape(count, 3)
    # Of all weight, new prompts have as much each as the old ones have on average.
    np.testing.assert_allclose(weights.sum(axis=1), 1 / (len(shown) + count), atol=1e-12)
    share = np.sort(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(share, np.broadcast_to([0.125, 0.125, 0.75], share.shape))
    np.testing.assert_allclose(whole.demonstrated[:rows] * (1 + 3), problem.demonstrated)
    np.testing.assert_array_equal(whole.chosen, problem.chosen)


def test_an_answer_is_the_label_of_the_nearest_demonstrations():
    rng = np.random.default_rng(1)
    centres = np.array([[5.0, 0.0], [0.0, 5.0]])
    h = np.concatenate([centres + 0.1 * rng.normal(size=(2, 2)) for _ in range(6)])
    truth = np.tile([2, 0], 6)
    problem = replace(
        random_log_linear(0, prompts=12, responses=3, dimension=6),
        features=labelled(h, 3), demonstrations=np.arange(12) * 3 + truth,
        chosen=np.array([0]), rejected=np.array([1]),
    )  # fmt: skip
    whole = trained_on(problem, SearchInstruct(expansion=4, error=0.0, noise=0.0), np.zeros(6))
    answers = whole.demonstrations[12:]
    assert len(answers) == 48
    new = whole.features.reshape(-1, 3, 3, 2)[12:]
    nearer = np.where(new[:, 0, 0, 0] > new[:, 0, 0, 1], 2, 0)
    np.testing.assert_array_equal(answers % 3, nearer)


@pytest.mark.parametrize("sft", [Nll(), Dft()])
def test_a_network_without_layers_trains_in_context_as_its_convex_problem(sft):
    task = replace(a_task(), config=PolicyConfig(depth=0))
    base = task.initial([0])
    problem = task.last_layer({name: p[0] for name, p in base.items()}, 1e6)
    method = Method(Mix(), sft=sft, data=InContext(count=3))
    done = train(
        task, [Run(method, 2)], steps=6, learning_rate=0.2, batch_size=1, optimizer="sgd",
        start=base, reference=base,
    )  # fmt: skip
    marks = {"problem": problem, "steps": 6, "step_size": 0.2, "checkpoints": [6]}
    ends = last(method, **marks)[2, -1]
    np.testing.assert_allclose(done.params[policies.HEAD][0].flatten(), ends, atol=1e-9)
    assert np.abs(ends - last(Method(Mix(), sft=sft), **marks)[2, -1]).max() > 1e-4
    # Measures are those of prompts alone.
    again = task.evaluate(done.params, task.reference(base))
    scored = done.table[done.table.step == 6]
    np.testing.assert_allclose(scored.sft_loss_train, again["sft_loss_train"], rtol=1e-9)


def test_new_prompts_of_networks_are_mixed_and_answered_and_not_scored():
    task = a_task()
    part = SearchInstruct(expansion=2, noise=0.0, error=0.0, documents=1)
    more = task.looked_up(part).data
    shown = np.unique(task.data.demonstrations[:, 0])
    old, new = len(task.data.prompts), more.prompts[len(task.data.prompts) :]
    assert len(new) == 2 * len(shown)
    each = round(20 / len(shown))
    rows = more.demonstrations[20:]
    assert len(rows) == each * len(new)
    assert set(rows[:, 0]) == set(range(old, old + len(new)))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (new, more.prompts[shown])]
    nearest = shown[np.argmax(unit[0] @ unit[1].T, axis=1)]
    labels = np.zeros((old, 4))
    np.add.at(labels, tuple(task.data.demonstrations.T), 1.0)
    for place, answer in rows:
        own = labels[nearest[place - old]]
        assert own[answer] == own.max()
    done = trained([Mix(), Method(Mix(), data=part)], task)
    begun = done.table[done.table.step == 0].sft_loss_train.to_numpy().reshape(2, 2)
    np.testing.assert_array_equal(begun[0], begun[1])
    assert not torch.equal(done.params[policies.HEAD][2:], done.params[policies.HEAD][:2])
    for none in (InContext(count=0), InContext(strength=0.0), SearchInstruct(expansion=0)):
        same = trained([Method(Mix(), data=none)], task).params[policies.HEAD]
        torch.testing.assert_close(same, done.params[policies.HEAD][:2], rtol=0, atol=1e-12)


def test_lookups_need_dense_features():
    sparse = replace(PROBLEM, features=sp.csr_array(PROBLEM.features))
    for part in (InContext(), SearchInstruct()):
        with pytest.raises(InputError, match="dense features"):
            last(Method(Mix(), data=part), problem=sparse)
        assert part.unsupported("convex") is None
        assert part.unsupported("networks") is None
        with pytest.raises(InputError, match="cannot be looked up"):
            trained([Method(Mix(), data=part)], with_records(a_task()))
    assert InContext().unsupported("llm") is None
    assert "stay as they are" in SearchInstruct().unsupported("llm")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 4))
def test_rows_that_are_shown_are_the_nearest_of_other_prompts(seed, count):
    """By brute force, over words with repetitions."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(5, 9, size=rng.integers(0, 6)) for _ in range(7)]
    counts = np.array([[np.sum(p == word) for word in range(5, 9)] for p in prompts])
    lengths = np.maximum(np.linalg.norm(counts, axis=1), 1)
    for k, places in enumerate(InContext(count=count).shown(prompts)):
        others = [j for j in range(7) if not np.array_equal(prompts[j], prompts[k])]
        near = {j: counts[j] @ counts[k] / lengths[j] / lengths[k] for j in others}
        assert len(places) == min(count, len(others))
        assert set(places) <= set(others)
        chosen = [near[j] for j in places]
        np.testing.assert_allclose(chosen, sorted(near.values())[len(others) - len(places) :])


def moment(policy: Any, uniform: Any = None) -> Moment:
    return Moment(0, 1, 9, 0, 1, None, 0, ("theta",), lambda: uniform, policy=policy)
