"""Held-out losses, responses and multiple choice against plain loops over the model."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from chat_tokenizers import chat_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_models import (
    bpe_tokenizer_hf,
    byte_tokenizer_hf,
    metaspace_tokenizer_hf,
    tiny_llama,
    tiny_neox,
)

from tradeoff import tiny
from tradeoff.checkout import DATA
from tradeoff.data.choices import ChoiceRow, choice_row, read_choices
from tradeoff.data.record import Record
from tradeoff.data.rows import Message, SftRow
from tradeoff.errors import InputError
from tradeoff.llm.config import Lora, TrainConfig
from tradeoff.llm.evaluation import (
    LoadedPolicy,
    Sampling,
    generate,
    generation,
    held_out,
    load,
    multiple_choice,
    questions,
)
from tradeoff.llm.evaluation.policy import outline
from tradeoff.llm.models import with_adapters

NEEDS_DATA = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the data sets in {DATA}")
TOKENIZERS = {
    "llama-3": bpe_tokenizer_hf,
    "pythia": lambda: bpe_tokenizer_hf(bos=False),
    "llama-2": metaspace_tokenizer_hf,
    "bytes": byte_tokenizer_hf,
}
ROWS = (
    ChoiceRow("What is the capital of France?", ("Rome", "Paris", "the quick brown fox"), 1, "a_b"),
    ChoiceRow("Bake bread?", ("Mix flour, water and salt", "no"), 0, "a_b"),
    ChoiceRow("2 + 3", ("5", "6", "7", "8", "point"), 0, "sums"),
    ChoiceRow("3 + 3", ("5", "6"), 1, "sums"),
)


def policy(tokenizer=None, model=tiny_llama, seed=0, **config) -> LoadedPolicy:
    tokenizer = tokenizer or bpe_tokenizer_hf()
    return LoadedPolicy.of(model(len(tokenizer), seed), tokenizer, TrainConfig(**config))


def token_log_probs(model, ids) -> np.ndarray:
    """Log-probabilities of each token except the first, in float64 from the model's own logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    ids = torch.tensor(ids)
    return logits.log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0].numpy()


def greedy(one: LoadedPolicy, prompt: list[int], longest: int) -> list[int]:
    """The most probable tokens after a prompt, one by one, with the end token if it comes."""
    found: list[int] = []
    while len(found) < longest and found[-1:] != [one.tokenizer.eos_token_id]:
        with torch.no_grad():
            logits = one.model(input_ids=torch.tensor([prompt + found])).logits
        found.append(int(logits[0, -1].argmax()))
    return found


# ---------------------------------------------------------------------- losses


def test_losses_are_those_of_training_and_of_a_loop():
    sft, pairs = tiny.rows(20)
    one, other = policy(max_length=256), policy(seed=1, max_length=256)
    examples, items = held_out.examples(one, sft), held_out.pairs(one, pairs)
    found = held_out.sft_loss(one, examples)
    each = [token_log_probs(one.model, e.tokens.tolist())[e.start - 1 :] for e in examples]
    assert found.value == pytest.approx(-np.concatenate(each).mean(), abs=1e-5)
    assert found.value == pytest.approx(one.scorer.mean_sft(examples)["sft_loss"], abs=1e-6)

    reference = held_out.log_probs(other, items)
    scores = {s.name: s for s in held_out.preference(one, items, reference)}
    trained = one.scorer.mean_pairs(items, reference)
    assert {name: s.value for name, s in scores.items()} == pytest.approx(trained, abs=1e-6)
    margins = np.array(
        [
            sum(
                sign
                * (token_log_probs(one.model, ids) - token_log_probs(other.model, ids))[
                    item.start - 1 :
                ].sum()
                for sign, ids in ((1, item.chosen.tolist()), (-1, item.rejected.tolist()))
            )
            for item in items
        ]
    )
    loss = np.log1p(np.exp(-0.1 * margins))
    assert scores["preference_loss"].value == pytest.approx(loss.mean(), abs=1e-5)
    assert scores["preference_accuracy"].value == np.mean(margins > 0)
    low, high = scores["preference_loss"].low, scores["preference_loss"].high
    assert low < loss.mean() < high


def test_a_policy_is_at_log_two_of_itself():
    _, pairs = tiny.rows(12)
    one = policy()
    items = held_out.pairs(one, pairs)
    loss, accuracy, *_ = held_out.preference(one, items, held_out.log_probs(one, items))
    assert loss.value == pytest.approx(np.log(2), abs=1e-6)
    assert accuracy.value == 0.0  # As with TRL, a tie does not count as correct.


def _all_but_adapters(_, names):
    return [name for name in names if not name.startswith("adapter")]


def test_adapters_and_run_folders_load(tmp_path):
    tokenizer = bpe_tokenizer_hf()
    base = tiny_llama(len(tokenizer))
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    from transformers import LlamaForCausalLM

    model = with_adapters(LlamaForCausalLM.from_pretrained(tmp_path / "base"), Lora(rank=2))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(generator=torch.Generator().manual_seed(0))
    model.save_pretrained(tmp_path / "run" / "model")
    tokenizer.save_pretrained(tmp_path / "run" / "model")
    found = load(tmp_path / "run")
    sft, _ = tiny.rows(6)
    loaded = held_out.sft_loss(found, held_out.examples(found, sft)).value
    direct = LoadedPolicy.of(model, tokenizer)
    bare = load(tmp_path / "base")
    assert loaded == pytest.approx(
        held_out.sft_loss(direct, held_out.examples(direct, sft)).value, abs=1e-6
    )
    assert loaded != pytest.approx(
        held_out.sft_loss(bare, held_out.examples(bare, sft)).value, abs=1e-4
    )
    shutil.copytree(tmp_path / "run" / "model", tmp_path / "bare", ignore=_all_but_adapters)
    for name in ("run", "base", "bare"):  # The part that needs no weights.
        known = outline(str(tmp_path / name), TrainConfig())
        assert known.max_length == found.max_length == 512
        assert known.tokenizer.get_vocab() == tokenizer.get_vocab()
    for read in (load, lambda path: outline(str(path), TrainConfig())):
        with pytest.raises(InputError, match="no causal model"):
            read(tmp_path)


def test_a_model_in_training_is_left_as_it_was():
    tokenizer = bpe_tokenizer_hf()
    model = tiny_llama(len(tokenizer), attention_dropout=0.9).train()
    one = LoadedPolicy.of(model, tokenizer)
    rows = [SftRow("the", "")]
    assert generate(one, rows, Sampling(max_new_tokens=8)) == generate(
        LoadedPolicy.of(model.eval(), tokenizer), rows, Sampling(max_new_tokens=8)
    )
    values = multiple_choice(one, ROWS).log_probs
    model.train()
    again = multiple_choice(one, ROWS).log_probs
    assert all(np.array_equal(a, b) for a, b in zip(values, again, strict=True))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---------------------------------------------------------------------- responses


@pytest.mark.parametrize("name", TOKENIZERS)
def test_greedy_responses_are_those_of_a_loop(name):
    tokenizer = TOKENIZERS[name]()
    one = policy(tokenizer, max_length=128)
    rows = [SftRow(text, "x") for text in ("the", "Question: What is it?", "a b c d e f g h i j")]
    found = generate(one, rows, Sampling(max_new_tokens=12), tokens_at_once=60)
    for row, text, ended in zip(rows, found.texts, found.ended, strict=True):
        prompt = tokenizer(row.prompt)["input_ids"]
        ids = prompt + greedy(one, prompt, 12)
        assert ended == (ids[-1] == tokenizer.eos_token_id)
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        assert text == whole[len(tokenizer.decode(prompt, skip_special_tokens=True)) :]


def test_special_tokens_that_belong_to_a_response_stay():
    """Calls of tools and reasoning are often in special tokens, which demonstrations also have."""
    tokenizer = chat_tokenizer(bos="<s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool_call>", "</tool_call>"]})
    said = "<tool_call> weather </tool_call>"
    prompt, *spoken = (
        np.array(tokenizer(text)["input_ids"])
        for text in ("<s><|im_start|>user", f"{said}<|im_end|>more", f"{said}<|pad|>")
    )
    ends = [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    found = [generation._text(tokenizer, prompt, torch.tensor(new), ends) for new in spoken]
    assert found == [(said, True), (said, False)]


def test_conversations_go_through_the_template():
    one = policy()
    turns = [{"role": "user", "content": "How do I bake bread?"}]
    rendered = one.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    conversation = SftRow((Message("user", "How do I bake bread?"),), ())
    spoken = generate(one, [conversation], Sampling(max_new_tokens=8))
    # The template writes BOS itself.
    plain = generate(one, [SftRow(rendered.removeprefix("<s>"), "")], Sampling(max_new_tokens=8))
    assert spoken.texts == plain.texts


def test_a_model_may_have_more_end_tokens_but_no_habits_of_its_own():
    one = policy()
    rows, sampling = [SftRow("the quick brown fox jumps", "")], Sampling(max_new_tokens=16)
    found = generate(one, rows, sampling)
    own = one.model.generation_config
    own.repetition_penalty, own.do_sample, own.temperature = 3.0, True, 5.0
    assert generate(one, rows, sampling) == found
    assert (own.repetition_penalty, one.model.generation_config) == (3.0, own)
    written = greedy(one, one.tokenizer(rows[0].prompt)["input_ids"], 16)
    last = next(token for token in written[1:] if token != written[0])
    own.eos_token_id = [last, one.tokenizer.eos_token_id]
    stopped = generate(one, rows, sampling)
    assert stopped.ended == (True,)
    assert stopped.texts[0] == one.tokenizer.decode(written[: written.index(last)])


def test_draws_are_fixed_by_the_seed_and_leave_the_global_one_alone():
    one = policy()
    rows = [SftRow("the quick", ""), SftRow("Question:", "")]

    def drawn(seed):
        sampling = Sampling(max_new_tokens=16, temperature=1.0, seed=seed)
        return generate(one, rows, sampling).texts

    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert drawn(0) == drawn(0) != drawn(1)
    assert torch.equal(before, torch.get_rng_state())


def test_long_prompts_keep_their_end():
    one = policy(max_length=24)
    long, short = "fox " * 50 + "the dog", "the dog"
    found = generate(one, [SftRow(long, ""), SftRow(short, "")], Sampling(max_new_tokens=16))
    assert found.shortened == 1
    kept = one.tokenizer(long)["input_ids"][-8:]
    written = one.tokenizer.decode(greedy(one, kept, 16), skip_special_tokens=True)
    assert found.texts[0] == written
    with pytest.raises(InputError, match="no room"):
        generate(one, [SftRow("a", "")], Sampling(max_new_tokens=24))
    with pytest.raises(InputError, match="no prompt"):
        generate(policy(bpe_tokenizer_hf(bos=False)), [SftRow("", "a")])


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"seed": -1}]
)
def test_sampling_is_checked(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(**wrong)


# ---------------------------------------------------------------------- multiple choice


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("style", ["letters", "text"])
@pytest.mark.parametrize("model", [tiny_llama, tiny_neox])
def test_choices_are_scored_as_by_a_loop(name, style, model):
    tokenizer = TOKENIZERS[name]()
    one = policy(tokenizer, model)
    found = multiple_choice(one, ROWS, style=style, shots=1, tokens_at_once=300)
    posed = questions.pose(ROWS, style=style, shots=1)
    best = []
    for i, item in enumerate(posed):
        prompt = tokenizer(item.prompt)["input_ids"]
        values = []
        for text in item.continuations:
            whole = tokenizer(item.prompt + text)["input_ids"]
            assert whole[: len(prompt)] == prompt  # These prompts merge with no response.
            values.append(token_log_probs(one.model, whole)[len(prompt) - 1 :])
        assert found.log_probs[i] == pytest.approx([v.sum() for v in values], abs=1e-4)
        assert found.tokens[i].tolist() == [len(v) for v in values]
        best.append([np.argmax([f(v) for v in values]) for f in (np.sum, np.mean)])
    answers = np.array([row.answer for row in ROWS])
    assert found.hits("sum").tolist() == (np.array(best)[:, 0] == answers).tolist()
    assert found.hits("token").tolist() == (np.array(best)[:, 1] == answers).tolist()
    sizes = [[len(c) for c in row.choices] if style == "text" else [1] * len(row.choices)
             for row in ROWS]  # fmt: skip
    assert [size.tolist() for size in found.size] == sizes
    assert found.shortened == 0


def test_all_layouts_agree():
    shared, packed = policy(layout="shared"), policy(layout="packed")
    padded = policy(layout="padded")
    found = [multiple_choice(p, ROWS, style="text") for p in (shared, packed, padded)]
    for other in found[1:]:
        for a, b in zip(found[0].log_probs, other.log_probs, strict=True):
            assert a == pytest.approx(b, abs=1e-4)


def test_a_model_that_mixes_packed_rows_is_scored_padded(monkeypatch):
    from tradeoff.llm.batches import Batch

    one = policy()
    right = multiple_choice(one, ROWS, style="text")
    unmasked = lambda self, attention: {"input_ids": self.tokens}  # noqa: E731
    monkeypatch.setattr(Batch, "inputs", unmasked)
    found = multiple_choice(one, ROWS, style="text")
    for a, b in zip(right.log_probs, found.log_probs, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_a_random_model_guesses_and_a_constant_one_ties():
    rng = np.random.default_rng(0)
    words = ["fox", "dog", "bread", "flour", "water", "salt", "yeast", "Paris"]
    rows = [
        ChoiceRow(f"What is {i}?", tuple(rng.permutation(words)[:4].tolist()), i % 4)
        for i in range(200)
    ]
    one = policy()
    found = multiple_choice(one, rows, style="letters")
    accuracy, *_, chance = found.scores()
    assert accuracy.low < 0.25 < accuracy.high
    assert chance.value == 0.25
    with torch.no_grad():
        one.model.get_output_embeddings().weight.zero_()
    # Some letters are two tokens of this tokenizer, so the values per token tie.
    constant = multiple_choice(one, rows[:8], style="letters")
    assert constant.hits("token") == pytest.approx(0.25)
    assert "accuracy" in repr(found)


def test_questions_are_posed_as_the_benchmarks_do():
    letters = questions.pose(ROWS, shots=1)
    assert letters[0].prompt == (
        "The following are multiple choice questions (with answers) about a b.\n\n"
        "Bake bread?\nA. Mix flour, water and salt\nB. no\nAnswer: A\n\n"
        "What is the capital of France?\nA. Rome\nB. Paris\nC. the quick brown fox\nAnswer:"
    )
    assert letters[0].continuations == (" A", " B", " C")
    text = questions.pose([replace(row, subject="") for row in ROWS], examples=[ROWS[3]])
    assert text[2].prompt == "Question: 2 + 3\nAnswer:"
    assert text[2].continuations == (" 5", " 6", " 7", " 8", " point")


def test_questions_that_cannot_be_posed():
    with pytest.raises(InputError, match=r"row 1, field 'subject'.*only 1 examples"):
        questions.pose(ROWS, shots=2)
    with pytest.raises(InputError, match="shots"):
        questions.pose(ROWS, shots=-1)
    many = ChoiceRow("?", tuple(map(str, range(27))), 0, "x")
    with pytest.raises(InputError, match="letters"):
        questions.pose([many])


@settings(max_examples=30)
@given(st.integers(2, 80), st.lists(st.text("ab é", min_size=1), min_size=2, max_size=5))
def test_what_is_cut_fits_and_keeps_the_end_of_the_prompt(max_length, choices):
    tokenizer = TOKENIZER
    posed = questions.Posed("Question: fox? Answer:", tuple(f" {c}" for c in choices))
    (whole,), cut = questions.tokenise([posed], tokenizer, 10_000)
    (item,), shortened = questions.tokenise([posed], tokenizer, max_length)
    assert cut == 0
    assert all(len(ids) <= max_length for ids in item.sequences)
    assert 1 <= item.start <= min(len(ids) for ids in item.sequences) - 1
    assert len({tuple(ids[: item.start]) for ids in item.sequences}) == 1
    assert shortened == any(len(ids) > max_length for ids in whole.sequences)
    longest = max(len(ids) - whole.start for ids in whole.sequences)
    if longest < max_length:
        kept = whole.sequences[0][whole.start - item.start : whole.start]
        assert item.sequences[0][: item.start].tolist() == kept.tolist()


TOKENIZER = bpe_tokenizer_hf()


def test_a_choice_that_a_tokenizer_drops_still_has_a_token():
    def deaf(texts, **options):
        return {"input_ids": [[ord(c) for c in text if c != "?"] for text in texts]}

    posed = questions.Posed("Answer:", ("?", "yes"))
    (item,), _ = questions.tokenise([posed], deaf, 100)
    assert min(len(ids) for ids in item.sequences) > item.start


GOOD = {"question": "q", "choices": ["a", "b"], "answer": 1, "subject": "s"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"question": None}, "question"),
        ({"question": [{"role": "user", "content": "q"}]}, "question"),
        ({"choices": ["a"]}, "choices"),
        ({"choices": "ab"}, "choices"),
        ({"choices": ["a", " "]}, "choices"),
        ({"answer": 2}, "answer"),
        ({"answer": "B"}, "answer"),
        ({"answer": True}, "answer"),
        ({"answer": None}, "answer"),
        ({"subject": 3}, "subject"),
        ({"subject": "\ud800"}, "subject"),
        ({"question": "\ud800"}, "question"),
        ({"choices": ["a", "\ud800"]}, "choices"),
        ({"choices": ["a", 3]}, "choices"),
        ({"choices": ["a", [{"role": "user", "content": "b"}]]}, "choices"),
    ],
)
def test_bad_questions_name_their_place(change, field):
    assert choice_row(Record("f", 7, GOOD)) == ChoiceRow("q", ("a", "b"), 1, "s")
    with pytest.raises(InputError, match=f"f, row 7, field '{field}'"):
        choice_row(Record("f", 7, GOOD | change))


def test_a_blank_choice_is_called_blank():
    with pytest.raises(InputError, match=r"a choice is blank \(found \['a', ''\]\).*--skip-bad"):
        choice_row(Record("f", 7, GOOD | {"choices": ["a", ""]}))
    assert choice_row(Record("f", 7, GOOD | {"subject": ""})).subject == ""


@NEEDS_DATA
@pytest.mark.parametrize(
    ("name", "count", "bad"),
    [("mmlu_val", 1531, 0), ("arc_easy_test", 2376, 0), ("truthfulqa_mc1", 790, 17)],
)
def test_the_real_files_are_read_and_a_random_model_guesses(name, count, bad):
    rows = read_choices(DATA / f"eval_{name}.jsonl.gz", skip_bad=True)
    assert (len(rows) + len(rows.dropped), len(rows.dropped)) == (count, bad)
    found = multiple_choice(policy(max_length=512), rows[:: len(rows) // 60], style="text")
    accuracy, chance = found.scores()[0], found.scores()[-1]
    assert accuracy.low < chance.value < accuracy.high
