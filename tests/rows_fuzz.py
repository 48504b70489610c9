"""Mutated rows through the whole path: a right result or one clear error, nothing else.

``fuzz`` goes as far as tokens. ``run`` goes through reader, template, tokens, two updates, the
saved model and its reload; ``python tests/rows_fuzz.py --store`` stores the counts.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from llm_models import bpe_tokenizer_hf, byte_tokenizer_hf, tiny_llama
from rows_mutations import SEEDS, A, B, U, mutated, written

from tradeoff.data import as_text, read_preferences, read_sft
from tradeoff.errors import InputError, RowWarning
from tradeoff.llm._data import tokenise_preferences, tokenise_sft
from tradeoff.llm._turns import in_chat
from tradeoff.llm.config import ModelConfig, TrainConfig
from tradeoff.llm.logprobs import Policy
from tradeoff.llm.models import load
from tradeoff.llm.trainer import JointTrainer
from tradeoff.progress import tqdm
from tradeoff.schedules import Mix

STORED = Path(__file__).with_suffix(".json")
MAX_LENGTH = 256
TEMPLATE = (
    "{% if tools %}{{ tools|tojson }}{% endif %}{% for m in messages %}"
    "{% if m.role == 'refused' %}{{ raise_exception('no such role') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}"
    "{{ m.reasoning_content or '' }}{{ (m['content'] or '')|trim }}{{ '<eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
READ = {"sft": read_sft, "preference": read_preferences}
TOKENISE: dict[str, Any] = {"sft": tokenise_sft, "preference": tokenise_preferences}


def byte_tokenizer() -> Any:
    """A tokenizer of single bytes, without BOS, with the template above."""
    tokenizer = byte_tokenizer_hf()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def check_tokens(kind: str, row: Any, item: Any, tokenizer: Any) -> None:
    """Raise an `AssertionError` if a row's tokens of the byte tokenizer are not its texts."""
    names = ("completion",) if kind == "sft" else ("chosen", "rejected")
    for name, ids in zip(names, item.sequences, strict=True):
        response = getattr(row, name)
        learned = tokenizer.decode(ids[item.start :])
        assert isinstance(row.prompt, str) == isinstance(response, str)
        if isinstance(response, str):
            text = (row.prompt + response).removesuffix("<eos>") + "<eos>"
            assert tokenizer.decode(ids) == text or len(ids) == MAX_LENGTH
        else:
            assert response[-1].role == "assistant"
            end = response[-1].content.strip()
            assert len(ids) == MAX_LENGTH or end in learned or not row.prompt, (end, learned)
        assert as_text(response).strip()


# ---------------------------------------------------------------------- as far as tokens


def tried(kind: str, line: bytes, path: Path, tokenizer: Any, use_labels: bool) -> str:
    """Outcome of one line: "read", or "refused" with an error that names the line.

    Raises
    ------
    AssertionError
        If tokens are not those of the texts, or an error does not name the line.
    """
    path.write_bytes(b"\n" + line + b"\n")
    try:
        rows: Any = READ[kind](path, use_labels=use_labels)
        items: Any = TOKENISE[kind](rows, tokenizer, MAX_LENGTH)
    except InputError as error:
        return _refused(error, path)
    assert rows[0].origin == (str(path), 2), rows[0].origin
    check_tokens(kind, rows[0], items[0], tokenizer)
    return "read"


def _refused(error: InputError, path: Path) -> str:
    """If no row is left at all, the error is that of the file or of the longest sequence."""
    assert error.remedy, error
    named = (error.file, error.row) == (str(path), 2)
    assert named or str(error.file) == str(path) or error.field == "max_length", error
    return "refused"


def fuzz(count: int, seed: int = 0) -> Counter[str]:
    """Try `count` mutated rows up to tokens, and count the outcomes."""
    rng = random.Random(seed)
    tokenizer = byte_tokenizer()
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        for trial in range(count):
            kind = rng.choice(list(SEEDS))
            line = written(mutated(rng.choice(SEEDS[kind]), rng), rng)
            try:
                found[tried(kind, line, path, tokenizer, rng.random() < 0.2)] += 1
            except BaseException as error:
                error.add_note(f"trial {trial} of seed {seed}, {kind}: {line!r}")
                raise
    return found


# ---------------------------------------------------------------------- the whole path

GOOD: dict[str, list[dict[str, Any]]] = {
    "sft": [
        {"prompt": "Q: six\nA:", "completion": " seven"},
        {"messages": [U, A, {"role": "user", "content": "And you?"}, B]},
    ],
    "preference": [
        {"prompt": "Q: six\nA:", "chosen": " seven", "rejected": " nine"},
        {"prompt": [U], "chosen": [A], "rejected": [B]},
    ],
}
HELD_OUT: dict[str, list[dict[str, Any]]] = {
    "sft": [{"prompt": "Held out:", "completion": " yes, it is"}],
    "preference": [{"prompt": "Held out, too:", "chosen": " yes", "rejected": " no"}],
}
LEFT_OUT = ("rows left out whose label is false", "labelled rows left out, without a partner")


@dataclass
class Outcome:
    """Counts of outcomes, and descriptions of failures."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def summary(self, **about: Any) -> dict[str, Any]:
        failed = {"failures": len(self.failures), "examples": self.failures[:20]}
        return {**about, **dict(sorted(self.counts.items())), **failed}


class Bench:
    """Models, tokenizers and held-out rows that all tries share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizers = [byte_tokenizer(), bpe_tokenizer_hf()]
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        self.models = [tiny_llama(len(tokenizer), **sizes) for tokenizer in self.tokenizers]
        self.held_out = {kind: self.rows(f"{kind}-test", rows) for kind, rows in HELD_OUT.items()}

    def rows(self, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
        return path


@dataclass
class Case:
    """Two files, each with mutated rows among good ones, and how they are read and trained on."""

    paths: dict[str, Path]
    lines: dict[str, list[bytes]]
    changed: dict[str, set[int]]
    skip_bad: bool
    use_labels: bool
    chat: bool | None
    family: int

    @classmethod
    def drawn(cls, rng: random.Random, folder: Path) -> Case:
        paths, lines, changed = {}, {}, {}
        skip_bad = rng.random() < 0.6
        for kind, good in GOOD.items():
            # If rows stop at the first bad one, few rows are read.
            count = rng.randint(4, 12) if skip_bad else rng.choice((1, 1, 2, 3))
            own = [written(mutated(rng.choice(SEEDS[kind]), rng), rng) for _ in range(count)]
            rows = [(json.dumps(row).encode(), False) for row in good] + [(x, True) for x in own]
            rng.shuffle(rows)
            paths[kind], lines[kind] = folder / f"{kind}.jsonl", [line for line, _ in rows]
            changed[kind] = {number for number, (_, new) in enumerate(rows, 1) if new}
            paths[kind].write_bytes(b"".join(line + b"\n" for line in lines[kind]))
        return cls(
            *(paths, lines, changed),
            skip_bad=skip_bad,
            use_labels=rng.random() < 0.2,
            chat=rng.choice((None, False, True)),
            family=int(rng.random() < 0.4),
        )

    @property
    def inputs(self) -> int:
        """Number of rows that are mutated."""
        return sum(map(len, self.changed.values()))


def run(cases: int, seed: int = 0, *, progress: bool = False) -> tuple[int, list[str]]:
    """Try a number of pairs of files by the whole path.

    Returns
    -------
    int
        Number of mutated rows that were tried.
    list of str
        One text for each failure, with all that is needed to repeat it.
    """
    found = runs(cases, seed, progress=progress)
    return found.counts["inputs"], found.failures


def runs(cases: int, seed: int = 0, *, progress: bool = False) -> Outcome:
    """As :func:`run`, with counts of all outcomes."""
    outcome = Outcome()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", RowWarning)
        bench = Bench(Path(folder))
        for number in tqdm(range(cases), disable=not progress, desc="cases", mininterval=5.0):
            case = Case.drawn(random.Random(f"{seed} {number}"), bench.folder)
            outcome.counts["inputs"] += case.inputs
            try:
                outcome.counts.update(attempted(case, bench))
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                about = f"case {number} of seed {seed}: {type(error).__name__}: {error}"
                where = f"{Path(place.filename).name}:{place.lineno}"
                outcome.failures.append(f"{about} at {where}; {case}")
    return outcome


def attempted(case: Case, bench: Bench) -> Counter[str]:
    """Outcome of one case.

    Raises
    ------
    AssertionError
        If an error is not clear, a row is not accounted for, or the saved model differs.
    """
    options: dict[str, Any] = {"skip_bad": case.skip_bad, "use_labels": case.use_labels}
    tokenizer = bench.tokenizers[case.family]
    try:
        rows = {kind: READ[kind](path, **options) for kind, path in case.paths.items()}
        trainer = JointTrainer(
            deepcopy(bench.models[case.family]),
            tokenizer,
            **rows,
            sft_test=read_sft(bench.held_out["sft"]),
            preference_test=read_preferences(bench.held_out["preference"]),
            schedule=Mix(lam=0.5),
            config=TrainConfig(
                steps=2,
                batch_size=14,
                rows_per_forward=14,
                learning_rate=1e-2,
                max_length=MAX_LENGTH,
                chat=case.chat,
                evaluate_every=2,
            ),
            output=bench.folder / "run",
        )
    except InputError as error:
        _check_error(error, case)
        return Counter({"files refused with one error": 1})
    found = Counter({"runs": 1})
    for kind, given in rows.items():
        found += _account(kind, case, given, trainer, tokenizer)
    done = trainer.train(resume=False, progress=False)
    assert done.summary["updates"] == {"sft": 2, "preference": 2}
    assert done.diverged_at is None
    losses = done.table[["sft_loss", "preference_loss"]].to_numpy()
    assert np.isfinite(losses).all(), losses
    assert (losses[0] != losses[-1]).all(), losses
    _check_reload(trainer, losses[-1], rows, case)
    return found


def _check_error(error: InputError, case: Case) -> None:
    """Check that one error names a mutated row, or that none is raised if bad rows are skipped."""
    assert error.remedy, error
    assert not case.skip_bad, f"an error although bad rows are left out: {error}"
    places = {str(case.paths[kind]): rows for kind, rows in case.changed.items()}
    assert error.row in places.get(str(error.file), ()), f"it names no mutated row: {error}"


def _account(kind: str, case: Case, given: Any, trainer: Any, tokenizer: Any) -> Counter[str]:
    """Check that every line is used or reported, and that used lines have the right tokens."""
    tokens = getattr(trainer.data, kind)
    meant = in_chat(given, tokenizer) if case.chat else given
    if case.family == 0:
        for place, item in zip(tokens.rows, tokens.items, strict=True):
            check_tokens(kind, meant[place], item, tokenizer)
    used = {given[place].origin[1] for place in tokens.rows}
    assert len(used) == len(tokens), "a line is used twice"
    refused = [*given.dropped, *tokens.dropped]
    assert all(error.file == str(case.paths[kind]) and error.remedy for error in refused)
    told = {error.row for error in refused}
    assert not told & used, "a row is used and dropped"
    about = trainer.data.summary()[kind]
    counted = about["too_long"] + about["identical"] + about.get("prompts_tested_on", 0)
    counted += sum(n for note, n in given.notes.items() if note.startswith(LEFT_OUT))
    rest = len(case.lines[kind]) - len(used) - len(told) - counted
    # A pair of two labelled rows has the position of the first.
    partners = sum(b'"label"' in case.lines[kind][number - 1] for number in used)
    most = partners if kind == "preference" and case.use_labels else 0
    assert 0 <= rest <= most, f"{kind}: {rest} rows are neither used nor told"
    good = set(range(1, len(case.lines[kind]) + 1)) - case.changed[kind]
    assert good <= used, "a good row is not used"
    mutated_used = len(used & case.changed[kind])
    return Counter({"mutated rows used": mutated_used + rest, "mutated rows told": len(told)})


def _check_reload(trainer: Any, expected: Any, rows: dict[str, Any], case: Case) -> None:
    """Check that the saved model has the held-out losses and the tokens of the trained one."""
    model, tokenizer = load(ModelConfig(path=str(trainer.output)))
    scorer = replace(trainer.scorer, policy=Policy(model))
    found = scorer.mean_sft(trainer.data.sft_test)
    found |= scorer.mean_pairs(trainer.data.preference_test, trainer.references.test)
    again = [found["sft_loss"], found["preference_loss"]]
    assert np.allclose(again, expected, rtol=0, atol=1e-6), f"{again} for {expected}"
    for kind, given in rows.items():
        meant = in_chat(given, tokenizer) if case.chat else given
        tokens = TOKENISE[kind](meant, tokenizer, MAX_LENGTH, skip_bad=case.skip_bad)
        assert tokens.fingerprint == getattr(trainer.data, kind).fingerprint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the shell; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=20_000, help="rows as far as tokens")
    parser.add_argument("--cases", type=int, default=500, help="pairs of files by the whole path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="store_true", help=f"write {STORED.name}")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    tokens = {"rows": given.tokens, **fuzz(given.tokens, given.seed)}
    found = runs(given.cases, given.seed, progress=True)
    command = f"python tests/rows_fuzz.py --tokens {given.tokens} --cases {given.cases}"
    about = {"command": f"{command} --seed {given.seed}", "as far as tokens": tokens}
    summary = found.summary(**about, cases=given.cases)
    print(json.dumps(summary, indent=2), f"{time.perf_counter() - began:.0f} s", sep="\n")
    if given.store:
        STORED.write_text(json.dumps(summary, indent=2) + "\n", "utf-8")
    return int(bool(found.failures))


if __name__ == "__main__":
    sys.exit(main())
