"""Methods that look at single tokens of responses: limits, sums by hand, and equal layouts."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.small_language import DATA
from tradeoff.convex.instances import random_log_linear
from tradeoff.convex.simulate import trajectories
from tradeoff.data.tokenizer import train_tokenizer
from tradeoff.errors import InputError
from tradeoff.methods import Method, find
from tradeoff.methods.losses import (
    Dpo,
    HintedRollouts,
    IntuitiveSft,
    LdDpo,
    MaskedThought,
    Nll,
    PrefixRft,
    RationaleSft,
    TlTraining,
)
from tradeoff.methods.losses.rollouts import RolledOut
from tradeoff.methods.losses.token_classes import marked, of_mean_one, rarer
from tradeoff.methods.transforms import Uds
from tradeoff.networks._rollouts import written
from tradeoff.networks.followed import Choices, Run
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask
from tradeoff.networks.train import grid, train
from tradeoff.networks.trained_losses import Reading, sft_value
from tradeoff.schedules import FORWARD, SFT, Mix, Sequential

TOKENIZER = train_tokenizer(DATA.corpus, 290)
SHAPE = LanguageModelConfig(vocabulary=len(TOKENIZER), width=16, layers=2, heads=2, hidden=24)
MODEL = LanguageModel(SHAPE, 3).double()
TASK = LanguageTask.of(MODEL, DATA, TOKENIZER, evaluation_rows=8)
PADDED = replace(TASK, ragged=False)
PARAMS = {name: value.detach() for name, value in MODEL.named_parameters()}
INDEX = torch.tensor([3, 0, 7, 3])
POLICIES = PolicyTask(policy_data(0, prompts=4), PolicyConfig(width=8, depth=1))
PROBLEM = random_log_linear(0, demonstrations=40, pairs=10)
SETTINGS: dict[str, Any] = {
    "steps": 3,
    "learning_rate": 1e-2,
    "batch_size": 3,
    "evaluate_every": 3,
}


@dataclass(frozen=True, kw_only=True)
class PlainSft(Nll):
    """SFT, by another name than that of the slot's identity."""

    name: ClassVar[str] = "plain_sft"


@dataclass(frozen=True, kw_only=True)
class Scaled(TlTraining):
    """TL-Training with all weights eight times as large."""

    name: ClassVar[str] = "scaled"

    def weights_of_tokens(self, pieces: Any) -> list[np.ndarray]:
        return [8 * each for each in super().weights_of_tokens(pieces)]


def trained(*methods: Any, task: Any = TASK, **settings: Any) -> list[torch.Tensor]:
    """Parameters of a run of each method at its end, as one vector each."""
    done = train(task, grid(methods, [1]), **{**SETTINGS, **settings})
    return [
        torch.cat([value[run].flatten() for value in done.params.values()])
        for run in range(len(methods))
    ]


def with_sft(*losses: Any, **settings: Any) -> list[torch.Tensor]:
    return trained(*(Method(Mix(lam=0.4), sft=loss) for loss in losses), **settings)


# ---------------------------------------------------------------------- limits


def test_limits_are_sft_bit_for_bit() -> None:
    plain, *same = with_sft(
        PlainSft(),
        TlTraining(most=1.0),
        RationaleSft(weight=1.0),
        MaskedThought(rate=0.0),
        IntuitiveSft(own=0.0, discount=0.0),
    )
    assert all(torch.equal(each, plain) for each in same)
    others = (
        TlTraining(),
        RationaleSft(),
        MaskedThought(),
        IntuitiveSft(own=0.0),
        IntuitiveSft(discount=0.0),
    )
    assert not any(torch.equal(each, plain) for each in with_sft(*others))
    # The rate has not risen yet in the first update of a stage.
    given = MaskedThought(rate=1.0, warm=1.0), MaskedThought(rate=1.0, warm=0.0), PlainSft()
    risen, at_once, plain = with_sft(*given, steps=1, evaluate_every=1)
    assert torch.equal(risen, plain)
    assert not torch.equal(at_once, plain)


def test_the_scale_of_weights_changes_nothing() -> None:
    assert torch.equal(*with_sft(Scaled(), TlTraining()))
    given = [np.array([1.0, 3.0]), np.array([0.5])]
    for one, other in zip(of_mean_one(given), of_mean_one([7 * x for x in given]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-15)
    assert np.concatenate(of_mean_one(given)).mean() == pytest.approx(1.0)
    with pytest.raises(InputError, match="has a weight"):
        of_mean_one([np.zeros(3)])


def test_ld_dpo_without_a_discount_is_dpo_bit_for_bit() -> None:
    losses = (LdDpo(alpha=1.0), Dpo(), LdDpo())
    one, other, less = trained(*(Method(Sequential(), preference=loss) for loss in losses))
    assert torch.equal(one, other)
    assert not torch.equal(less, other)


def test_as_many_candidates_as_rows_are_no_choice() -> None:
    mix = Mix(lam=0.4)
    one, chosen, plain = trained(Method(mix, data=Uds(candidates=1)), Method(mix, data=Uds()), mix)
    assert torch.equal(one, plain)
    assert not torch.equal(chosen, plain)


# ---------------------------------------------------------------------- classes of tokens


texts = st.lists(st.text("ab 1.:", max_size=3), max_size=8)


@given(texts, st.sampled_from([r"\d+", r"\b\w\b", r"^.*:\s|(?<=\.)\s.*$", "a b", ""]))
def test_a_token_is_marked_by_any_of_its_characters(pieces: list[str], pattern: str) -> None:
    text, at = "".join(pieces), 0
    inside = {k for m in re.finditer(pattern, text, re.DOTALL) for k in range(*m.span())}
    expected = []
    for piece in pieces:
        places = range(at, at + len(piece))
        whole = piece.isspace() and inside.issuperset(places)
        expected.append(whole or any(k in inside and not text[k].isspace() for k in places))
        at += len(piece)
    assert marked(pieces, pattern).tolist() == expected


def test_key_tokens_weigh_as_their_number_says() -> None:
    pieces = [["It", " is", " 4", "2", "."], ["So", " it", " is", " done", ""]]
    found = TlTraining().weights_of_tokens(pieces)
    np.testing.assert_array_equal(found[0], [1, 1, 4, 4, 1])
    np.testing.assert_array_equal(found[1], np.ones(5))
    np.testing.assert_array_equal(TlTraining(most=3.0).weights_of_tokens(pieces)[0][2:4], [3, 3])
    # Where key tokens are the greater part, they do not weigh less than the others.
    assert TlTraining(pattern=r".+").weights_of_tokens(pieces)[0].tolist() == [1.0] * 5
    with pytest.raises(InputError, match="not a regular expression"):
        TlTraining(pattern="(")


def test_rationales_are_what_is_no_answer() -> None:
    pieces = [["With", " pleasure", ":", " h", " l", ".", " That", " is", " it", ".", ""]]
    found = RationaleSft(weight=0.25).weights_of_tokens(pieces)[0]
    np.testing.assert_array_equal(found, [0.25] * 3 + [1.0] * 3 + [0.25] * 4 + [1.0])
    assert RationaleSft(weight=0.0).weights_of_tokens([["4", "2", "."]])[0].tolist() == [1.0] * 3


def test_the_language_has_answers_and_rationales() -> None:
    """Weight 0 is SFT on the tokens of answers, up to the scale of the loss."""
    loss = RationaleSft(weight=0.0)
    table = TASK.token_weights(loss)
    mask = TASK.sft.mask
    assert table[mask].mean().item() == pytest.approx(1.0)
    answer = mask & (table > 0)
    assert 0.1 < answer.sum() / mask.sum() < 0.9
    said = TOKENIZER.decode(TASK.sft.tokens[0][answer[0]].tolist())
    whole = TOKENIZER.decode(TASK.sft.tokens[0][mask[0]].tolist())
    assert said == whole.removeprefix("With pleasure:").split(".")[0] + ".<eos>"
    params = {name: value.clone().requires_grad_() for name, value in PARAMS.items()}
    value = sft_value(loss, TASK.read(params, INDEX, Reading(weights=table)), None, len(INDEX))
    by_hand = -sum(
        one_log_prob(params, TASK.sft.tokens[row], t)
        for row in INDEX.tolist()
        for t in answer[row].nonzero()[:, 0].tolist()
    )
    factor = int(mask.sum()) / int(answer.sum()) / int(mask[INDEX].sum())
    torch.testing.assert_close(value, factor * by_hand, rtol=1e-10, atol=0)
    slopes, expected = (
        torch.autograd.grad(x, list(params.values())) for x in (value, factor * by_hand)
    )
    for one, other in zip(slopes, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-12)


def one_log_prob(params: Any, tokens: torch.Tensor, place: int) -> torch.Tensor:
    """Log-probability of the token at a place, by a pass over the tokens before it."""
    logits = torch.func.functional_call(MODEL, params, (tokens[None, :place],))[0, -1]
    return logits.log_softmax(-1)[tokens[place]]


def test_a_demonstration_is_key_if_its_prompt_has_a_more_frequent_one() -> None:
    prompts, responses = np.array([0, 0, 0, 1, 1, 2]), np.array([5, 5, 6, 7, 8, 9])
    shares = np.full(6, 1 / 6)
    np.testing.assert_array_equal(rarer(prompts, responses, shares), [0, 0, 1, 0, 0, 0])
    weights = TlTraining().weights_of_rows(prompts, responses, shares)
    np.testing.assert_allclose(weights, [1, 1, 5, 1, 1, 1])
    shares = np.array([0.1, 0.1, 0.5, 0.1, 0.1, 0.1])
    np.testing.assert_array_equal(rarer(prompts, responses, shares), [1, 1, 0, 0, 0, 0])


def test_on_convex_problems_demonstrations_are_weighted() -> None:
    settings: dict[str, Any] = {"steps": 30, "step_size": 0.2, "replicas": 3, "engine": "numpy"}
    run, same = (
        trajectories(PROBLEM, method, **settings).last
        for method in (Method(Mix(), sft=TlTraining(most=1.0)), Mix())
    )
    assert np.array_equal(run, same)
    found = trajectories(PROBLEM, Method(Mix(), sft=TlTraining()), **settings).last
    assert not np.array_equal(found, same)
    shown = PROBLEM.demonstrations
    of = PROBLEM.prompt_of_row[shown]
    counts = np.bincount(shown, minlength=len(PROBLEM.features))[shown]
    key = np.array([c < counts[of == x].max() for c, x in zip(counts, of, strict=True)])
    assert 0 < key.sum() < len(key) / 2
    weight = min((~key).sum() / key.sum(), 9.0)
    # Draws stay as they are. With exact gradients it is SFT on rows of these weights.
    weighted = replace(PROBLEM, demonstration_weights=np.where(key, weight, 1.0))
    settings |= {"gradients": "full", "replicas": 1}
    found, expected = (
        trajectories(problem, Method(Mix(), sft=loss), **settings).last
        for problem, loss in ((PROBLEM, TlTraining()), (weighted, Nll()))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_on_policies_demonstrations_are_weighted() -> None:
    method = Method(Mix(lam=0.4), sft=TlTraining())
    table = POLICIES.token_weights(TlTraining())
    assert table.shape == (len(POLICIES.data.demonstrations), 1)
    assert table.mean().item() == pytest.approx(1.0, rel=1e-6)
    params = {k: v[0] for k, v in POLICIES.initial([0]).items()}
    reading = Reading(weights=table)
    value = sft_value(method.sft, POLICIES.read(params, INDEX, reading), None, len(INDEX))
    log_probs = POLICIES.tokens(params, INDEX).log_probs
    torch.testing.assert_close(value, -(table[INDEX] * log_probs).mean())
    assert torch.isfinite(trained(method, task=POLICIES)[0]).all()
    with pytest.raises(InputError, match="one for each"):
        trained(Method(Mix(), sft=MaskedThought()), task=POLICIES)


# ---------------------------------------------------------------------- what is read


def test_hidden_tokens_are_padding_where_they_are_read() -> None:
    mask = TASK.sft.mask[INDEX]
    hidden = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = []
    for row, hide in zip(INDEX.tolist(), hidden, strict=True):
        tokens, own = TASK.sft.tokens[row], TASK.sft.mask[row]
        read = torch.where(own & hide, TOKENIZER.pad, tokens)
        logits = MODEL(read[None])[0].log_softmax(-1)
        expected += [logits[t - 1, tokens[t]] for t in own.nonzero()[:, 0].tolist()]
    found = TASK.read(PARAMS, INDEX, Reading(hidden=hidden)).log_probs
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)
    wide = PADDED.read(PARAMS, INDEX, Reading(hidden=hidden)).log_probs
    torch.testing.assert_close(wide[mask[:, 1:]], found, rtol=1e-10, atol=1e-12)


def test_as_many_tokens_are_hidden_as_the_rate_says() -> None:
    method, steps = Method(Sequential(), sft=MaskedThought(rate=0.4, warm=0.5)), 40
    runs = [Run(method, seed) for seed in range(3)]
    choices = Choices(runs, steps, 4, TASK.sizes, np.zeros((3, 2)), 0.1)
    shape, rows = (50, 40), np.arange(3)
    for step, rate in ((0, 0.0), (5, 0.2), (10, 0.4), (19, 0.4), (25, 0.2)):
        drawn = choices.hidden(method.sft, step, rows, shape)
        count, spread = drawn.size, np.sqrt(rate * (1 - rate) * drawn.size)
        assert abs(drawn.sum() - rate * count) <= 5 * spread
        assert np.array_equal(drawn, choices.hidden(method.sft, step, rows, shape))
    late = [choices.hidden(method.sft, step, rows, shape) for step in (18, 19)]
    assert not np.array_equal(*late)
    assert not np.array_equal(late[0][0], late[0][1])


def test_own_predictions_are_mixed_into_what_is_read() -> None:
    share, expected = 0.3, []
    embed = MODEL.embed_tokens.weight.detach()
    for row in INDEX.tolist():
        tokens, own = TASK.sft.tokens[row], TASK.sft.mask[row]
        places = own.nonzero()[:, 0].tolist()
        with torch.no_grad():
            guess = MODEL(tokens[None])[0].argmax(-1)
        read = embed[tokens].clone()
        for t in places:
            read[t] = (1 - share) * embed[tokens[t]] + share * embed[guess[t - 1]]
        logits = on_embeddings(read).log_softmax(-1)
        expected += [logits[t - 1, tokens[t]] for t in places]
    found = TASK.read(PARAMS, INDEX, Reading(fed_back=share)).log_probs
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)
    mask = TASK.sft.mask[INDEX][:, 1:]
    wide = PADDED.read(PARAMS, INDEX, Reading(fed_back=share)).log_probs
    torch.testing.assert_close(wide[mask], found, rtol=1e-9, atol=1e-12)


def on_embeddings(read: torch.Tensor) -> torch.Tensor:
    """Logits of the model where it reads these vectors: a vocabulary of one token a place."""
    config = replace(SHAPE, tied=False, vocabulary=len(read))
    model = LanguageModel(config).double()
    known = {**PARAMS, "embed_tokens.weight": read}
    model.lm_head = torch.nn.Linear(SHAPE.width, SHAPE.vocabulary, bias=False).double()
    model.load_state_dict({**known, "lm_head.weight": PARAMS["embed_tokens.weight"]})
    return model(torch.arange(len(read))[None])[0]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.floats(0, 0.99))
def test_later_losses_count_for_each_token(lengths: list[int], discount: float) -> None:
    """The weighted sum of losses is the sum of discounted sums of later losses, in ratio."""
    pieces = [["x"] * n for n in lengths]
    losses = [np.linspace(0.5, 2.0, n) ** 2 for n in lengths]
    found = IntuitiveSft(discount=discount).weights_of_tokens(pieces)
    for weights, each in zip(found, losses, strict=True):
        n = len(each)
        later = [sum(discount ** (k - t) * each[k] for k in range(t, n)) for t in range(n)]
        count = sum(discount ** (k - t) for t in range(n) for k in range(t, n)) / n
        assert weights @ each == pytest.approx(sum(later) / count)
        assert weights.mean() == pytest.approx(1.0)


# ---------------------------------------------------------------------- pairs


def test_tokens_beyond_the_other_response_count_less() -> None:
    loss = LdDpo(alpha=0.3)
    found, lengths = TASK.weighted_pairs(PARAMS, INDEX, loss)
    for place, row in enumerate(INDEX.tolist()):
        common = int(TASK.pairs.mask[row].sum(-1).min())
        for side in (0, 1):
            tokens, own = TASK.pairs.tokens[row, side], TASK.pairs.mask[row, side]
            places = own.nonzero()[:, 0].tolist()
            each = torch.stack([one_log_prob(PARAMS, tokens, t) for t in places])
            expected = each[:common].sum() + 0.3 * each[common:].sum()
            torch.testing.assert_close(found[place, side], expected, rtol=1e-9, atol=1e-12)
            assert lengths[place, side] == len(places)
    wide = PADDED.weighted_pairs(PARAMS, INDEX, loss)[0]
    torch.testing.assert_close(wide, found, rtol=1e-7, atol=1e-6)
    assert float((lengths[:, 0] - lengths[:, 1]).abs().max()) > 0


@pytest.mark.slow
def test_batched_runs_are_runs_one_by_one() -> None:
    every = [
        Method(Mix(lam=0.4), sft=TlTraining()),
        Method(Mix(lam=0.4), sft=MaskedThought(warm=0.0)),
        Method(Mix(lam=0.4), sft=IntuitiveSft()),
        Method(Mix(lam=0.4), preference=LdDpo(beta=1.0)),
        Method(Mix(lam=0.4), data=Uds()),
    ]
    given = {**SETTINGS, "optimizer": "sgd", "learning_rate": 0.1}
    one, other = (train(task, grid(every, [0]), **given).params for task in (TASK, PADDED))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- choice of rows


def test_the_utility_of_one_token_is_the_length_of_its_logits() -> None:
    """Identity I43."""
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(1, 12)) for _ in range(5)]
    scores, _ = Uds(diversity=0.0).scores(rows, {})
    np.testing.assert_allclose(scores, [np.linalg.norm(x) for x in rows], rtol=1e-12)


def test_chosen_rows_are_those_of_the_largest_score() -> None:
    rng, rule = np.random.default_rng(1), Uds(diversity=0.5, rows=3, columns=4, memory=3)
    state: Any = {}
    kept: list[np.ndarray] = []
    for _ in range(3):
        given = [rng.normal(size=(n, 6)) for n in (2, 5, 3, 4, 1, 3)]
        scores = []
        for logits in given:
            utility = np.sqrt(np.clip(np.linalg.eigvalsh(logits @ logits.T), 0, None)).sum()
            far = [np.linalg.norm(rule.sketch(logits) - z) for z in kept]
            scores.append(utility + 0.5 * (np.mean(far) if far else 0.0))
        places, state = rule.best(given, 2, state)
        assert places.tolist() == sorted(np.argsort(scores)[-2:].tolist())
        kept = [*kept, *(rule.sketch(given[k]) for k in places)][-3:]
        np.testing.assert_allclose(state["kept"], kept)


def test_sketches_keep_distances_on_average() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(2, 6, 40))
    rule = Uds(rows=200, columns=400)
    found = np.linalg.norm(rule.sketch(first) - rule.sketch(second))
    assert found == pytest.approx(np.linalg.norm(first - second), rel=0.15)


def test_logits_of_responses_are_those_that_predict_their_tokens() -> None:
    for task in (TASK, PADDED):
        found = task.demonstrated_logits(PARAMS, INDEX)
        for row, logits in zip(INDEX.tolist(), found, strict=True):
            own = TASK.sft.mask[row].nonzero()[:, 0]
            picked = logits.log_softmax(-1).gather(1, TASK.sft.tokens[row][own][:, None])
            expected = [float(one_log_prob(PARAMS, TASK.sft.tokens[row], int(t))) for t in own]
            np.testing.assert_allclose(picked[:, 0].numpy(), expected, rtol=1e-9)


# ---------------------------------------------------------------------- costs and places


def test_passes_for_predictions_and_candidates_are_paid() -> None:
    plain = Mix(lam=0.5)
    for method, passes in (
        (Method(plain, sft=IntuitiveSft()), 1.0),
        (Method(plain, sft=IntuitiveSft(own=0.0)), 0.0),
        (Method(plain, data=Uds(candidates=3)), 3.0),
        (Method(plain, data=Uds(candidates=1)), 0.0),
        (Method(plain, data=Uds(candidates=2), sft=IntuitiveSft()), 3.0),
        (Method(plain, sft=MaskedThought()), 0.0),
    ):
        expected = 1000 / (2.5 + FORWARD * passes)
        assert method.updates(1000, pair=1.5) == round(expected)
    assert Method(Sequential(share=0.5), data=Uds()).updates(600) == 400


def test_where_they_run() -> None:
    for name in ("mft", "ift", "rationale_sft", "ld_dpo", "uds"):
        method = find(name)
        assert method.by_token
        assert "one token" in str(method.unsupported("convex"))
        assert method.unsupported("networks") is None
        assert (method.unsupported("llm") is None) == (name != "uds")
    assert not find("tl_training").by_token
    assert all(find("tl_training").unsupported(at) is None for at in ("convex", "networks", "llm"))
    assert len(TASK.sft) == TASK.sizes[SFT]


# ---------------------------------------------------------------------- rollouts


def test_without_hints_it_is_grpo() -> None:
    """Own tokens weigh minus the advantage, over the number of responses and of their tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 6, (3, 4))
    own = np.arange(7) < lengths[..., None]
    rewards = np.array([[1.0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]])
    none = np.zeros_like(own)
    given = RolledOut(rewards, none, own, np.zeros((3, 7)))
    expected = np.zeros(own.shape)
    for b in range(3):
        for i in range(4):
            spread = rewards[b].std()
            advantage = (rewards[b, i] - rewards[b].mean()) / spread if spread else 0.0
            expected[b, i, : lengths[b, i]] = advantage / (12 * lengths[b, i])
    coins = rng.random((3, 4))
    for loss in (HintedRollouts(group=4, start=0.0), PrefixRft(group=4, high=0.0)):
        assert not loss.hints(0.0, coins).any()
        np.testing.assert_allclose(loss.weights(given), expected)
    np.testing.assert_allclose(given.advantages[1].mean(), 0.0, atol=1e-12)
    assert given.advantages[0].std() == pytest.approx(1.0)


def test_a_whole_demonstration_as_prefix_is_sft_weighted_by_its_gain() -> None:
    tokens, n, wide = 5, 4, 7
    begun = np.zeros((1, n, wide), dtype=bool)
    own = np.arange(wide) < np.full((1, n, 1), 3)
    own[0, -1], begun[0, -1, :tokens] = False, True
    rewards = np.array([[1.0, 0, 0, 1]])
    entropies = np.array([[0.1, 0.9, 0.3, 0.8, 0.2, 5.0, 5.0]])
    given = RolledOut(rewards, begun, own, entropies)
    found = PrefixRft(group=n, kept=1.0).weights(given)[0, -1]
    expected = np.where(np.arange(wide) < tokens, (1 - 1 / 3) / (n * tokens), 0.0)
    np.testing.assert_allclose(found, expected)
    few = PrefixRft(group=n, kept=0.4).weights(given)[0, -1]
    np.testing.assert_allclose(few, np.where(np.isin(np.arange(wide), [1, 3]), expected, 0.0))
    assert not PrefixRft(group=n, kept=0.0).weights(given)[0, -1].any()


@given(st.floats(0, 0.999), st.integers(0, 99))
def test_hints_shorten_over_a_stage(progress: float, seed: int) -> None:
    coins = np.random.default_rng(seed).random((3, 8))
    found = PrefixRft().hints(progress, coins)
    assert not found[:, :-1].any()
    low = 0.95 * (1 + np.cos(np.pi * progress)) / 2
    assert ((low <= found[:, -1]) & (found[:, -1] <= 0.95)).all()
    hints = HintedRollouts().hints(progress, coins)
    assert np.unique(hints).size == 1
    assert hints[0, 0] <= 0.95
    assert (progress < 0.6) or hints[0, 0] == pytest.approx(0.0)


def test_responses_begin_with_their_hints_and_are_judged() -> None:
    hints = np.array([[0.0, 0.5, 1.0]] * len(INDEX))
    shown = TASK.sft.take(INDEX)
    rows, found = written(MODEL, TOKENIZER, shown, hints, 20, seed=3)
    assert found.rewards[:, 2].tolist() == [1.0] * len(INDEX)
    assert not found.own[:, 2].any()
    for k, row in enumerate(INDEX.tolist()):
        whole, mask = TASK.sft.tokens[row], TASK.sft.mask[row]
        prompt, response = whole[: int(mask.int().argmax())], whole[mask]
        for i, share in enumerate(hints[k]):
            begun, own = found.begun[k, i], found.own[k, i]
            tokens = rows.tokens[k * 3 + i].numpy()
            count = int(share * len(response))
            assert tokens[: len(prompt)].tolist() == prompt.tolist()
            assert tokens[begun].tolist() == response[:count].tolist()
            assert own.sum() <= 20
            ended = tokens[begun | own]
            assert (ended == TOKENIZER.eos).sum() <= 1
            said = TOKENIZER.decode(ended[ended != TOKENIZER.eos].tolist()).strip()
            wanted = TOKENIZER.decode(response[:-1].tolist()).strip()
            assert found.rewards[k, i] == float(said == wanted)
    again = written(MODEL, TOKENIZER, shown, hints, 20, seed=3)[0]
    assert torch.equal(rows.tokens, again.tokens)
    other = written(MODEL, TOKENIZER, shown, hints, 20, seed=4)[0]
    assert rows.tokens.shape != other.tokens.shape or not torch.equal(rows.tokens, other.tokens)


def test_whole_hints_are_sft_in_the_language_model() -> None:
    """With whole demonstrations all rewards are one, and the loss is SFT times its weight."""
    loss = HintedRollouts(group=2, start=1.0, hint=0.5)
    params = {name: value.clone().requires_grad_() for name, value in PARAMS.items()}
    coins = np.zeros((len(INDEX), 2))
    for task in (TASK, PADDED):
        value = task.rollouts(params, INDEX, loss, 0.0, coins, 0)
        plain = task.losses(params, SFT, INDEX)
        torch.testing.assert_close(value, 0.5 * plain, rtol=1e-6, atol=1e-8)
        slopes = [torch.autograd.grad(x, list(params.values())) for x in (value, 0.5 * plain)]
        for one, other in zip(*slopes, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_rollouts_train_and_are_paid() -> None:
    mix = Mix(lam=0.5)
    every = [
        Method(mix, sft=HintedRollouts(group=3, hint=0.1)),
        Method(mix, sft=PrefixRft(group=3, kept=1.0)),
    ]
    hinted, prefixed = trained(*every, steps=2, evaluate_every=2)
    again, _ = trained(*every, steps=2, evaluate_every=2)
    assert torch.equal(hinted, again)
    assert torch.isfinite(prefixed).all()
    assert not torch.equal(hinted, prefixed)
    # Three passes to write and three gradients, where one gradient is counted anyway.
    assert every[0].updates(1000, pair=1.5) == round(1000 / (1.5 + 3 * FORWARD + 3))
    assert every[1].updates(1000, pair=1.5) == round(1000 / (1.5 + 4 * FORWARD + 3))
    for method in every:
        assert "no part to go on from" in str(method.unsupported("convex"))
        assert "no exact judge" in str(method.unsupported("llm"))
