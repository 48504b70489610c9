"""The command `tradeoff evaluate`: files and flags to parts of an evaluation, and its tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tradeoff._terminal import show_json, show_line, show_table, show_written
from tradeoff.cli.ends import keeps
from tradeoff.cli.options import (
    Attention,
    Chat,
    ChatTemplate,
    Columns,
    EosToken,
    Json,
    MinMargin,
    Seed,
    SkipBad,
    UseLabels,
    output,
)
from tradeoff.cli.rows import Objective, RowReader
from tradeoff.data.columns import TRAINED
from tradeoff.errors import InputError
from tradeoff.extras import require
from tradeoff.settings import build

_ENDING = re.compile(r"\.(jsonl|jsonl\.gz|parquet)$", re.IGNORECASE)
_TOLD = (
    "too_long",
    "identical",
    "cut_equal",
    "truncated",
    "shortened",
    "unended",
    "undecided",
    "ties",
    "without_answer",
)
"""Counts of an evaluation that change what its scores mean."""


class ChoiceStyle(StrEnum):
    """What a multiple-choice question asks for."""

    letters = "letters"
    text = "text"


class Extraction(StrEnum):
    """Which part of a text is its answer: all, after the last ####, the last box or number."""

    whole = "whole"
    marked = "marked"
    boxed = "boxed"
    number = "number"


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Model folder, output folder of a run, GGUF file, hub name, `smollm2` or `tiny`."
        ),
    ],
    reference: Annotated[
        str | None, typer.Option(help="What preference training started from; for --preference.")
    ] = None,
    sft: Annotated[str | None, typer.Option(help="Held-out SFT rows, or `synthetic`.")] = None,
    preference: Annotated[
        str | None, typer.Option(help="Held-out preference rows, or `synthetic`.")
    ] = None,
    exact_match: Annotated[
        bool, typer.Option("--exact-match", help="Also respond to the --sft prompts and compare.")
    ] = False,
    extract: Annotated[
        Extraction, typer.Option(help="What of both is compared by --exact-match.")
    ] = Extraction.whole,
    choices: Annotated[
        list[Path] | None, typer.Option(help="Multiple-choice rows; repeatable.")
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(help="Worked examples before a question; a --task has its own.", min=0),
    ] = None,
    shots_from: Annotated[
        Path | None, typer.Option(help="File of examples; else other rows of the subject.")
    ] = None,
    style: Annotated[
        ChoiceStyle | None, typer.Option(help="Ask for a letter or for the words of a choice.")
    ] = None,
    win_rate: Annotated[
        str | None, typer.Option(help="Preference rows whose chosen responses are to be beaten.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Reward model; or a policy, with --judge-reference.")
    ] = None,
    judge_reference: Annotated[
        str | None, typer.Option(help="Reference of a judge that is a policy.")
    ] = None,
    per_token: Annotated[
        bool, typer.Option("--per-token", help="Such a judge's reward per token.")
    ] = False,
    refusals: Annotated[Path | None, typer.Option(help="Rows of XSTest.")] = None,
    template: Annotated[
        str | None, typer.Option(help="How its questions are put: text with {question}.")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="lm-evaluation-harness; repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Use only the first rows of each file.", min=1)
    ] = None,
    skip_bad: SkipBad = False,
    columns: Columns = None,
    use_labels: UseLabels = False,
    min_margin: MinMargin = None,
    chat: Chat = None,
    chat_template: ChatTemplate = None,
    eos_token: EosToken = None,
    attention: Attention = None,
    max_length: Annotated[int, typer.Option(help="Longest sequence in tokens.", min=2)] = 2048,
    max_new_tokens: Annotated[int, typer.Option(help="Longest response.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0 writes greedily.", min=0)] = 0.0,
    loss: Annotated[str, typer.Option(help="Preference loss.")] = "sigmoid",
    beta: Annotated[float, typer.Option(help="Its inverse temperature.")] = 0.1,
    bf16: Annotated[bool, typer.Option("--bf16", help="Half precision.")] = False,
    rows_per_forward: Annotated[int, typer.Option(help="Rows of one pass.", min=1)] = 8,
    groups: Annotated[
        bool, typer.Option("--groups", help="Show every subject and skill, too.")
    ] = False,
    seed: Seed = 0,
    out: Annotated[
        Path | None, output("Folder for scores and responses, written part by part.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a language model: losses, exact match, multiple choice, win rate, refusals.

    Intervals are at 95 %. With `--out`, all scores and every response are written. `tiny` is the
    small model of the package; it is made on first use, in about a minute.

    Examples:

    - `tradeoff evaluate tiny --reference tiny --sft synthetic --preference synthetic`

    - `tradeoff evaluate runs/alright --reference models/base --sft sft.jsonl --preference
      pairs.jsonl`

    - `tradeoff evaluate runs/alright --choices mmlu.jsonl.gz --shots 1 --groups`

    - `tradeoff evaluate runs/alright --win-rate pairs.jsonl --judge reward-model --out scores`

    - `tradeoff evaluate runs/alright --refusals xstest.jsonl.gz --json`
    """
    require("llm")
    _check_used(
        ("--extract", extract is not Extraction.whole, "--exact-match", exact_match),
        ("--shots", shots is not None, "--choices or --task", choices or tasks),
        ("--shots-from", shots_from is not None, "--choices and --shots", choices and shots),
        ("--style", style is not None, "--choices", choices),
        ("--judge", judge is not None, "--win-rate", win_rate),
        ("--judge-reference", judge_reference is not None, "--judge", judge),
        ("--template", template is not None, "--refusals", refusals),
    )
    from tradeoff.llm import TrainConfig, evaluation, gguf
    from tradeoff.llm.config import ModelConfig

    config = TrainConfig(
        max_length=max_length,
        loss=loss,
        beta=beta,
        precision="bf16" if bf16 else "fp32",
        rows_per_forward=rows_per_forward,
        chat=chat,
    )
    overrides = {"chat_template": chat_template, "eos_token": eos_token, "attention": attention}
    subject = build(ModelConfig, {"path": _model(model), **overrides})
    options: dict[str, Any] = {"skip_bad": skip_bad, "limit": limit}
    labels = {**options, "use_labels": use_labels}
    read = RowReader(columns, min_margin, labels, sets=(*TRAINED, "choices"))
    contests = _rows(read, win_rate, "preference")
    chats = any(not isinstance(row.prompt, str) for row in contests)
    wanted = evaluation.Wanted(
        sft=_rows(read, sft, "sft"),
        preference=_rows(read, preference, "preference"),
        exact_match=exact_match,
        extract=evaluation.Extract(extract.value),
        choices={
            name: read.questions(path, **options) for name, path in _named(choices or ()).items()
        },
        style=None if style is None else style.value,
        shots=shots,
        examples=None if shots_from is None else read.questions(shots_from, skip_bad=skip_bad),
        win_rate=contests,
        judge=None if judge is None else _judge(judge, judge_reference, per_token, config, chats),
        refusals=() if refusals is None else read.questions(refusals, **options),
        template=template,
        tasks=tuple(tasks or ()),
        limit=limit,
        sampling=evaluation.Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        ),
    )
    if out is not None:
        keeps(f"parts that were written to {out} are kept")
    found = evaluation.evaluate(
        subject,
        wanted,
        reference=None if reference is None else _model(reference),
        config=config,
        out=out,
        progress=not as_json,
    )
    remarks = [*read.remarks, *gguf.caution(model)]
    written = [] if out is None else found.files(out)
    if as_json:
        show_json({**found.to_dict(), "remarks": remarks, "written": written})
        return
    for line in remarks:
        show_line(line, style="yellow")
    show_table(evaluation.terminal_table(found, groups), f"{model}; losses in nats")
    show_table(found.costs(), "cost")
    for done in found.parts:
        told = [f"{k} {v}" for k, v in done.notes.items() if k in _TOLD and v]
        counts = [f"{done.name}: {', '.join(told)}"] * bool(told)
        for line in [*counts, *done.dropped, *(f"{done.name}: {text}" for text in done.remarks)]:
            show_line(line, style="yellow")
    show_written(written)


def _check_used(*options: tuple[str, bool, str, Any]) -> None:
    """Refuse an option that is given without what it needs: (option, given, needs, is there)."""
    for option, given, needs, there in options:
        if given and not there:
            raise InputError(
                f"it has no effect without {needs}",
                field=option,
                remedy=f"Give {needs} too, or leave it out.",
            )


def _model(name: str) -> str:
    from tradeoff import tiny

    return str(tiny.folder()) if name == "tiny" else name


def _rows(read: RowReader, source: str | None, objective: Objective) -> Any:
    """Held-out rows of a source or of the generated language; none without a source."""
    from tradeoff import tiny

    if source == "synthetic":
        return getattr(tiny.data(), f"{objective}_test")[: read.options["limit"]]
    found = read.held_out(source, objective)
    return () if found is None else found


def _judge(name: str, reference: str | None, per_token: bool, config: Any, chats: bool) -> Any:
    """What makes the judge, a reward model or the implicit reward of a policy, once checked."""
    from tradeoff.llm import evaluation
    from tradeoff.llm.evaluation.judges import check_reward_model
    from tradeoff.llm.evaluation.policy import compared, outline

    if reference is None:
        if per_token:
            remedy = "Give --judge-reference, or leave --per-token out."
            raise InputError("a reward model has one value for a response", remedy=remedy)
        if name == "tiny":
            remedy = "Give --judge-reference too, or the folder of a reward model."
            raise InputError("this is a policy", field="judge", value=name, remedy=remedy)
        check_reward_model(name, conversational=chats)
        return lambda: evaluation.reward_model(name, config)
    policy, base = _model(name), _model(reference)
    compared(outline(policy, config), outline(base, config))
    return lambda: evaluation.ImplicitReward(
        evaluation.load(policy, config), evaluation.load(base, config), per_token
    )


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by the names that their questions have in the results: without the known endings."""
    found: dict[str, Path] = {}
    for path in paths:
        name = _ENDING.sub("", path.name)
        if name in found:
            remedy = f"Rename it, or evaluate it in a run of its own; {found[name]} has this name."
            raise InputError(
                "two files have one name", field="choices", value=str(path), remedy=remedy
            )
        found[name] = path
    return found
