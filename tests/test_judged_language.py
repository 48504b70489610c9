"""Responses that the tiny language model writes, under the exact judge of its language."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.small_language import DATA
from tradeoff.arena.network_board import network_left_out
from tradeoff.arena.network_runs import configuration
from tradeoff.data.synthetic import satisfies
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.errors import InputError
from tradeoff.methods import Method, find
from tradeoff.methods.losses import (
    BestAgainstWorst,
    Egpo,
    Grouped,
    Grpo,
    Luffy,
    OnlineDpo,
    SemanticReward,
    SrftDemonstrations,
    SrftOwn,
    Xpo,
)
from tradeoff.methods.losses.records import ResponseGroup, Responses, WrittenGroup
from tradeoff.networks._rollouts import answered, laid_out
from tradeoff.networks.followed import Run
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.train import train
from tradeoff.networks.trained_losses import Reading, sft_value
from tradeoff.schedules import FORWARD, Alright, Mix

TOKENIZER = train_tokenizer(DATA.corpus, 384)
SHAPE = LanguageModelConfig(vocabulary=len(TOKENIZER), width=8, layers=2, heads=2, hidden=12)


def model(seed: int) -> LanguageModel:
    """A model that ends responses often, so that some are short enough to be judged."""
    made = LanguageModel(SHAPE, seed).double()
    with torch.no_grad():
        for weights in made.parameters():
            weights.mul_(3.0)
    return made


POLICY, REFERENCE = (
    {name: value.detach() for name, value in model(seed).named_parameters()} for seed in (3, 4)
)
TASK = LanguageTask.of(model(3), DATA, TOKENIZER, evaluation_rows=8)
PADDED = replace(TASK, ragged=False)
INDEX = torch.tensor([3, 0, 7, 3, 5, 1])
LOSSES = [OnlineDpo(), OnlineDpo(against="reference"), Xpo(), Xpo(against="policy"),
          BestAgainstWorst(samples=5), Grpo(), Egpo(), SrftOwn()]  # fmt: skip
IDS = [f"{loss.name}-{k}" for k, loss in enumerate(LOSSES)]


@pytest.fixture
def styles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that tells the responses of an untrained model apart."""
    monkeypatch.setattr(
        LanguageTask, "rewards", lambda *given: [float(sum(ids) % 2) for ids in given[2]]
    )


def leaves() -> dict[str, torch.Tensor]:
    return {name: value.clone().requires_grad_() for name, value in POLICY.items()}


def slopes(loss: Grouped, task: LanguageTask, seed: int = 0) -> tuple[float, torch.Tensor]:
    """Mean loss, and its gradient."""
    params = leaves()
    value = loss.of_written(task.written(params, REFERENCE, INDEX, loss, seed)).mean()
    found = torch.autograd.grad(value, list(params.values()))
    return float(value.detach()), torch.cat([each.flatten() for each in found])


def group(seed: int, n: int = 3, k: int = 4, **changes: Any) -> WrittenGroup:
    rng = np.random.default_rng(seed)
    rewards = (rng.random((n, k)) < 0.5).astype(float)
    given = {"rewards": rewards, "lengths": rng.integers(1, 9, (n, k)).astype(float), **changes}
    tensors = {name: torch.as_tensor(value) for name, value in given.items()}
    log_probs, reference = (torch.from_numpy(-20 * rng.random((n, k))) for _ in range(2))
    return WrittenGroup(log_probs, reference, **tensors)


# ---------------------------------------------------------------------- losses by hand


@given(st.integers(0, 99))
def test_online_dpo_is_dpo_of_the_pair_that_the_judge_makes(seed: int) -> None:
    of = group(seed, k=2)
    found = OnlineDpo(beta=0.3).of_written(of)
    for row, (first, second) in enumerate(of.rewards.tolist()):
        margin = 0.3 * (of.log_probs - of.reference)[row] @ torch.tensor([1.0, -1.0]).double()
        wanted = 0.0 if first == second else float(-F.logsigmoid((first - second) * margin))
        assert float(found[row]) == pytest.approx(wanted, rel=1e-12)
    more = Xpo(beta=0.3, alpha=0.7).of_written(of) - found
    torch.testing.assert_close(more, 0.7 * of.log_probs[:, 1])


@given(st.integers(0, 99))
def test_grpo_is_the_published_sum_over_the_group(seed: int) -> None:
    of = group(seed)
    found = Grpo().of_written(of)
    for row in range(3):
        rewards = of.rewards[row].numpy()
        gain = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        per_token = (of.log_probs / of.lengths)[row].numpy()
        assert float(found[row]) == pytest.approx(-(gain * per_token).mean(), abs=1e-12)
    torch.testing.assert_close(Egpo(alpha=0.0).of_written(of), found)


@given(st.integers(0, 99))
def test_entropy_of_own_responses_is_per_token(seed: int) -> None:
    of = group(seed)
    per_token = of.log_probs / of.lengths
    entropy = -per_token.mean(1, keepdim=True)
    plain = Grpo()
    rewards = of.rewards
    gain = (rewards - rewards.mean(1, keepdim=True)) / (
        rewards.std(1, correction=0, keepdim=True) + 1e-6
    )
    bonus = torch.minimum(0.4 * entropy, gain.abs() / 2)
    expected = -((gain + bonus) * per_token).mean(1)
    torch.testing.assert_close(Egpo().of_written(of), expected)
    own = torch.where(rewards == 1, 0.1 * entropy.exp(), -torch.ones_like(rewards))
    found = SrftOwn().of_written(of)
    torch.testing.assert_close(found, -(own * per_token).mean(1))
    assert plain.of_written(of).shape == found.shape


def test_bolt_takes_the_first_best_and_the_first_worst() -> None:
    rewards = np.array([[0.0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 1]])
    assert BestAgainstWorst(samples=4).kept(rewards).tolist() == [[1, 0], [0, 0], [0, 1]]
    of = group(0, k=2, rewards=[[1.0, 0], [1, 1], [1, 0]])
    torch.testing.assert_close(
        BestAgainstWorst(beta=0.2).of_written(of), OnlineDpo(beta=0.2).of_written(of)
    )
    assert float(BestAgainstWorst().of_written(of)[1]) == 0.0


@pytest.mark.parametrize("loss", [Grpo(), Egpo(), OnlineDpo(beta=0.5)], ids=lambda x: x.name)
def test_written_groups_have_the_mean_gradient_of_all_responses(loss: Grouped) -> None:
    """As groups become large, where rewards are sure; a pair is drawn many times instead."""
    rng = np.random.default_rng(0)
    law = rng.dirichlet(np.ones(5))
    rewards = np.array([0.0, 1, 1, 0, 1]) * (1.0 if isinstance(loss, Grpo) else 1e3)
    logits = torch.from_numpy(np.log(law)).requires_grad_()
    reference = torch.from_numpy(np.log(rng.dirichlet(np.ones(5))))
    count = 400_000
    at = loss.drawn_at
    warm = law ** (1 / at) / (law ** (1 / at)).sum()
    shape = (1, count) if isinstance(loss, Grpo) else (count, 2)
    drawn = torch.from_numpy(rng.choice(5, shape, p=warm))
    logs = logits.log_softmax(0)
    judged = torch.from_numpy(rewards)
    whole = loss.of_group(ResponseGroup(logs[None], reference[None], judged[None])).sum()
    some = loss.of_written(WrittenGroup(logs[drawn], reference[drawn], judged[drawn])).mean()
    first, second = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (whole, some))
    if isinstance(loss, OnlineDpo):  # A fitted judge takes half of each side of a tie.
        tied = torch.from_numpy(rewards[:, None] == rewards)
        ratio = logs - reference
        margin = 0.5 * (ratio[:, None] - ratio)
        both = (F.softplus(margin) - margin / 2) * tied * torch.from_numpy(np.outer(warm, warm))
        first = first - torch.autograd.grad(both.sum(), logits)[0]
    torch.testing.assert_close(second, first, atol=4e-3, rtol=0)


# ---------------------------------------------------------------------- what is written


@pytest.mark.usefixtures("styles")
@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_groups_are_of_what_each_writer_writes(loss: Grouped) -> None:
    """Log-probabilities of policy and reference by whole forward passes, without packing."""
    found = TASK.written(POLICY, REFERENCE, INDEX, loss, 5)
    longest = int(TASK.pairs.mask.sum(-1).max())
    prompts = []
    for row in INDEX.tolist():
        start = int(TASK.pairs.mask[row, 0].int().argmax())
        prompts.append(TASK.pairs.tokens[row, 0, :start].tolist())
        assert TOKENIZER.decode(prompts[-1]) == DATA.preference_train[row].prompt
    responses: list[list[list[int]]] = [[] for _ in prompts]
    for which, (writer, params) in enumerate((("policy", POLICY), ("reference", REFERENCE))):
        count = loss.writers.count(writer)
        if not count:
            continue
        flat = answered(
            TASK.model(params),
            [p for p in prompts for _ in range(count)],
            eos=TOKENIZER.eos,
            longest=longest,
            temperature=loss.drawn_at,
            seed=5 + (which << 40),
        )
        for k, own in enumerate(responses):
            own += flat[k * count : (k + 1) * count]
    rewards = np.array([[sum(ids) % 2 for ids in own] for own in responses], dtype=float)
    kept = loss.kept(rewards)
    for k, (prompt, own) in enumerate(zip(prompts, responses, strict=True)):
        for j, which in enumerate(kept[k].tolist()):
            ids = own[which]
            whole = torch.tensor([[*prompt, *ids]])
            logs = [TASK.model(p)(whole)[0].log_softmax(-1) for p in (POLICY, REFERENCE)]
            places = range(len(prompt) - 1, whole.shape[1] - 1)
            sums = [float(x[list(places), whole[0, len(prompt) :]].sum().detach()) for x in logs]
            assert float(found.log_probs[k, j].detach()) == pytest.approx(sums[0], rel=1e-9)
            if loss.needs_reference:
                assert float(found.reference[k, j]) == pytest.approx(sums[1], rel=1e-9)
            assert float(found.lengths[k, j]) == len(ids)
            assert float(found.rewards[k, j]) == rewards[k, which]
    assert (found.reference is None) == (not loss.needs_reference)


def test_the_judge_is_the_rule_of_the_language() -> None:
    eos = TOKENIZER.eos
    for row, pair in enumerate(DATA.preference_train):
        sides = [[*TOKENIZER.encode(text), eos] for text in (pair.chosen, pair.rejected)]
        assert TASK.rewards(row, sides) == [1.0, 0.0]
        texts = ["With pleasure: 3.", "3. That is what follows from your question.", "", "3"]
        ids = [[*TOKENIZER.encode(text), eos] for text in texts]
        wanted = [float(satisfies(pair.preference, text)) for text in texts]
        assert TASK.rewards(row, ids) == wanted
        # What does not end is no response.
        assert not any(TASK.rewards(row, [each[:-1] for each in ids if len(each) > 1]))


@pytest.mark.parametrize("reward", [0.0, 1.0])
@pytest.mark.parametrize("loss", [*LOSSES[:2], *LOSSES[4:7]], ids=lambda loss: loss.name)
def test_a_judge_that_never_distinguishes_gives_no_gradient(
    loss: Grouped, reward: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = replace(loss, alpha=0.0) if isinstance(loss, Egpo) else loss
    monkeypatch.setattr(LanguageTask, "rewards", lambda *given: [reward] * len(given[2]))
    value, slope = slopes(loss, TASK)
    assert value == 0.0
    assert not slope.any()


@pytest.mark.slow
@pytest.mark.usefixtures("styles")
@pytest.mark.parametrize("loss", LOSSES, ids=IDS)
def test_layouts_agree_and_seeds_decide(loss: Grouped) -> None:
    value, slope = slopes(loss, TASK)
    assert slope.any()
    padded, other = slopes(loss, PADDED)
    assert padded == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(other, slope, rtol=1e-6, atol=1e-10)
    again = slopes(loss, TASK)
    assert again[0] == value
    assert torch.equal(again[1], slope)
    assert slopes(loss, TASK, seed=1)[0] != value


def test_rows_are_laid_out() -> None:
    found = laid_out([([5, 6], [7]), ([5], [8, 9, 1])], 0)
    assert found.tokens.tolist() == [[5, 6, 7, 0], [5, 8, 9, 1]]
    assert found.mask.tolist() == [[False, False, True, False], [False, True, True, True]]


def test_likeness_is_the_cosine_of_mean_states_of_the_base_model() -> None:
    """With states taken one row at a time, from a model whose output layer is the identity."""
    found = TASK.written(POLICY, REFERENCE, INDEX, SemanticReward(), 5)
    plain = TASK.written(POLICY, REFERENCE, INDEX, Grpo(), 5)
    assert torch.equal(found.log_probs, plain.log_probs)
    assert plain.likeness is None
    head = LanguageModel(replace(SHAPE, tied=False), 0).double()
    head.load_state_dict({**POLICY, "lm_head.weight": torch.zeros(SHAPE.vocabulary, SHAPE.width)})
    head.lm_head.weight = torch.nn.Parameter(torch.eye(SHAPE.width).double())
    longest, count = int(TASK.pairs.mask.sum(-1).max()), 8

    def features(prompt: list[int], response: list[int]) -> torch.Tensor:
        states = head(torch.tensor([[*prompt, *response]]))[0, len(prompt) :].detach()
        return F.normalize(states.mean(0), dim=0)

    prompts = [
        TASK.pairs.tokens[row, 0, : int(TASK.pairs.mask[row, 0].int().argmax())].tolist()
        for row in INDEX.tolist()
    ]
    flat = answered(
        TASK.model(POLICY),
        [prompt for prompt in prompts for _ in range(count)],
        eos=TOKENIZER.eos,
        longest=longest,
        temperature=1.0,
        seed=5,
    )
    for k, row in enumerate(INDEX.tolist()):
        chosen = TASK.pairs.tokens[row, 0][TASK.pairs.mask[row, 0]].tolist()
        wanted = features(prompts[k], chosen)
        for j in range(count):
            own = float(features(prompts[k], flat[k * count + j]) @ wanted)
            assert float(found.likeness[k, j]) == pytest.approx(own, rel=1e-6)
    value, slope = slopes(SemanticReward(), TASK)
    padded, _ = slopes(SemanticReward(), PADDED)
    assert padded == pytest.approx(value, rel=1e-6)
    assert slope.any()
    assert SemanticReward().priced(9.9, 1.2) == pytest.approx(1.2 * (8 + 17 * FORWARD))


# ---------------------------------------------------------------------- entropies of tokens


def test_demonstrations_count_by_the_entropy_of_each_token() -> None:
    params, index = leaves(), torch.tensor([3, 0, 7])
    loss, total, count = SrftDemonstrations(half=0.7), 0.0, 0
    for row in index.tolist():
        tokens, mask = TASK.sft.tokens[row], TASK.sft.mask[row]
        logs = TASK.model(POLICY)(tokens[None])[0].log_softmax(-1)
        for place in mask.nonzero()[:, 0].tolist():
            own = logs[place - 1]
            own = own.detach()
            entropy, log_p = -(own.exp() @ own), own[tokens[place]][None]
            shape = Luffy().weights(Responses(log_p))
            total -= float((0.7 * torch.exp(-entropy) + shape) * log_p)
            count += 1
    for task in (TASK, PADDED):
        found = sft_value(loss, task.read(params, index, Reading(entropies=True)), None, 3)
        assert float(found.detach()) == pytest.approx(total / count, rel=1e-9)


# ---------------------------------------------------------------------- training and cost


def ended(*methods: Method, task: LanguageTask = TASK, seeds: tuple[int, ...] = (0,)) -> Any:
    runs = [Run(method, seed) for method in methods for seed in seeds]
    settings = {"steps": 2, "learning_rate": 1e-2, "batch_size": 2, "evaluate_every": 2}
    done = train(task, runs, **settings)
    return torch.cat([value.flatten(1) for value in done.params.values()], dim=1)


@pytest.mark.slow
@pytest.mark.usefixtures("styles")
def test_the_same_seed_gives_the_same_run_alone_or_beside_others() -> None:
    every = [Method(Mix(lam=0.5), preference=loss) for loss in LOSSES]
    every.append(replace(find("srft"), schedule=Mix(lam=0.5)))
    found = ended(*every)
    assert torch.isfinite(found).all()
    assert len(found.unique(dim=0)) == len(found)
    alone, other = ended(every[5], seeds=(0, 1))
    assert torch.equal(alone, found[5])
    assert not torch.equal(other, alone)


@pytest.mark.usefixtures("styles")
def test_runs_that_are_one_batch_train_alike() -> None:
    every = [replace(find(name), schedule=Mix(lam=0.5)) for name in ("online_dpo", "srft")]
    torch.testing.assert_close(ended(*every, task=PADDED), ended(*every), rtol=1e-4, atol=1e-6)


def test_a_judge_without_a_preference_leaves_the_policy_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LanguageTask, "rewards", lambda *given: [1.0] * len(given[2]))
    found = ended(Method(Alright(lam=1.0), preference=OnlineDpo()))
    base = torch.cat([value.flatten() for value in TASK.initial([0]).values()])
    assert torch.equal(found[0].to(base), base)


def test_what_is_written_and_read_is_paid() -> None:
    """A gradient for each trained response; a third to write it, and for the reference to read."""
    prices = {k: loss.priced(9.9, 1.2) / 1.2 for k, loss in zip(IDS, LOSSES, strict=True)}
    third = FORWARD
    assert prices[IDS[0]] == prices[IDS[1]] == prices[IDS[2]] == pytest.approx(2 + 4 * third)
    assert prices[IDS[3]] == pytest.approx(3 + 6 * third)
    assert prices[IDS[4]] == pytest.approx(2 + (5 + 2) * third)
    for name in IDS[5:]:
        assert prices[name] == pytest.approx(8 + 8 * third)
    for loss in LOSSES:
        assert loss.priced(1.5) == pytest.approx(1.5 * loss.cost)
    plain, paid = Method(Mix()), Method(Mix(), preference=OnlineDpo())
    for response in (None, 1.2):
        assert plain.updates(600.0, pair=1.5, response=response) == 240
    price = 1.2 * (2 + 4 * third)
    assert paid.updates(600.0, pair=1.5, response=1.2) == round(600 / (1 + price))


@dataclass(frozen=True, kw_only=True)
class Listed(Grpo):
    """A loss that needs all responses."""

    name: ClassVar[str] = "listed"
    writers: ClassVar[tuple[str, ...]] = ()


def test_methods_take_their_place_on_the_board() -> None:
    for name in ("online_dpo", "xpo", "bolt", "grpo", "egpo", "srft_own", "srft_demonstrations"):
        assert network_left_out(name, "language") is None
        assert network_left_out(name, "policies") is None
    assert network_left_out("srft", "language") is None
    assert "too many" in str(network_left_out("kto", "language"))
    with pytest.raises(InputError, match="compares all responses"):
        ended(Method(Mix(), preference=Listed()))


@pytest.mark.slow
def test_dearer_methods_make_fewer_updates_on_the_board() -> None:
    steps = {
        name: configuration(find(name), name, "language-mild", 0.5, 64.0, 1)["steps"]
        for name in ("mix", "online_dpo", "grpo")
    }
    assert steps["mix"] > steps["online_dpo"] > steps["grpo"] >= 4
