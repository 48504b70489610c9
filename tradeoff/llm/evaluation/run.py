"""A whole evaluation: the choice of its parts, and one function for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tradeoff.data.choices import ChoiceRow
from tradeoff.data.rows import PreferenceRow, SftRow, as_text
from tradeoff.errors import InputError
from tradeoff.files import check_writable
from tradeoff.llm._data import Tokenised
from tradeoff.llm._encoding import Row, admitted, prompt_ids, require_template
from tradeoff.llm._reference_values import Cached
from tradeoff.llm._turns import in_chat
from tradeoff.llm.config import ModelConfig, TrainConfig
from tradeoff.llm.evaluation import generation, held_out, matches, questions, refusals, win_rate
from tradeoff.llm.evaluation.answers import Extract, extracted
from tradeoff.llm.evaluation.generation import GeneratedResponses, Sampling
from tradeoff.llm.evaluation.harness import harness, require_harness
from tradeoff.llm.evaluation.judges import Judge, MarginJudge
from tradeoff.llm.evaluation.multiple_choice import multiple_choice
from tradeoff.llm.evaluation.policy import LoadedPolicy, Outline, compared, load, outline
from tradeoff.llm.evaluation.questions import Style
from tradeoff.llm.evaluation.report import Evaluation, Section
from tradeoff.llm.meter import Meter
from tradeoff.llm.setup import memory_errors

PARTS = ("sft", "preference", "exact_match", "win_rate", "refusals", "harness")
"""Names of the parts other than sets of multiple-choice questions."""
LESS_MEMORY = "Lower rows_per_forward, max_length or max_new_tokens, or use precision bf16."


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The parts to evaluate; parts without rows are left out.

    Attributes
    ----------
    sft, preference
        Held-out rows, for losses.
    exact_match
        Also generate responses to the prompts of both and compare them. Preference rows are used
        only if their style can be checked, as in the generated language.
    extract
        The part of demonstration and response that is matched, see
        `tradeoff.llm.evaluation.answers.Extract`.
    choices
        Sets of multiple-choice questions by name; the names differ from `PARTS`.
    style, shots, examples
        Form of the questions, see `tradeoff.llm.evaluation.questions.pose`. By default there are no
        `shots`, and `tasks` use their own number.
    win_rate
        Preference rows; the model's responses are compared with the chosen ones.
    judge
        Makes the judge of the win rate; called when it is needed.
    refusals
        Rows of XSTest.
    template
        Template of these questions, see `tradeoff.llm.evaluation.refusals.prompts`.
    tasks
        Names of tasks of lm-evaluation-harness.
    limit
        Largest number of questions of each task.
    sampling
        How responses are drawn.
    """

    sft: Sequence[SftRow] = ()
    preference: Sequence[PreferenceRow] = ()
    exact_match: bool = False
    extract: Extract = Extract.whole
    choices: Mapping[str, Sequence[ChoiceRow]] = field(default_factory=dict)
    style: Style | None = None
    shots: int | None = None
    examples: Sequence[ChoiceRow] | None = None
    win_rate: Sequence[PreferenceRow] = ()
    judge: Callable[[], Judge | MarginJudge] | None = None
    refusals: Sequence[ChoiceRow] = ()
    template: str | None = None
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    sampling: Sampling = field(default_factory=Sampling)


def evaluate(
    model: str | ModelConfig | LoadedPolicy,
    wanted: Wanted,
    *,
    reference: str | LoadedPolicy | None = None,
    config: TrainConfig | None = None,
    out: Path | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluate a model.

    All inputs are checked before the first part runs.

    Parameters
    ----------
    model
        A folder, a training run's output folder, a hub name, settings of a model, or a result of
        `load`.
    wanted
        The parts.
    reference
        The reference of preference losses. A name is loaded before the model, and then removed from
        memory.
    config
        Layout, precision, preference loss, lengths, and whether plain rows and questions go through
        the chat template; by default those of training.
    out
        Folder where `Evaluation.write` writes the finished parts at the end of each part.
    progress
        Show bars.

    Raises
    ------
    InputError
        If no part is wanted, an input of a part is missing, or there is not enough memory.

    Examples
    --------
    >>> from tradeoff import tiny
    >>> from tradeoff.llm.evaluation import LoadedPolicy, Wanted, evaluate
    >>> sft, pairs = tiny.rows(8)
    >>> policy = LoadedPolicy.of(*tiny.random_model())
    >>> found = evaluate(policy, Wanted(sft=sft, preference=pairs), reference=policy)
    >>> table = found.table().set_index("name")
    >>> f"{table.value['preference_loss']:.4f}"  # log 2, as the policy is its own reference
    '0.6931'
    """
    _check(wanted, reference)
    config = config or TrainConfig()
    subject = outline(model, config)
    wanted = _laid_out(wanted, subject.tokenizer, bool(config.chat))
    _check_parts(wanted, subject, config.chat)
    if out is not None:
        check_writable(out, field="out")
        Evaluation.check_folder(out, subject.name, _names(wanted))
    with memory_errors(config, LESS_MEMORY):
        known = _reference_log_probs(wanted, subject, reference, config, progress)
        policy = model if isinstance(model, LoadedPolicy) else load(model, config)
        name = None if known is None else known.name
        found = Evaluation(policy.name, name, (), _settings(wanted, config))
        for name, rows, make in _parts(policy, wanted, known, progress):
            found = replace(found, parts=(*found.parts, _measured(policy, name, rows, make)))
            if out is not None:
                found.write(out)
    return found


def _settings(wanted: Wanted, config: TrainConfig) -> dict[str, Any]:
    """What decides the scores beside model and rows."""
    about = ("loss", "beta", "label_smoothing", "max_length", "precision", "chat", "turns")
    asked = ("extract", "style", "shots", "template", "limit")
    return {
        **{name: getattr(config, name) for name in about},
        **{name: getattr(wanted, name) for name in asked},
        **asdict(wanted.sampling),
    }


@dataclass(frozen=True)
class _Known:
    """Log-probabilities of the pairs under a reference that is no longer in memory."""

    name: str
    items: Tokenised
    table: Cached
    seconds: float


_Make = Callable[[], Section]


def _parts(
    policy: LoadedPolicy, wanted: Wanted, known: _Known | None, progress: bool
) -> list[tuple[str, Any, _Make]]:
    """Name, rows and function of each part, in the order in which they run."""
    parts: list[tuple[str, Any, _Make]] = []
    if len(wanted.sft):
        parts.append(("sft", wanted.sft, lambda: _sft(policy, wanted, progress)))
    if known is not None:
        parts.append(
            ("preference", wanted.preference, lambda: _preference(policy, known, progress))
        )
    if wanted.exact_match:
        parts.append(("exact_match", (), lambda: _exact_match(policy, wanted, progress)))
    for name, rows in wanted.choices.items():
        parts.append((name, rows, partial(_choices, policy, wanted, rows, progress)))
    if len(wanted.win_rate):
        parts.append(("win_rate", wanted.win_rate, lambda: _win_rate(policy, wanted, progress)))
    if len(wanted.refusals):
        parts.append(("refusals", wanted.refusals, lambda: _refusals(policy, wanted, progress)))
    if wanted.tasks:
        parts.append(("harness", (), lambda: _harness(policy, wanted)))
    return parts


def _names(wanted: Wanted) -> list[str]:
    """Names of the parts that are wanted."""
    given = {name: getattr(wanted, name) for name in PARTS if name != "harness"}
    given |= {"harness": wanted.tasks, **wanted.choices}
    return [name for name, rows in given.items() if rows]


def _check(wanted: Wanted, reference: Any) -> None:
    rows = (wanted.sft, wanted.preference, wanted.choices, wanted.win_rate, wanted.refusals)
    if not any(len(some) for some in rows) and not wanted.tasks:
        remedy = "Give sft, preference, choices, win-rate or refusals rows, or tasks."
        raise InputError("there is nothing to evaluate on", remedy=remedy)
    if len(wanted.preference) and reference is None:
        remedy = "Give the model that preference training started from."
        raise InputError("preference losses need a reference", field="reference", remedy=remedy)
    if len(wanted.win_rate) and wanted.judge is None:
        remedy = "Give a reward model, or a checkpoint with its reference."
        raise InputError("a win rate needs a judge", field="judge", remedy=remedy)
    if wanted.exact_match and not len(wanted.sft):
        remedy = "Give sft rows, whose completions are what is matched."
        raise InputError("there is nothing to match", field="exact_match", remedy=remedy)
    if clash := [name for name in wanted.choices if name in PARTS]:
        remedy = "Give the questions, or their file, another name."
        raise InputError(
            "another part has this name", field="choices", value=clash[0], remedy=remedy
        )


def _check_parts(wanted: Wanted, subject: Outline, chat: bool | None) -> None:
    """Check the input of all parts before any part runs, without weights."""
    scored: list[Row] = [*wanted.sft, *wanted.preference]
    if any(not isinstance(row.prompt, str) for row in scored):
        require_template(subject.tokenizer)
    for rows in wanted.choices.values():
        questions.pose(rows, style=wanted.style, shots=wanted.shots or 0, examples=wanted.examples)
    asked = refusals.prompts(wanted.refusals, wanted.template, _chats(subject, chat))
    if wanted.exact_match:
        matches.demonstrated(wanted.sft, wanted.extract)
    answered: list[Sequence[Row]] = [wanted.sft] if wanted.exact_match else []
    for prompts in (*answered, wanted.win_rate, asked):
        if len(prompts):
            generation.room_for_prompt(subject, wanted.sampling)
            prompt_ids(prompts, subject.tokenizer)
    if wanted.tasks:
        require_harness(wanted.tasks)


def _reference_log_probs(
    wanted: Wanted,
    subject: Outline,
    reference: str | LoadedPolicy | None,
    config: TrainConfig,
    progress: bool,
) -> _Known | None:
    """Log-probabilities of the pairs under the reference, tokenised as for the policy."""
    if not len(wanted.preference) or reference is None:
        return None
    try:
        other = outline(reference, config)
    except InputError as error:
        raise (error.at(field="reference") if error.field == "path" else error) from error
    items = held_out.pairs(compared(subject, other), wanted.preference)
    loaded = load(reference, config) if isinstance(reference, str) else reference
    meter = Meter(loaded.device)
    meter.start()
    table = held_out.log_probs(loaded, items, progress)
    meter.stop()
    return _Known(loaded.name, items, table, meter.seconds)


def _measured(policy: LoadedPolicy, name: str, rows: Any, make: _Make) -> Section:
    meter = Meter(policy.device)
    meter.start()
    found = make()
    meter.stop()
    return replace(
        found,
        name=name,
        seconds=meter.seconds,
        peak_memory_bytes=meter.peak_memory(),
        dropped=(*found.dropped, *_dropped(rows)),
    )


def _dropped(rows: Any) -> tuple[str, ...]:
    """Errors of the rows that could not be read."""
    return tuple(str(error) for error in getattr(rows, "dropped", ()))


def _sft(policy: LoadedPolicy, wanted: Wanted, progress: bool) -> Section:
    items = held_out.examples(policy, wanted.sft)
    score = held_out.sft_loss(policy, items, progress)
    return Section("", (score,), items.summary(), remarks=_remarks(items, policy))


def _preference(policy: LoadedPolicy, known: _Known, progress: bool) -> Section:
    scores = held_out.preference(policy, known.items, known.table, progress)
    notes = known.items.summary() | {"reference_seconds": known.seconds}
    return Section("", scores, notes, remarks=_remarks(known.items, policy))


def _remarks(items: Tokenised[Any], policy: LoadedPolicy) -> tuple[str, ...]:
    """Disagreements of training sequences and generation prompts."""
    plain_is_meant = policy.scorer.config.chat is not None
    return tuple(
        str(found) for found in items.findings if found.kind != "plain" or not plain_is_meant
    )


def _exact_match(policy: LoadedPolicy, wanted: Wanted, progress: bool) -> Section:
    found = [generation.generate(policy, wanted.sft, wanted.sampling, progress=progress)]
    scores = matches.exact_match(wanted.sft, found[0].texts, wanted.extract)
    unanswered = sum(extracted(text, wanted.extract) is None for text in found[0].texts)
    lines = _lines(wanted.sft, found[0])
    if matches.checkable(wanted.preference):
        styled = generation.generate(policy, wanted.preference, wanted.sampling, progress=progress)
        scores += matches.preference_match(wanted.preference, styled.texts)
        lines += _lines(wanted.preference, styled)
        found.append(styled)
    notes = _notes(*found) | {"without_answer": unanswered}
    return Section("", scores, notes, lines=lines)


def _choices(
    policy: LoadedPolicy, wanted: Wanted, rows: Sequence[ChoiceRow], progress: bool
) -> Section:
    found = multiple_choice(
        policy,
        rows,
        style=wanted.style,
        shots=wanted.shots or 0,
        examples=wanted.examples,
        progress=progress,
    )
    notes = {"shots": wanted.shots or 0, "shortened": found.shortened}
    return Section("", found.scores(), notes, dropped=_dropped(wanted.examples))


def _win_rate(policy: LoadedPolicy, wanted: Wanted, progress: bool) -> Section:
    assert wanted.judge is not None
    rows = wanted.win_rate
    found = generation.generate(policy, rows, wanted.sampling, progress=progress)
    contests = win_rate.against_chosen(rows, found.texts)
    verdicts = win_rate.judged(contests, wanted.judge(), progress=progress)
    lines = [
        line | {"chosen": contest.second, "wins": float(wins)}
        for line, contest, wins in zip(_lines(rows, found), contests, verdicts.wins, strict=True)
    ]
    notes = _notes(found) | {"undecided": verdicts.undecided, "ties": verdicts.ties}
    return Section("", (verdicts.score(),), notes, lines=lines)


def _refusals(policy: LoadedPolicy, wanted: Wanted, progress: bool) -> Section:
    chats = _chats(policy, policy.scorer.config.chat)
    rows = refusals.prompts(wanted.refusals, wanted.template, chats)
    found = generation.generate(policy, rows, wanted.sampling, progress=progress)
    scores = refusals.refusal_rates(wanted.refusals, found.texts)
    return Section("", scores, _notes(found), lines=_lines(rows, found))


def _harness(policy: LoadedPolicy, wanted: Wanted) -> Section:
    scores = harness(
        policy.model,
        policy.tokenizer,
        wanted.tasks,
        shots=wanted.shots,
        limit=wanted.limit,
        batch_size=policy.scorer.config.rows_per_forward,
        max_length=policy.max_length,
    )
    return Section("", scores)


def _chats(policy: LoadedPolicy | Outline, chat: bool | None) -> bool:
    """Whether questions are posed as turns of the user."""
    return bool(policy.tokenizer.chat_template) if chat is None else chat


def _laid_out(wanted: Wanted, tokenizer: Any, chat: bool) -> Wanted:
    """Leave out rows that cannot be encoded; plain rows become conversations if `chat`."""
    names = ("sft", "preference", "win_rate")
    rows: dict[str, Any] = {name: getattr(wanted, name) for name in names}
    if chat:
        rows = {name: in_chat(found, tokenizer) for name, found in rows.items()}
    admissible: dict[str, Any] = {name: admitted(found, tokenizer) for name, found in rows.items()}
    return replace(wanted, **admissible)


def _lines(rows: Sequence[Any], found: GeneratedResponses) -> list[dict[str, Any]]:
    both = zip(rows, found.texts, strict=True)
    return [{"prompt": as_text(row.prompt), "response": text} for row, text in both]


def _notes(*found: GeneratedResponses) -> dict[str, int]:
    shortened = sum(some.shortened for some in found)
    return {"shortened": shortened, "unended": sum(some.ended.count(False) for some in found)}
