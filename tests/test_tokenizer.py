"""The tokenizers: exact on any text, unchanged by saving, the same in transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradeoff.data import Message
from tradeoff.data.synthetic import Language, generate
from tradeoff.data.tokenizer import SPECIAL, Tokenizer, byte_tokenizer, train_tokenizer
from tradeoff.errors import InputError

CORPUS = generate(Language(sft_rows=9, preference_rows=9, test_rows=9, documents=2000)).corpus
TRAINED = train_tokenizer(CORPUS, 400)
BYTES = byte_tokenizer()
BOTH = pytest.mark.parametrize("tokenizer", [TRAINED, BYTES], ids=["trained", "bytes"])
# Any text that UTF-8 can hold, sometimes with the name of a special token in it.
TEXTS = st.lists(st.one_of(st.text(), st.sampled_from(SPECIAL))).map("".join)
TURNS = (Message("user", "Hi  there\n"), Message("assistant", "Grüß Gott"), Message("user", "1+1"))


@BOTH
@given(text=TEXTS)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < len(tokenizer) for i in ids)


@BOTH
def test_special_tokens_come_first(tokenizer: Tokenizer) -> None:
    assert [tokenizer.encode(token) for token in SPECIAL] == [[i] for i in range(len(SPECIAL))]
    assert (tokenizer.pad, tokenizer.eos) == (0, 1)


def test_bytes_are_one_token_each() -> None:
    assert len(BYTES) == 256 + len(SPECIAL)
    assert len(BYTES.encode("a€ \n")) == 6


def test_training_compresses_but_leaves_digits_single() -> None:
    assert len(TRAINED) == 400
    text = "\n".join(CORPUS[:100])
    assert len(TRAINED.encode(text)) < 0.6 * len(BYTES.encode(text))
    assert [TRAINED.decode([i]) for i in TRAINED.encode("1234")] == list("1234")


def test_training_is_repeatable() -> None:
    again = train_tokenizer(CORPUS, 400)
    assert again.engine.to_str() == TRAINED.engine.to_str()


def test_a_batch_is_each_text_by_itself() -> None:
    texts = list(CORPUS[:50])
    assert TRAINED.encode_many(texts) == [TRAINED.encode(text) for text in texts]


@BOTH
def test_saved_and_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.encode(CORPUS[0] + "é") == tokenizer.encode(CORPUS[0] + "é")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("content", [None, "{", '{"model": 1}'])
def test_unreadable_files_are_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json.*Give"):
        Tokenizer.load(path)


def test_missing_special_tokens_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(BYTES.engine.to_str().replace("<assistant>", "<helper>"))
    with pytest.raises(InputError, match="<assistant>"):
        Tokenizer.load(path)


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="at least 261"):
        train_tokenizer(CORPUS, 260)


def test_conversations_are_rendered_with_markers() -> None:
    text = "<user>Hi  there\n<assistant>Grüß Gott<eos><user>1+1"
    assert TRAINED.render(TURNS) == text
    assert TRAINED.render(TURNS, generation_prompt=True) == f"{text}<assistant>"
    with pytest.raises(InputError, match="role"):
        TRAINED.render([Message("tool", "x")])


def test_transformers_tokenises_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tradeoff.data.tokenizer import CHAT_TEMPLATE

    path = tmp_path / "tokenizer.json"
    TRAINED.save(path)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path), eos_token="<eos>", pad_token="<pad>", chat_template=CHAT_TEMPLATE
    )
    for text in (*CORPUS[:20], " two  blanks , é <eos>\n"):
        assert theirs(text)["input_ids"] == TRAINED.encode(text)
    turns = [{"role": turn.role, "content": turn.content} for turn in TURNS]
    for prompt in (False, True):
        rendered = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
        assert rendered == TRAINED.render(TURNS, generation_prompt=prompt)
