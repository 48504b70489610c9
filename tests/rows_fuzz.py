"""Mutated rows through reader and tokens: a right result or one clear error, nothing else.

``python tests/rows_fuzz.py 20000 --seed 3`` tries as many as wanted and prints what came of them.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

from llm_models import byte_tokenizer_hf

from tradeoff.data import as_text, read_preferences, read_sft
from tradeoff.errors import InputError
from tradeoff.llm.data import tokenise_preferences, tokenise_sft

MAX_LENGTH = 256
TEMPLATE = (
    "{% if tools %}{{ tools|tojson }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'refused' %}{{ raise_exception('no such role') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}"
    "{{ m.reasoning_content or '' }}{{ (m['content'] or '')|trim }}{{ '<eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
U, A = {"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello you"}
B = {"role": "assistant", "content": "What now"}
SEEDS: dict[str, list[dict[str, Any]]] = {
    "sft": [
        {"prompt": "Q: one\nA:", "completion": " two"},
        {"prompt": [U], "completion": [A]},
        {"messages": [{"role": "system", "content": ""}, U, A, U, B]},
        {"messages": json.dumps([U, A]), "tools": json.dumps([{"type": "function"}])},
        {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]},
        {"instruction": "Add", "input": "1, 2", "output": "3", "text": "Add 1, 2: 3"},
        {"text": "A document."},
        {"prompt": "Hi", "messages": [U, A], "chat_template_kwargs": {"think": True}},
        {"prompt": "Hi", "completion": "Hello", "label": True},
    ],
    "preference": [
        {"prompt": "Q: one\nA:", "chosen": " two", "rejected": " three"},
        {"prompt": [U], "chosen": [A], "rejected": [B]},
        {"chosen": [U, A], "rejected": [U, B], "score_chosen": 2, "score_rejected": 1},
        {"prompt": "Hi there", "chosen": [U, A], "rejected": [U, B]},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        {"instruction": "Add", "chosen": "3", "rejected": "4"},
        {"prompt": "Hi", "completion": "Hello", "label": False},
    ],
}
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 1e20, float("nan"), float("inf"), 10**30, "", " ", "\n", "\x00",
    "\ud83d", "é\u0301", "\u202e", "﷽", "🙂", "x" * 999, [], {}, [None], [[]], [{}], [1], "[]",
    "[{", "null", '[{"role": "user"}]', "[{'role': 'user', 'content': 'x'}]", "<eos>", "{{ 1/0 }}",
    {"role": "assistant", "content": "z"}, [U], [A], [A, U], [U, A], {"type": "image", "image": 1},
    [{"type": "text", "text": "t"}], [{"type": "image"}], "system", "refused", "tool", "gpt",
    json.dumps([U, A]), str([U, A]), {"name": "f", "arguments": {"a": None}}, "Hi there", "Hello",
]  # fmt: skip


def mutated(row: dict[str, Any], rng: random.Random) -> Any:
    """A copy of a row with some values, keys or items changed."""
    made = json.loads(json.dumps(row))
    for _ in range(rng.choice((1, 1, 2, 3))):
        holders = list(_holders(made))
        holder = rng.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        match rng.randrange(6):
            case 0 if keys:
                holder[rng.choice(keys)] = deepcopy(rng.choice(ODD))
            case 1 if keys:
                del holder[rng.choice(keys)]
            case 2 if isinstance(holder, list):
                holder.insert(rng.randint(0, len(holder)), deepcopy(rng.choice([*holder, *ODD])))
            case 3 if isinstance(holder, dict):
                names = [k for seeds in SEEDS.values() for seed in seeds for k in seed]
                more = [
                    "role",
                    "from",
                    "tool_calls",
                    "name",
                    "system",
                    "margin",
                    "reasoning_content",
                ]
                holder[rng.choice([*names, *more])] = deepcopy(rng.choice([*ODD, *holder.values()]))
            case 4 if len(keys) > 1:
                first, second = rng.sample(keys, 2)
                holder[first], holder[second] = holder[second], holder[first]
            case _ if keys:
                key = rng.choice(keys)
                value = holder[key]
                holder[key] = [value] if rng.random() < 0.5 else json.dumps(value)
    return made


def _holders(value: Any) -> Any:
    if isinstance(value, dict | list):
        yield value
        for item in list(value.values()) if isinstance(value, dict) else value:
            yield from _holders(item)


def damaged(line: bytes, rng: random.Random) -> bytes:
    """A line with some of its bytes changed, without a line break."""
    content = bytearray(line + b" " * 4)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(content))
        match rng.randrange(3):
            case 0:
                content[place] = rng.randrange(256)
            case 1:
                del content[place]
            case _:
                content.insert(place, rng.choice(b'"{}[],:\\\xff\xed\xa0'))
    return bytes(content).replace(b"\n", b" ").replace(b"\r", b" ") or b"{"


def tried(kind: str, line: bytes, path: Path, tokenizer: Any, use_labels: bool) -> str:
    """What came of one line: "read", or "refused" with an error that names it.

    Raises
    ------
    AssertionError
        If tokens are not those of the texts, or an error does not name the line.
    """
    path.write_bytes(b"\n" + line + b"\n")
    try:
        if kind == "sft":
            rows: Any = read_sft(path, use_labels=use_labels)
            items: Any = tokenise_sft(rows, tokenizer, MAX_LENGTH)
        else:
            rows = read_preferences(path, use_labels=use_labels)
            items = tokenise_preferences(rows, tokenizer, MAX_LENGTH)
    except InputError as error:
        return _refused(error, path)
    row, item = rows[0], items[0]
    assert row.origin == (str(path), 2), row.origin
    for name, ids in zip(
        ("completion",) if kind == "sft" else ("chosen", "rejected"), item.sequences, strict=True
    ):
        response = getattr(row, name)
        learned = tokenizer.decode(ids[item.start :])
        assert isinstance(row.prompt, str) == isinstance(response, str)
        if isinstance(response, str):
            assert (
                tokenizer.decode(ids) == (row.prompt + response).removesuffix("<eos>") + "<eos>"
                or len(ids) == MAX_LENGTH
            )
        else:
            assert response[-1].role == "assistant"
            end = response[-1].content.strip()
            assert len(ids) == MAX_LENGTH or end in learned or not row.prompt, (end, learned)
        assert as_text(response).strip()
    return "read"


def _refused(error: InputError, path: Path) -> str:
    """Where no row is left at all, the error is that of the file or of the longest sequence."""
    assert error.remedy, error
    named = (error.file, error.row) == (str(path), 2)
    assert named or str(error.file) == str(path) or error.field == "max_length", error
    return "refused"


def fuzz(count: int, seed: int = 0) -> Counter[str]:
    """Try `count` mutated rows; the counts of what came of them."""
    rng = random.Random(seed)
    tokenizer = byte_tokenizer_hf()
    tokenizer.chat_template = TEMPLATE
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        for trial in range(count):
            kind = rng.choice(list(SEEDS))
            row = mutated(rng.choice(SEEDS[kind]), rng)
            line = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
            if rng.random() < 0.15:
                line = damaged(line, rng)
            try:
                found[tried(kind, line, path, tokenizer, rng.random() < 0.2)] += 1
            except BaseException as error:
                error.add_note(f"trial {trial} of seed {seed}, {kind}: {line!r}")
                raise
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(dict(fuzz(given.count, given.seed)))
