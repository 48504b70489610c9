"""Byte-level tokenizers: every text is some sequence of tokens, and decoding gives it back exactly.

Both kinds, plain bytes and a trained byte-pair encoding, are `tokenizers.Tokenizer` objects in
the library's own JSON format, so that transformers loads the same file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from tradeoff.data.rows import Message
from tradeoff.errors import InputError
from tradeoff.records import replacing

PAD, EOS = "<pad>", "<eos>"
ROLES = {role: f"<{role}>" for role in ("system", "user", "assistant")}
"""The token that opens a turn of each role."""
SPECIAL = (PAD, EOS, *ROLES.values())
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
"""The chat template of transformers that renders as `Tokenizer.render` does."""


@dataclass(frozen=True)
class Tokenizer:
    """A byte-level tokenizer whose special tokens are `SPECIAL`, with ids 0, 1, ... in that order.

    The name of a special token is read as that token anywhere in a text, as transformers does by
    default. Decoding still gives the same text back.
    """

    engine: Engine

    @cached_property
    def pad(self) -> int:
        """The id of padding."""
        return _id(self.engine, PAD)

    @cached_property
    def eos(self) -> int:
        """The id of the token that ends a document or a response."""
        return _id(self.engine, EOS)

    def __len__(self) -> int:
        return self.engine.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; nothing is added."""
        return self.engine.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all cores."""
        batch = self.engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, the inverse of `encode`; bytes that are not UTF-8 become U+FFFD."""
        return self.engine.decode(list(ids), skip_special_tokens=False)

    def render(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> str:
        """A conversation as text: role markers before turns, the end token after the assistant's.

        Parameters
        ----------
        messages
            Turns whose roles are among `ROLES`.
        generation_prompt
            Open a turn of the assistant at the end.
        """
        turns = []
        for message in messages:
            if message.role not in ROLES:
                remedy = f"Use one of {sorted(ROLES)}."
                raise InputError("unknown role", field="role", value=message.role, remedy=remedy)
            if message.extras:
                remedy = "Remove the row, or train a model whose chat template reads them."
                problem = "this tokenizer writes only role and content"
                raise InputError(problem, field="messages", value=message.extras, remedy=remedy)
            end = EOS if message.role == "assistant" else ""
            turns.append(f"{ROLES[message.role]}{message.content}{end}")
        return "".join(turns) + (ROLES["assistant"] if generation_prompt else "")

    def save(self, path: str | PathLike[str]) -> None:
        """Write the JSON of `tokenizers`; a reader sees the old file or the whole new one."""
        with replacing(Path(path)) as partial:
            partial.write_text(self.engine.to_str(pretty=True), encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Tokenizer:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If there is no such file, or it is not a tokenizer with these special tokens.
        """
        remedy = "Give a tokenizer.json that Tokenizer.save wrote."
        try:
            engine = Engine.from_str(Path(path).read_text(encoding="utf-8"))
        # The library raises bare Exceptions.
        except Exception as error:
            raise InputError(
                f"no tokenizer can be read: {error}", file=str(path), remedy=remedy
            ) from error
        if missing := [token for token in SPECIAL if engine.token_to_id(token) is None]:
            problem = "special tokens are missing"
            raise InputError(problem, file=str(path), value=missing, remedy=remedy)
        return cls(engine)


def byte_tokenizer() -> Tokenizer:
    """One token per byte of UTF-8, after the special tokens: 261 in all; needs no training."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *letters))}
    engine = Engine(models.BPE(vocab=vocabulary, merges=[]))
    return _finish(engine, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))


def train_tokenizer(texts: Iterable[str], vocabulary: int = 512) -> Tokenizer:
    """Learn a byte-pair encoding; digits stay single tokens, so that numbers have one spelling.

    Parameters
    ----------
    texts
        Training documents.
    vocabulary
        Largest number of tokens, among them the special ones and all 256 bytes.

    Raises
    ------
    InputError
        If the vocabulary has no room for special tokens and bytes.
    """
    least = len(SPECIAL) + 256
    if vocabulary < least:
        raise InputError(
            "special tokens and bytes do not fit",
            field="vocabulary",
            value=vocabulary,
            remedy=f"Give at least {least}.",
        )
    engine = Engine(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer = _finish(
        engine, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return tokenizer


def _finish(engine: Engine, splitter: pre_tokenizers.PreTokenizer) -> Tokenizer:
    engine.pre_tokenizer = splitter
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return Tokenizer(engine)


def _id(engine: Engine, token: str) -> int:
    found = engine.token_to_id(token)
    assert found is not None, f"a Tokenizer has {token}"
    return found
