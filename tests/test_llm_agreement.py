"""Rows agree with the later use of the model, or a finding reports rows and a remedy."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from chat_tokenizers import CHATML, chat_tokenizer
from llm_models import bpe_tokenizer_hf, tiny_llama
from model_families import tiny

from tradeoff import Alright
from tradeoff.cli import main
from tradeoff.data.rows import Message, Origin, PreferenceRow, SftRow
from tradeoff.errors import InputError, RowWarning
from tradeoff.llm import JointTrainer, TrainConfig, inspection, models
from tradeoff.llm import _turns as turns_module
from tradeoff.llm._data import prompt_ids, tokenise_preferences, tokenise_sft
from tradeoff.llm._turns import every_turn, keep_date, stop_ids, turns, wrapped
from tradeoff.llm.agreement import KINDS
from tradeoff.llm.config import ModelConfig
from tradeoff.llm.evaluation import LoadedPolicy, Wanted, evaluate
from tradeoff.llm.evaluation.generation import end_ids


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


SYSTEM = Message("system", "Answer in French.")
CHAT = SftRow((user("hello"),), (assistant("bonjour"),), origin=Origin("rows.jsonl", 7))
WITH_SYSTEM = SftRow((SYSTEM, user("hello")), (assistant("bonjour"),))
LONGER = SftRow((user("Where is it?"), assistant("Over there."), user("Why?")), CHAT.completion)
TOOLS = json.dumps({"tools": [{"type": "function", "function": {"name": "weather"}}]})
WITH_TOOLS = SftRow((user("hello"),), (assistant("bonjour"),), extras=TOOLS)
CALL = Message("assistant", "", json.dumps({"tool_calls": [{"function": {"name": "w"}}]}))
CALLED = SftRow((user("weather?"), CALL, Message("tool", "sunny")), (assistant("Sunny."),))
CALLING = SftRow((user("weather?"),), (CALL,))
SHORT = SftRow((Message("system", "hi"), user("this is it")), (assistant("so"),))
TRANSCRIPT = SftRow(
    (user("Human: Hi\n\nAssistant: Yes?\n\nHuman: Why?\n\nAssistant:"),), CHAT.completion
)
ENCLOSED = SftRow((user("### Instruction:\nSay hello.\n\n### Response:\n"),), CHAT.completion)
OWN_MARKS = SftRow(
    (user("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant"),), CHAT.completion
)
ENDED = SftRow((user("hello"),), (assistant("bonjour<|im_end|>"),))
HEADED = SftRow((user("hello"),), (assistant("<|im_start|>assistant\nbonjour"),))
BEGUN = SftRow((user("<s>hello"),), (assistant("bonjour"),))
ABOUT_USERS = SftRow((user("Which user is it?"),), (assistant("The user of the assistant."),))
THOUGHT = SftRow((user("a"),), (assistant("<think>I muse</think>b"),))
THOUGHT_BEFORE = SftRow(
    (user("a"), assistant("<think>\nabout it\n</think>\n\nb"), user("c")), CHAT.completion
)
PLAIN = SftRow("Q: 1 + 1\nA:", " 2")
PAIR = PreferenceRow((user("hello"),), (assistant("bonjour"),), (assistant("no"),))

NO_SYSTEM = CHATML.replace(
    "{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"
)
THINKING = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
DEAF = CHATML[: CHATML.index("{% if add_generation_prompt")]
ENDLESS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}" + (
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TRIMMED = CHATML.replace("m['content']", "m['content'] | trim").replace(
    "assistant\n' }}{% endif %}", "assistant\n ' }}{% endif %}"
)
FORGETFUL = CHATML.replace(
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content']",
    "{% for m in messages %}{% set parts = m['content'].split('</think>') %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + parts[-1].strip()",
)
TIDY = FORGETFUL.replace(
    "parts[-1].strip()",
    "('<think>\n' + parts[0].split('<think>')[-1].strip() + '\n</think>\n\n' "
    "if loop.last and parts[1:] else '') + parts[-1].strip()",
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}" + CHATML
)
MIDDLE = "<|im_end|>\n<|im_start|>assistant\n"
PHI = CHATML.replace("{% endif %}", "{% else %}{{ '<|endoftext|>' }}{% endif %}")
LOOP, ASKED = CHATML.split("{% endfor %}")
BY_ROLE = "".join(
    LOOP.replace("in messages", f"in messages if m.role {sign} 'user'") + "{% endfor %}"
    for sign in ("==", "!=")
)
SYSTEM_BEHIND = NO_SYSTEM.replace(
    "m['content']", "m['content'] + (messages[0].content if m.role == 'user' else '')"
)
TWO_BOS = "{{ '<s><s>' }}" + CHATML


@pytest.mark.parametrize(
    ("template", "row", "kinds"),
    [
        (CHATML, CHAT, []),
        (CHATML, WITH_SYSTEM, []),
        (NO_SYSTEM, WITH_SYSTEM, ["lost_content"]),
        (CHATML, WITH_TOOLS, ["lost_tools"]),
        ("{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML, WITH_TOOLS, []),
        # Names and contents that are part of another text by chance.
        (CHATML, CALLED, ["lost_field"]),
        (CHATML, CALLING, ["lost_field"]),
        (NO_SYSTEM, SHORT, ["lost_content"]),
        (CHATML, SHORT, []),
        (CHATML, TRANSCRIPT, ["transcript"]),
        (CHATML, ENCLOSED, ["transcript"]),
        # Marks of the template within a turn, which it writes a second time.
        (CHATML, OWN_MARKS, ["carried"]),
        (CHATML, ENDED, ["carried", "two_eos"]),
        (CHATML, HEADED, ["carried"]),
        (CHATML, BEGUN, ["carried", "two_bos"]),
        ("{{ '<s>' }}" + CHATML, BEGUN, ["carried", "two_bos"]),
        (CHATML, ABOUT_USERS, []),
        (ENDLESS, ABOUT_USERS, ["no_stop"]),
        # Tags that are written anew, and earlier reasoning that is left out, are no loss.
        (TIDY, THOUGHT, []),
        (TIDY, THOUGHT_BEFORE, []),
        (FORGETFUL, THOUGHT_BEFORE, []),
        (FORGETFUL, THOUGHT, ["lost_content"]),
        (DEFAULT_SYSTEM, SftRow(f"<|im_start|>user\nQ{MIDDLE}", "A"), []),
        (
            DEFAULT_SYSTEM,
            SftRow(f"<|im_start|>system\nNo.<|im_end|>\n<|im_start|>user\nQ{MIDDLE}", "A"),
            [],
        ),
        (THINKING, CHAT, ["thinking"]),
        (DEAF, CHAT, ["unasked"]),
        (ENDLESS, CHAT, ["no_stop"]),
        (TRIMMED, CHAT, ["other_prompt"]),
        (TWO_BOS, CHAT, ["two_bos"]),
        (None, SftRow("<s>Q: 1\nA:", "<s> 2"), ["two_bos"]),
        (None, SftRow("Q: 1\nA:", " 2<|im_end|>\n"), []),
        (None, SftRow("Q: 1\nA:", " 2<|im_end|><|im_end|>"), ["two_eos"]),
        (None, SftRow("Q: 1\nA:", " 2<|im_end|>"), []),
        (PHI.replace("endoftext", "im_end"), CHAT, ["two_eos"]),
        # The system's turn may be elsewhere, as in templates of Mistral, but not the others.
        (BY_ROLE + ASKED, LONGER, ["reordered"]),
        (SYSTEM_BEHIND, WITH_SYSTEM, []),
        (None, SftRow("<s>Q: 1\nA: 2<|im_end|>\n<s>Q: 3\nA:", " 4"), []),
        (CHATML, PLAIN, ["plain"]),
        (None, PLAIN, []),
        (CHATML, SftRow("<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", "A"), []),
        (CHATML, SftRow("", "A document."), []),
    ],
)
def test_each_disagreement_has_its_finding(template, row, kinds):
    found = tokenise_sft([CHAT, row] if template else [row], chat_tokenizer(template, bos="<s>"))
    assert sorted({f.kind for f in found.findings}) == kinds
    for finding in found.findings:
        assert KINDS[finding.kind].remedy in str(finding)
        assert f"of {finding.rows} rows" in str(finding)


def test_a_finding_names_the_first_row_and_shows_it():
    (finding,) = tokenise_sft([CHAT, CHAT], chat_tokenizer(THINKING)).findings
    assert (finding.count, finding.rows, finding.where) == (2, 2, "rows.jsonl, row 7")
    assert "asked" in finding.example
    assert "<think>" in finding.example
    (finding,) = tokenise_sft([PLAIN], chat_tokenizer(), plain_is_meant=False).findings
    assert "--chat" in str(finding)
    assert not tokenise_sft([PLAIN], chat_tokenizer(), plain_is_meant=True).findings


def test_pairs_are_looked_at_on_both_sides():
    assert not tokenise_preferences([PAIR], chat_tokenizer()).findings
    cut = CHATML.replace("m['content']", "m['content'] | replace('no', '')")
    lost = tokenise_preferences([PAIR], chat_tokenizer(cut)).findings
    assert [f.kind for f in lost] == ["lost_content"]


# ---------------------------------------------------------------------- special tokens


@pytest.mark.parametrize("text", ["<s>[INST] hi [/INST]", "[INST] hi [/INST]"])
def test_there_is_one_bos(text):
    tokenizer = chat_tokenizer(None, eos="</s>", bos="<s>", post="<s> $A")
    for rows in ([SftRow(text, " yo</s>")], [SftRow("", f"{text} yo")]):
        ids = tokenise_sft(rows, tokenizer)[0].tokens
        assert (ids == tokenizer.bos_token_id).sum() == 1
        assert (ids == tokenizer.eos_token_id).sum() == 1
    assert (prompt_ids([SftRow(text, "yo")], tokenizer)[0] == tokenizer.bos_token_id).sum() == 1


def test_a_tokenizer_that_adds_the_end_token_does_not_end_a_prompt():
    tokenizer = chat_tokenizer(None, eos="</s>", post="$A </s>")
    (prompt,) = prompt_ids([PLAIN], tokenizer)
    found = tokenise_sft([PLAIN], tokenizer)
    assert tokenizer.eos_token_id not in prompt
    np.testing.assert_array_equal(found[0].tokens[: found[0].start], prompt)
    assert found[0].tokens.tolist().count(tokenizer.eos_token_id) == 1
    assert not found.findings
    (ended,) = prompt_ids([SftRow("Q</s>", "A")], tokenizer)  # As its writer intended.
    assert ended[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("eos", ["<|im_end|>", "<|endoftext|>"])
def test_a_response_ends_where_the_template_ends_a_turn(eos, tmp_path):
    tokenizer = chat_tokenizer(eos=eos)
    expected = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert set(stop_ids(tokenizer)) == expected
    policy = LoadedPolicy.of(tiny_llama(len(tokenizer)), tokenizer)
    assert set(end_ids(policy)) == expected
    # Other users of the model also stop there.
    models.save(policy.scorer.accelerator, policy.model, tokenizer, tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "generation_config.json").read_text("utf-8"))
    assert set(np.atleast_1d(saved["eos_token_id"])) == expected


def test_templates_are_understood():
    known = turns(chat_tokenizer())
    assert known.headers == ("<|im_start|>user", "<|im_start|>assistant")
    assert known.asks
    assert not turns(chat_tokenizer(DEAF)).asks
    assert turns(chat_tokenizer(ENDLESS)).end is None
    # A system turn that no row asks for, and a mark after the last turn, belong to no header.
    assert turns(chat_tokenizer(DEFAULT_SYSTEM)).headers == known.headers
    assert turns(chat_tokenizer(PHI)).headers == known.headers
    assert turns(chat_tokenizer(None)) is None
    assert turns(chat_tokenizer("{{ raise_exception('no') }}")) is None


def test_a_row_may_have_any_argument_for_its_template():
    template = "{{ generation_prompt }}" + CHATML
    kwargs = json.dumps({"chat_template_kwargs": {"generation_prompt": "Hm. "}})
    (ids,) = prompt_ids([replace(CHAT, extras=kwargs)], tokenizer := chat_tokenizer(template))
    assert tokenizer.decode(ids).startswith("Hm. <|im_start|>user")


# ---------------------------------------------------------------------- plain rows in chat


@pytest.mark.parametrize(
    "lead", ["", "Below is an instruction that describes a task. Respond.\n\n"]
)
def test_instructions_lose_the_marks_of_another_format(lead):
    known = turns(chat_tokenizer())
    for given, said in (("Add up.", "Add up."), ("Add.\n\n### Input:\n1, 2", "Add.\n\n1, 2")):
        row = SftRow(f"{lead}### Instruction:\n{given}\n\n### Response:\n", "3")
        assert wrapped(row, known).prompt == (user(said),)
    other = SftRow("### Instruction:\nAdd up.\n\n### Answer:\n", "3")
    assert wrapped(other, known).prompt == (user(other.prompt.strip()),)


def test_plain_rows_become_conversations():
    tokenizer = chat_tokenizer()
    known = turns(tokenizer)
    assert wrapped(SftRow("hello ", " bonjour"), known) == SftRow(CHAT.prompt, CHAT.completion)
    assert wrapped(PreferenceRow("hello", "bonjour", "no"), known) == PAIR
    rendered = SftRow("<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", "A")
    for row in (CHAT, rendered, SftRow("", "A document.")):
        assert wrapped(row, known) is row


def run(rows, pairs, tokenizer, output=None, **settings):
    config = TrainConfig(
        **{"steps": 1, "batch_size": 2, "max_length": 128, "holdout": 0, **settings}
    )
    return JointTrainer(
        tiny_llama(len(tokenizer)),
        tokenizer,
        sft=rows,
        preference=pairs,
        schedule=Alright(),
        config=config,
        output=output,
    )


def test_a_trainer_warns_wraps_or_is_told_that_plain_is_meant():
    rows, pairs = [PLAIN] * 4, [PreferenceRow("hello", "bonjour", "no")] * 4
    with pytest.warns(RowWarning, match=r"4 of 4 rows are plain text.*--chat"):
        plain = run(rows, pairs, chat_tokenizer())
    meant = run(rows, pairs, chat_tokenizer(), chat=False)
    chat = run(rows, pairs, chat_tokenizer(), chat=True)
    assert plain.data.fingerprints() == meant.data.fingerprints()
    assert not meant.data.remarks()
    assert not chat.data.remarks()
    expected = tokenise_preferences([PAIR] * 4, chat_tokenizer()).fingerprint
    assert chat.data.preference.fingerprint == expected
    with pytest.raises(InputError, match="chat"):
        run(rows, pairs, chat_tokenizer(None), chat=True)


def test_evaluation_treats_plain_rows_alike():
    tokenizer = chat_tokenizer()
    pairs = [PreferenceRow("hello", "bonjour", "no")]
    values = {}
    for chat, rows in ((True, [SftRow("hello", "bonjour")]), (False, [CHAT])):
        config = TrainConfig(max_length=128, chat=chat)
        policy = LoadedPolicy.of(tiny_llama(len(tokenizer)), tokenizer, config)
        wanted = Wanted(sft=rows, preference=pairs if chat else [PAIR])
        values[chat] = evaluate(policy, wanted, reference=policy, config=config).table()
    assert values[True].equals(values[False])
    policy = LoadedPolicy.of(tiny_llama(len(tokenizer)), tokenizer)
    part = evaluate(policy, Wanted(sft=[PLAIN])).parts[0]
    assert "--chat" in part.remarks[0]


def test_all_turns_of_the_assistant_can_carry_loss():
    first, second = (user("1"), assistant("one")), (user("2"), assistant("two"))
    row = SftRow((SYSTEM, *first, second[0]), (second[1],))
    found = every_turn(row)
    assert [r.completion[0].content for r in found] == ["one", "two"]
    assert found[0].prompt == (SYSTEM, first[0])
    assert found[1].prompt == row.prompt
    assert every_turn(PLAIN) == [PLAIN]
    trainer = run([row] * 4, [PAIR] * 4, chat_tokenizer(), turns="all")
    assert len(trainer.data.sft) == 8
    only = run([row] * 4, [PAIR] * 4, chat_tokenizer())
    assert (
        trainer.data.sft.summary()["completion_tokens"]
        > only.data.sft.summary()["completion_tokens"]
    )


# ---------------------------------------------------------------------- the clock


class Tomorrow(date):
    @classmethod
    def today(cls):
        return date(2031, 5, 17)


DATED = "{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}" + CHATML
CLOCKS = {
    DATED: "Today: 29 Feb 2024\n",
    "{% set form = '%d %B' %}\n{{ strftime_now(form) }}" + CHATML: "29 February",
    "{% set now = strftime_now %}{{ now(format='%-d.%m.%y') }}" + CHATML: "29.02.24",
    "{% macro m() %}{{ strftime_now('%Y') }}{% endmacro %}\n  {{ m() }}" + CHATML: "  2024",
    "{% if strftime_now is defined %}\n{{ strftime_now('%A') }}{% endif %}" + CHATML: "Thursday",
}


@pytest.mark.parametrize("template", CLOCKS)
def test_a_date_is_kept_however_it_is_asked_for(template):
    tokenizer = chat_tokenizer(template)
    keep_date(tokenizer, "2024-02-29")
    (ids,) = prompt_ids([CHAT], tokenizer)
    assert tokenizer.decode(ids).startswith(CLOCKS[template] + "<|im_start|>user")


def test_a_date_is_kept(tmp_path, monkeypatch):
    tokenizer = chat_tokenizer(DATED)
    assert keep_date(tokenizer, "2024-02-29") == "2024-02-29"
    (ids,) = prompt_ids([CHAT], tokenizer)
    assert tokenizer.decode(ids).startswith("Today: 29 Feb 2024\n")
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(turns_module, "date", Tomorrow)
    again = models.tokenizer_of(str(tmp_path), str(tmp_path))
    assert keep_date(again) == "2024-02-29"
    assert again.chat_template == DATED
    assert keep_date(chat_tokenizer(DATED)) == "2031-05-17"
    assert keep_date(chat_tokenizer()) is None
    tokenizer.init_kwargs["rendered_on"] = "soon"
    with pytest.raises(InputError, match=r"rendered_on.*soon"):
        prompt_ids([CHAT], tokenizer)


def test_a_run_goes_on_tomorrow(tmp_path, monkeypatch):
    settings = {"steps": 4, "save_every": 2, "keep": 2, "holdout": 0.25}
    rows = [SftRow((user(f"say {i}"),), (assistant(f"{i}"),)) for i in range(4)]
    pairs = [PreferenceRow((user(f"say {i}"),), (assistant("a"),), PAIR.rejected) for i in range(4)]
    first = run(rows, pairs, chat_tokenizer(DATED), tmp_path, **settings)
    whole = first.train(progress=False)
    for name in ("checkpoints/step-00000004", "model"):
        (tmp_path / name).rename(tmp_path / f"gone-{name.replace('/', '-')}")
    monkeypatch.setattr(turns_module, "date", Tomorrow)
    again = run(rows, pairs, chat_tokenizer(DATED), tmp_path, **settings)
    assert again.date == first.date != "2031-05-17"
    result = again.train(progress=False)
    assert result.table.sft_loss.tolist() == whole.table.sft_loss.tolist()


# ---------------------------------------------------------------------- loading


def test_template_end_token_and_attention_can_be_named(tmp_path):
    folder = tmp_path / "model"
    tokenizer = chat_tokenizer(None, eos="</s>")
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (tmp_path / "chatml.jinja").write_text(CHATML, "utf-8")
    named = {"path": str(folder), "chat_template": str(tmp_path / "chatml.jinja")}
    model, found = models.load(ModelConfig(**named, eos_token="<|im_end|>", attention="eager"))
    assert (found.chat_template, found.eos_token) == (CHATML, "<|im_end|>")
    assert model.config._attn_implementation == "eager"
    with pytest.raises(InputError, match=r"eos_token.*<x>"):
        models.load(ModelConfig(**named, eos_token="<x>"))
    with pytest.raises(InputError, match=r"chat_template.*none\.jinja"):
        models.load(ModelConfig(path=str(folder), chat_template=str(tmp_path / "none.jinja")))


@pytest.mark.parametrize(("family", "attention"), [("bloom", "eager"), ("llama", "sdpa")])
def test_what_has_no_sdpa_trains_and_evaluates(family, attention, tmp_path):
    tokenizer = bpe_tokenizer_hf()
    tiny(family, len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = models.load(ModelConfig(path=str(tmp_path)))
    assert model.config._attn_implementation == attention
    rows = [SftRow((user(f"say {i}"),), (assistant(f"{i}"),)) for i in range(4)]
    found = evaluate(str(tmp_path), Wanted(sft=rows), config=TrainConfig(layout="padded"))
    assert found.table().value.notna().all()


# ---------------------------------------------------------------------- the command line


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "model"
    tokenizer = chat_tokenizer(THINKING)
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    chat = [{"messages": [{"role": "user", "content": f"say {i}"},
                          {"role": "assistant", "content": f"{i}"}]} for i in range(8)]  # fmt: skip
    plain = [{"prompt": f"say {i}", "chosen": f"{i}", "rejected": "no"} for i in range(8)]
    for name, rows in (("sft", chat), ("pairs", plain)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in rows), "utf-8"
        )
    return tmp_path


def test_findings_are_printed_before_training(place, capsys):
    arguments = ["train", "--model", place / "model", "--sft", place / "sft.jsonl", "--preference",
                 place / "pairs.jsonl", "--steps", 1, "--batch-size", 2, "--max-length", 64,
                 "--out", place / "run"]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    shown = capsys.readouterr().out
    assert not stop.value.code
    assert "rows are asked with an opened reasoning block" in shown
    assert "rows are plain text" in shown
    assert shown.index("plain text") < shown.index("written:")


def test_doctor_makes_the_same_check_alone(place, capsys):
    sources = {"sft": str(place / "sft.jsonl"), "preference": str(place / "pairs.jsonl")}
    found = list(inspection.rows(str(place / "model"), sources))
    assert [f.ok for f in found] == [True, False, True, False]
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--model", str(place / "model"), "--sft", sources["sft"]])
    assert stop.value.code == 1
    assert "8 of 8 rows" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--sft", sources["sft"]])
    assert stop.value.code == 2
