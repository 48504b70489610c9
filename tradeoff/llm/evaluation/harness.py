"""Tasks of lm-evaluation-harness, if it is installed: ``pip install lm-eval``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tradeoff.errors import InputError
from tradeoff.llm.evaluation.score import Score


def harness(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    shots: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
) -> tuple[Score, ...]:
    """Evaluate a causal model of transformers on tasks of the harness.

    Parameters
    ----------
    shots
        Number of worked examples, 0 for none; by default the task's own number.
    limit
        Number of questions of each task, from its beginning; by default all.
    batch_size
        Sequences of one pass.
    max_length
        Largest number of tokens of a sequence; by default the model's limit.

    Returns
    -------
    tuple of Score
        Every metric of every task, with an interval of 1.96 standard errors if it has a standard
        error. The group is the task.

    Raises
    ------
    InputError
        If the harness is not installed, or a task cannot be loaded.
    """
    require_harness(tasks)
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    subject = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length
    )
    try:
        found = lm_eval.simple_evaluate(
            model=subject, tasks=list(tasks), num_fewshot=shots, limit=limit
        )
    except (
        KeyError,
        ValueError,
        OSError,
        ImportError,
    ) as error:  # no task, network or package
        remedy = "See the names with `lm_eval ls tasks`; most tasks need the network."
        problem = f"the harness cannot evaluate: {error}"
        raise InputError(problem, field="tasks", value=list(tasks), remedy=remedy) from error
    return tuple(_scores(found["results"], found.get("n-samples", {})))


def require_harness(tasks: Sequence[str]) -> None:
    """Raise an `InputError` if the harness is not installed."""
    try:
        import lm_eval.models.huggingface  # noqa: F401
    except ImportError as error:
        raise InputError(
            "lm-evaluation-harness is not installed",
            field="tasks",
            value=list(tasks),
            remedy="Install it: pip install 'lm-eval[hf]'.",
        ) from error


def _scores(
    results: Mapping[str, Mapping[str, Any]], samples: Mapping[str, Mapping[str, int]]
) -> Iterable[Score]:
    for task, metrics in results.items():
        n = int(samples.get(task, {}).get("effective", 0))
        for key, value in metrics.items():
            # Keys are "metric,filter"; standard errors have keys beside their metric.
            name, comma, chosen = key.partition(",")
            if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{name}_stderr,{chosen}")
            half = 1.96 * error if isinstance(error, int | float) else float("nan")
            label = name if chosen == "none" else key
            yield Score(label, float(value), value - half, value + half, n, task)
