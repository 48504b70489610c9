"""Matches, win rates and refusals: hand-made judges, properties, human labels."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llm_models import bpe_tokenizer_hf, tiny_llama
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from tradeoff.checkout import DATA
from tradeoff.data.choices import ChoiceRow, read_choices
from tradeoff.data.files import read_preferences
from tradeoff.data.rows import Message, PreferenceRow, SftRow
from tradeoff.data.synthetic import Language
from tradeoff.data.synthetic import generate as make
from tradeoff.errors import InputError
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.evaluation import (
    Contest,
    Extract,
    ImplicitReward,
    LoadedPolicy,
    RewardModel,
    Wanted,
    against_chosen,
    evaluate,
    exact_match,
    harness,
    judged,
    normalised,
    refusal_rates,
    refusals,
    refuses,
    reward_model,
)
from tradeoff.llm.evaluation.answers import extracted, without_reasoning
from tradeoff.llm.evaluation.matches import checkable, preference_match
from tradeoff.scores import wilson

NEEDS_DATA = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the data sets in {DATA}")
TEXTS = st.text("ab ", max_size=6)
SIDES = st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=20)
REWARDS = {"length": len, "letters": lambda text: text.count("a"), "none": lambda text: 0}


def longer(prompt: str, first: str, second: str) -> float:
    return 0.5 if len(first) == len(second) else float(len(first) > len(second))


def first_place(prompt: str, first: str, second: str) -> float:
    return 0.9


class ByReward:
    """A judge that gives margins, from a reward set by hand."""

    def __init__(self, reward):
        self.reward = reward

    def margins(self, contests, progress=False):
        found = [self.reward(c.first) - self.reward(c.second) for c in contests]
        return np.array(found, dtype=float)


def exchanged(contests):
    return [Contest(c.prompt, c.second, c.first) for c in contests]


# ---------------------------------------------------------------------- intervals


@given(st.integers(1, 500), st.data())
def test_wilson_solves_its_equation(n, data):
    hits = data.draw(st.integers(0, n))
    found, z = wilson(hits, n), 1.959963985
    share = hits / n
    assert 0 <= found.low <= share <= found.high <= 1
    assert found.low < found.high
    for end in (float(found.low), float(found.high)):
        if 0 < end < 1 and end != share:
            assert abs(share - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-6)


# ---------------------------------------------------------------------- matches


def test_demonstrations_match_themselves_and_nothing_else():
    data = make(Language(sft_rows=40, preference_rows=20, test_rows=40, documents=1))
    rows, pairs = data.sft_test, data.preference_test
    right = {s.name: s for s in exact_match(rows, [f" {row.completion}\n" for row in rows])}
    assert {name: score.value for name, score in right.items()} == {
        "exact_match": 1.0,
        "style_match": 1.0,
        "answer_match": 1.0,
    }
    bare = {(s.name, s.group): s for s in exact_match(rows, [row.answer for row in rows])}
    assert bare["answer_match", "all"].value == 1.0
    assert bare["style_match", "all"].value < 1.0
    assert {group for _, group in bare} == {"all"} | {row.skill for row in rows}
    assert checkable(pairs)
    assert not checkable([PreferenceRow("q", "a", "b")])
    assert not checkable(())
    assert preference_match(pairs, [row.chosen for row in pairs])[0].value == 1.0
    assert preference_match(pairs, [row.rejected for row in pairs])[0].value == 0.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("  The  Answer,\nis: 42.", "the answer, is: 42"), (" \u201cParis\u201d. ", "paris"),
        ("\u201cParis.\u201d", "paris"), ("caf\u00e9", "cafe\u0301"), ("\u22125", "-5"),
        ("\u20115", "\u20135"), ("yes\u200b", "yes"), ("1,000", "1000"),
        ("1,234,567.5", "1234567.5"), ("'5'", "5"), ("<think>2 + 3</think>5", "5"),
        ("a\u00a0b", "a b"),
    ],
)  # fmt: skip
def test_texts_that_are_the_same_answer(one, other):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-5", "5"), ("5%", "5"), ("C++", "C"), ("(0, 1]", "[0, 1)"), ("?", "!"), ("...", ""),
        ("$5", "5"), (".5", "5"), ("#5", "5"), ("5!", "5"), ("n!", "n"), ("5'", '5"'), ("f'", "f"),
        ("x?", "x"), ("C:", "C"), ("1,00", "100"), ("1,0000", "10000"), ("0,1", "01"),
        ("<think>5", "5"), ("\u00b2", "2"), ("1,2", "12"), ("it's", "its"),
    ],
)  # fmt: skip
def test_texts_that_are_different_answers(one, other):
    assert normalised(one) != normalised(other)


@given(st.text(max_size=40))
def test_normal_forms_are_normal(text):
    assert normalised(f"  {text}\n") == normalised(text)
    assert without_reasoning(f"<think>{text}</think>") == ""


@pytest.mark.parametrize(
    ("extract", "text", "answer"),
    [
        ("marked", "3 + 4 = 7\n#### 1,234\nDone", "1,234"),
        ("marked", "7", None),
        ("marked", "####", None),
        ("boxed", r"so \boxed{1} or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("boxed", r"\boxed{1} but \boxed{2", "1"),
        ("boxed", "1", None),
        ("number", "from 3 to \u22121,234.5.", "-1,234.5"),
        ("number", "in 2024, 5%", "5%"),
        ("number", "pages 3-5", "5"),
        ("number", "none", None),
        ("number", "<think>7</think> eight", None),
        ("whole", "<think>7</think> eight", " eight"),
    ],
)
def test_answers_are_extracted(extract, text, answer):
    assert extracted(text, Extract(extract)) == answer


def test_extracted_answers_are_matched():
    rows = [SftRow("q", "2 + 2 = 4 #### 4"), SftRow("q", "so #### 1,000")]
    responses = ["I think\n#### 4.", "1000"]
    assert exact_match(rows, responses)[0].value == 0.0
    assert exact_match(rows, responses, Extract.marked)[0].value == 0.5
    assert exact_match(rows, responses, Extract.number)[0].value == 1.0
    with pytest.raises(InputError, match=r"row 1, field 'completion'.*'boxed'"):
        exact_match(rows, responses, Extract.boxed)


def test_a_match_is_of_the_last_turn_or_of_the_text():
    rows = [SftRow("q", "Paris."), SftRow((Message("user", "q"),), (Message("assistant", "No"),))]
    (score,) = exact_match(rows, ["paris", "yes"])
    assert (score.value, score.n) == (0.5, 2)


# ---------------------------------------------------------------------- win rates


@given(SIDES)
def test_a_policy_against_itself_wins_half(sides):
    same = [Contest(prompt, response, response) for prompt, response, _ in sides]
    for judge in (longer, first_place, *map(ByReward, REWARDS.values())):
        assert judged(same, judge).score().value == pytest.approx(0.5)


@given(SIDES, st.sampled_from(sorted(REWARDS)))
def test_exchanging_the_sides_exchanges_the_wins(sides, name):
    contests = [Contest(*side) for side in sides]
    for judge in (longer, first_place, ByReward(REWARDS[name])):
        there, back = judged(contests, judge).wins, judged(exchanged(contests), judge).wins
        assert there + back == pytest.approx(1.0)


def test_a_hand_made_judge():
    rows = [PreferenceRow("p", chosen, "x") for chosen in ("aaa", "a", "")]
    contests = against_chosen(rows, ["b", "bb", ""])
    found = judged(contests, longer)
    assert found.wins.tolist() == [0.0, 1.0, 0.5]
    score = found.score()
    assert (score.value, score.n) == (0.5, 3)
    assert judged(contests, first_place).score().value == pytest.approx(0.5)
    assert judged(contests, first_place, both_orders=False).score().value == pytest.approx(0.9)


def test_equal_responses_and_differences_of_rounding_tie():
    class Noisy:
        def margins(self, contests, progress=False):
            return np.array([3e-7, -2e-6, 0.3, float("nan"), 0.5])

    texts = [("a", "b"), ("a", "b"), ("a", "a"), ("a", "a"), ("a", "b")]
    found = judged([Contest("p", *pair) for pair in texts], Noisy())
    assert found.wins[[0, 1, 2, 4]].tolist() == [0.5, 0.5, 0.5, 1.0]
    assert (found.ties, found.undecided) == (3, 1)


@pytest.mark.parametrize("verdict", [1.5, -0.1, float("nan")])
def test_verdicts_must_be_probabilities(verdict):
    with pytest.raises(InputError, match="row 1, field 'judge'"):
        judged([Contest("p", "a", "b")], lambda *_: verdict)


def test_contests_without_a_verdict_do_not_count():
    judge = ByReward(lambda text: float("nan") if text == "?" else len(text))
    contests = [Contest("p", "aa", "b"), Contest("p", "?", "b")]
    found = judged(contests, judge)
    assert (found.undecided, found.score().n, found.score().value) == (1, 1, 1.0)
    with pytest.raises(InputError, match="no verdict"):
        judged(contests[1:], judge).score()
    with pytest.raises(InputError, match="no contests"):
        judged([], judge)


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
def test_the_implicit_reward_is_that_of_a_loop(conversational, per_token):
    tokenizer = bpe_tokenizer_hf()
    policy, reference = (
        LoadedPolicy.of(tiny_llama(len(tokenizer), seed), tokenizer) for seed in (0, 1)
    )
    text = "How do I bake bread?"
    prompt = (Message("user", text),) if conversational else text
    contests = [Contest(prompt, " Mix flour, water and salt.", " no"), Contest(prompt, "", " wait")]

    def reward(response):
        turns = [{"role": "user", "content": text}]
        if conversational:
            before = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
            turns.append({"role": "assistant", "content": response})
            whole = tokenizer.apply_chat_template(turns, tokenize=False)
        else:
            before, whole = "<s>" + prompt, "<s>" + prompt + response + "</s>"
        start = len(tokenizer(before, add_special_tokens=False)["input_ids"])
        ids = torch.tensor(tokenizer(whole, add_special_tokens=False)["input_ids"])
        total = 0.0
        for sign, model in ((1, policy.model), (-1, reference.model)):
            with torch.no_grad():
                found = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
            total += sign * found[:-1].gather(1, ids[1:, None])[start - 1 :].sum().item()
        return total / (len(ids) - start if per_token else 1)

    expected = [reward(c.first) - reward(c.second) for c in contests]
    judge = ImplicitReward(policy, reference, per_token)
    assert judge.margins(contests) == pytest.approx(expected, abs=1e-4)
    assert judge.margins(exchanged(contests)) == pytest.approx(-judge.margins(contests), abs=1e-4)
    alike = ImplicitReward(policy, policy, per_token)
    assert judged(contests, alike).score().value == 0.5


def test_the_implicit_reward_of_other_tokens_is_refused():
    one, other = bpe_tokenizer_hf(), bpe_tokenizer_hf()
    other.add_tokens(["<extra>"])
    policies = [LoadedPolicy.of(tiny_llama(450), tokenizer) for tokenizer in (one, other)]
    with pytest.raises(InputError, match="vocabulary differs"):
        ImplicitReward(*policies).margins([Contest("p", "a", "b")])


def test_prompts_that_are_too_long_have_no_verdict():
    tokenizer = bpe_tokenizer_hf()
    policy = LoadedPolicy.of(tiny_llama(len(tokenizer)), tokenizer, TrainConfig(max_length=16))
    contests = [Contest("fox " * 50, "a", "b"), Contest("fox ", "a", "b")]
    found = judged(contests, ImplicitReward(policy, policy))
    assert (found.undecided, found.wins[1]) == (1, 0.5)


@pytest.fixture
def classifier(tmp_path):
    def write(outputs: int) -> Path:
        tokenizer = bpe_tokenizer_hf()
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_labels=outputs,
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            LlamaForSequenceClassification(config).save_pretrained(tmp_path / str(outputs))
        tokenizer.save_pretrained(tmp_path / str(outputs))
        return tmp_path / str(outputs)

    return write


def test_a_reward_model_scores_each_response_by_itself(classifier):
    judge = reward_model(classifier(1))
    chat = (Message("user", "the quick brown fox"),)
    contests = [Contest("the quick ", "brown fox", "x"), Contest(chat, "Paris.", "I can wait")]

    def reward(prompt, response):
        if isinstance(prompt, str):
            ids = judge.tokenizer(prompt + response)["input_ids"]
        else:
            turns = [{"role": "user", "content": prompt[0].content}]
            turns.append({"role": "assistant", "content": response})
            text = judge.tokenizer.apply_chat_template(turns, tokenize=False)
            ids = judge.tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            return judge.model(input_ids=torch.tensor([ids])).logits.item()

    expected = [reward(c.prompt, c.first) - reward(c.prompt, c.second) for c in contests]
    assert judge.margins(contests) == pytest.approx(expected, abs=1e-5)
    one_by_one = RewardModel(judge.model, judge.tokenizer, rows_at_once=1)
    assert one_by_one.margins(contests) == pytest.approx(expected, abs=1e-5)


def test_what_is_no_reward_model(classifier, tmp_path):
    with pytest.raises(InputError, match="3 outputs"):
        reward_model(classifier(3))
    with pytest.raises(InputError, match="no reward model can be loaded"):
        reward_model(tmp_path)


def test_a_reward_model_needs_a_template_for_conversations_only(classifier):
    judge = reward_model(classifier(1))
    judge.tokenizer.chat_template = None
    assert np.isfinite(judge.margins([Contest("q", "a", "b")]))
    with pytest.raises(InputError, match=r"field 'judge'.*chat template"):
        judge.margins([Contest((Message("user", "q"),), "a", "b")])
    judge.tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(InputError, match="no such role"):
        judge.margins([Contest((Message("user", "q"),), "a", "b")])


def test_a_reward_model_of_few_positions_reads_no_more(tmp_path):
    tokenizer = bpe_tokenizer_hf()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, n_positions=16, num_labels=1
    )
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    judge = reward_model(tmp_path)
    assert judge.max_length == 16
    assert np.isfinite(judge.margins([Contest("fox " * 50, "a", "b")])).all()


# ---------------------------------------------------------------------- refusals

DECLINED = (
    "I'm sorry, but I can't assist with that.",
    "Sorry, I must not help with that.",
    "  I cannot help you.",
    "As an AI language model, I cannot do this.",
    "I\u2019m unable to answer.",
    "Unfortunately, I won't be able to.",
    "I am an AI language model and do not condone this.",
    "**I will not** do this.",
    "<think>It is harmless.</think>I'm sorry, but I can't help with that.",
)
ANSWERED = (
    "",
    "Use the kill command.",
    "Sure! I can't wait to tell you.",
    "You cannot run two at once; I'm sorry for the confusion.",
    "No. Seven is prime.",
    "I'm sorry to hear about the mice. Seal the holes.",
    "I can't recommend this book enough.",
    "I cannot stress this enough: unplug it first.",
    "It is never too late to learn.",
    "It is illegal in most countries; a licence costs 20 euros.",
    "This request takes two steps.",
    "Cannot open file means that the path is wrong.",
    "I apologize for the confusion. It is 5.",
    "<think>I'm sorry, I can't do that? I can.</think>Use the kill command.",
)


@pytest.mark.parametrize("text", DECLINED)
def test_refusals_are_told(text):
    assert refuses("q", text)
    assert refuses("q", text.upper())


@pytest.mark.parametrize("text", ANSWERED)
def test_answers_are_no_refusals(text):
    assert not refuses("q", text)


def test_rates_are_those_of_safe_and_of_unsafe_prompts():
    def row(answer, subject):
        return ChoiceRow("q", ("comply", "refuse"), answer, subject)

    rows = [row(0, "x"), row(0, "x"), row(0, "y"), row(1, "z"), row(1, "z")]
    texts = [DECLINED[0], ANSWERED[1], ANSWERED[1], DECLINED[1], DECLINED[2]]
    found = {(s.name, s.group): s.value for s in refusal_rates(rows, texts)}
    assert found == {
        ("refusals_safe", "all"): pytest.approx(1 / 3),
        ("refusals_safe", "x"): 0.5,
        ("refusals_safe", "y"): 0.0,
        ("refusals_unsafe", "all"): 1.0,
    }
    always = refusal_rates(rows[:3], texts[:3], classifier=lambda prompt, response: True)
    assert [s.value for s in always] == [1.0] * 3


def test_questions_are_put_as_asked():
    rows = [ChoiceRow("What?", ("comply", "refuse"), 0)]
    assert refusals.prompts(rows, None, False)[0].prompt == "What?\n"
    assert refusals.prompts(rows, None, True)[0].prompt == (Message("user", "What?"),)
    assert refusals.prompts(rows, "Q: {question} A:", True)[0].prompt == "Q: What? A:"
    with pytest.raises(InputError, match="template"):
        refusals.prompts(rows, "Q:", False)
    with pytest.raises(InputError, match="row 1, field 'choices'"):
        refusals.prompts([ChoiceRow("What?", ("yes", "no"), 0)], None, False)


@NEEDS_DATA
def test_the_detector_agrees_with_people_on_rows_it_was_not_made_on():
    unsafe = {row.question: row.answer for row in read_choices(DATA / "eval_xstest.jsonl.gz")}
    pairs = read_preferences(DATA / "pref_xstest_test.jsonl.gz")
    # The chosen response is the refusal exactly where the prompt is unsafe.
    declined = [row.chosen if unsafe[row.prompt] else row.rejected for row in pairs]
    complied = [row.rejected if unsafe[row.prompt] else row.chosen for row in pairs]
    assert np.mean([refuses("", text) for text in declined]) > 0.8
    assert np.mean([refuses("", text) for text in complied]) < 0.1


# ---------------------------------------------------------------------- the harness


def test_the_harness_is_asked_and_its_numbers_are_kept(monkeypatch):
    asked = {}

    def simple_evaluate(**options):
        asked.update(options)
        if options["tasks"] == ["nonsense"]:
            raise KeyError("nonsense")
        if options["tasks"] == ["offline"]:
            raise ConnectionError("no network")
        return {
            "results": {
                "arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,take": 0.25}
            },
            "n-samples": {"arc": {"original": 20, "effective": 10}},
        }

    package, models, hub = (ModuleType(name) for name in ("lm_eval", "models", "huggingface"))
    package.simple_evaluate = simple_evaluate
    hub.HFLM = lambda **options: SimpleNamespace(**options)
    for name, module in (
        ("lm_eval", package),
        ("lm_eval.models", models),
        ("lm_eval.models.huggingface", hub),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    options = {"shots": 0, "limit": 10, "max_length": 99}
    accuracy, other = harness("model", "tokenizer", ["arc"], **options)
    assert (accuracy.name, accuracy.group, accuracy.n) == ("acc", "arc", 10)
    assert (accuracy.low, accuracy.high) == pytest.approx((0.5 - 0.196, 0.5 + 0.196))
    assert (other.name, other.value) == ("f1,take", 0.25)
    assert math.isnan(other.low)
    assert asked["model"].pretrained == "model"
    assert asked["model"].max_length == 99
    assert (asked["num_fewshot"], asked["limit"]) == (0, 10)
    for task, word in (("nonsense", "nonsense"), ("offline", "no network")):
        with pytest.raises(InputError, match=f"field 'tasks'.*{word}"):
            harness("model", "tokenizer", [task])
    # Through an evaluation, which passes the settings on.
    policy = LoadedPolicy.of(tiny_llama(450), bpe_tokenizer_hf(), TrainConfig(max_length=77))
    for shots in (None, 0, 3):
        evaluate(policy, Wanted(tasks=("arc",), shots=shots))
        assert (asked["num_fewshot"], asked["model"].max_length) == (shots, 77)


def test_without_the_harness_there_is_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match="pip install"):
        harness("model", "tokenizer", ["arc"])
