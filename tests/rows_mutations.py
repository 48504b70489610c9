"""Rows in every layout that is read, changed at random: seeds, odd values, and mutations."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

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


def written(row: Any, rng: random.Random) -> bytes:
    """A row as a line of JSON, sometimes with damaged bytes."""
    line = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    return damaged(line, rng) if rng.random() < 0.15 else line
