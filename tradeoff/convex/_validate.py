"""Checks of a convex problem's data before anything is computed."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tradeoff._deferred import sparse as sp
from tradeoff.convex.problem import UNIT
from tradeoff.errors import InputError
from tradeoff.settings import Positive, Within, fit

LARGEST_FEATURE = 1e100
"""Largest entry of features; squares of larger ones, times a radius, may overflow."""
Smoothing = Annotated[float, Within(0, 0.5, "[)"), "It is the probability that a label is flipped."]
Radius = Annotated[float, Within(0, np.inf, "(]")]
MOST_BYTES = 2**34
"""Memory that the records of a simulation, or the features of a random problem, may take."""


def check_log_linear(problem: Any) -> None:
    """Check the attributes of a log-linear problem, and store its arrays in their widest types.

    Features become a float array, or a float CSR array; indices become int64. In narrower types
    differences and squares of features would wrap or overflow.

    Raises
    ------
    InputError
        For the first attribute that is wrong.
    """
    _store(problem, "features", as_features(problem.features))
    for name in ("offsets", "demonstrations", "chosen", "rejected"):
        _check_whole(name, getattr(problem, name))
        _store(problem, name, getattr(problem, name).astype(np.int64, copy=False))
    _check_offsets(problem.offsets, problem.features.shape[0])
    for name in ("demonstrations", "chosen", "rejected"):
        _check_rows(name, getattr(problem, name), problem.features.shape[0])
    _check_pairs(problem)
    fit(Positive, problem.radius, "radius")
    fit(Positive, problem.beta, "beta")
    fit(Smoothing, problem.label_smoothing, "label_smoothing")
    if problem.reference is not None and problem.reference_margins is not None:
        raise InputError(
            "both a reference policy and its margins are given",
            field="reference_margins",
            remedy="Give one of `reference` and `reference_margins`.",
        )
    check_vector("reference", problem.reference, problem.features.shape[1])
    check_vector("reference_margins", problem.reference_margins, len(problem.chosen))
    check_vector(
        "demonstration_weights", problem.demonstration_weights, len(problem.demonstrations)
    )
    check_vector("pair_weights", problem.pair_weights, len(problem.chosen))
    for name in ("reference", "reference_margins", "demonstration_weights", "pair_weights"):
        if (value := getattr(problem, name)) is not None:
            _store(problem, name, np.asarray(value, dtype=float))
    check_weights("demonstration_weights", problem.demonstration_weights)
    check_weights("pair_weights", problem.pair_weights)


def _store(problem: Any, name: str, value: Any) -> None:
    """Set an attribute of a frozen dataclass while it is made."""
    object.__setattr__(problem, name, value)


def check_quadratic(problem: Any) -> None:
    """Check that Hessians are positive definite and shapes agree, and store arrays as floats.

    Raises
    ------
    InputError
        For the first attribute that is wrong.
    """
    d = (np.shape(problem.centres) or (0,))[-1]
    for name, shape in (("centres", (2, d)), ("hessians", (2, d, d)), ("covariances", (2, d, d))):
        value = getattr(problem, name)
        if value is None and name == "covariances":
            continue
        if not _numbers(value) or value.shape != shape or 0 in shape:
            raise InputError(
                f"not an array of finite numbers with shape {shape}",
                field=name,
                value=np.shape(value) if isinstance(value, np.ndarray) else value,
                remedy="Stack the array of the SFT objective and that of the preference objective.",
            )
        _store(problem, name, np.asarray(value, dtype=float))
    _make_symmetric(problem, "hessians", "positive definite", "Each needs a unique minimiser.")
    if problem.covariances is not None:
        _make_symmetric(problem, "covariances", "positive semidefinite", "Use X'X/n of n samples.")
    fit(Radius, problem.radius, "radius")


def _make_symmetric(problem: Any, name: str, kind: str, remedy: str) -> None:
    """Store the symmetric parts of two matrices that are symmetric up to rounding.

    Eigenvalues are known up to their rounding error only, so a Hessian must exceed it.
    """
    given = getattr(problem, name)
    symmetric = (given + given.transpose(0, 2, 1)) / 2
    values = np.linalg.eigvalsh(symmetric)
    noise = 16 * given.shape[1] * UNIT * np.abs(values).max(axis=1)
    least = values[:, 0] - noise if kind == "positive definite" else values[:, 0] + noise
    apart = np.abs(given - symmetric).max(axis=(1, 2)) > 1e-6 * np.abs(given).max(axis=(1, 2))
    if np.any(apart) or np.any(least <= 0 if kind == "positive definite" else least < 0):
        raise InputError(
            f"a matrix is not symmetric, or not {kind} beyond rounding",
            field=name,
            value=values[:, 0],
            remedy=f"{remedy} The value is the least eigenvalue of each.",
        )
    _store(problem, name, symmetric)


def check_problem(problem: Any) -> None:
    """Raise :class:`InputError` unless the problem has the members that a solver needs."""
    if not hasattr(problem, "local_model") or not hasattr(problem, "losses"):
        remedy = "Give a LogLinear or a Quadratic, or an object with their methods."
        raise InputError("not a problem", field="problem", value=problem, remedy=remedy)


def check_memory(field: str, value: Any, numbers: int, remedy: str) -> None:
    """Raise :class:`InputError` if arrays of ``numbers`` floats would not fit into memory."""
    if 8 * numbers > MOST_BYTES:
        problem = f"the arrays would take {8 * numbers / 2**30:,.0f} GiB"
        raise InputError(problem, field=field, value=value, remedy=remedy)


def is_operator(features: Any) -> bool:
    """Whether features are a LinearOperator of scipy."""
    if isinstance(features, np.ndarray) or sp.issparse(features):
        return False
    from scipy.sparse.linalg import LinearOperator

    return isinstance(features, LinearOperator)


def as_features(features: Any) -> Any:
    """Two-dimensional finite features as a float array or CSR array; an operator as it is."""
    if is_operator(features):
        return features
    if not (isinstance(features, np.ndarray) or sp.issparse(features)):
        remedy = "Give a numpy array, a sparse array of scipy, or a LinearOperator."
        raise InputError("not an array", field="features", value=features, remedy=remedy)
    if features.dtype.kind not in "fiu":
        remedy = "Give real numbers."
        raise InputError("not numbers", field="features", value=features.dtype, remedy=remedy)
    if np.ndim(features) != 2 or 0 in features.shape:
        raise InputError(
            "features must be a non-empty (rows, d) array",
            field="features",
            value=np.shape(features),
            remedy="Give one row per response; an empty prompt set has no policy.",
        )
    _refuse_masked("features", features)
    sparse = sp.issparse(features)
    with np.errstate(over="ignore"):  # of a wider type; refused below
        features = (sp.csr_array if sparse else np.asarray)(features, dtype=float)
    entries = features.data if sparse else features
    _refuse(features, entries, ~np.isfinite(entries), "not a finite number",
            "Replace or drop this response.")  # fmt: skip
    _refuse(features, entries, np.abs(entries) > LARGEST_FEATURE,
            f"too large: the square of a number above {LARGEST_FEATURE:g} may overflow",
            "Scale the features down.")  # fmt: skip
    return features


def _refuse_masked(name: str, value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        remedy = "Fill the masked entries or leave them out."
        raise InputError("masked entries", field=name, value=value, remedy=remedy)


def _refuse(
    features: Any, entries: NDArray[Any], bad: NDArray[np.bool_], problem: str, remedy: str
) -> None:
    """Raise :class:`InputError` with the first bad entry of the features and its row."""
    if not np.any(bad):
        return
    rows = features.tocoo().coords[0] if sp.issparse(features) else np.arange(len(features))
    row = int(rows[bad][0] if sp.issparse(features) else np.argmax(bad.any(axis=1)))
    raise InputError(
        problem, row=row + 1, field="features", value=float(entries[bad][0]), remedy=remedy
    )


def check_vector(name: str, value: ArrayLike | None, size: int) -> None:
    """Check that a value is ``None`` or ``size`` finite numbers."""
    if value is None:
        return
    array = as_array(name, value)
    if not _numbers(array) or array.shape != (size,):
        raise InputError(
            f"must be {size} finite numbers",
            field=name,
            value=value,
            remedy=f"Give an array of shape ({size},).",
        )


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Convert a nested sequence, whose rows are of one length, to an array."""
    _refuse_masked(name, value)
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        remedy = "Give numbers, in rows of one length."
        raise InputError("not an array", field=name, value=value, remedy=remedy) from error


def _numbers(value: Any) -> bool:
    """Whether this is an array of real finite numbers."""
    return (
        isinstance(value, np.ndarray)
        and value.dtype.kind in "fiu"
        and bool(np.all(np.isfinite(value)))
    )


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "iu":
        remedy = "Give a one-dimensional numpy array of whole numbers."
        raise InputError("not whole numbers", field=name, value=value, remedy=remedy)


def as_prompts(prompts: Any) -> list[NDArray[np.float64]]:
    """Convert the feature arrays of all prompts, which must have one width, to floats."""
    if isinstance(prompts, str) or not hasattr(prompts, "__iter__"):
        remedy = "Give one (responses, d) array for each prompt."
        raise InputError("not a list of arrays", field="prompts", value=prompts, remedy=remedy)
    found = [as_array("prompts", prompt) for prompt in prompts]
    for row, array in enumerate(found, start=1):
        if array.ndim != 2 or array.dtype.kind not in "fiu" or array.shape[1] != found[0].shape[1]:
            raise InputError(
                "not an array of numbers with a row for each response",
                row=row,
                field="prompts",
                value=array,
                remedy="Give one (responses, d) array for each prompt, with one d for all.",
            )
    return [array.astype(float) for array in found]


def as_indices(name: str, entries: Any, width: int) -> NDArray[np.int64]:
    """Convert entries to an (n, width) array of indices of prompts and responses."""
    array = as_array(name, entries)
    if array.size and (array.dtype.kind not in "iu" or array.shape[1:] != (width,)):
        remedy = f"Give {width} whole numbers for each."
        raise InputError("not rows of whole numbers", field=name, value=entries, remedy=remedy)
    return array.astype(np.int64).reshape(-1, width)


def check_responses(name: str, entries: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
    """Check that the indices of prompts and responses of ``from_prompts`` are in range."""
    for row, (prompt, *responses) in enumerate(entries.tolist()):
        if not 0 <= prompt < len(offsets) - 1:
            raise InputError(
                "no such prompt",
                row=row + 1,
                field=name,
                value=prompt,
                remedy=f"Prompts are numbered 0 to {len(offsets) - 2}.",
            )
        size = int(offsets[prompt + 1] - offsets[prompt])
        for response in responses:
            if not 0 <= response < size:
                raise InputError(
                    f"no such response of prompt {prompt}",
                    row=row + 1,
                    field=name,
                    value=response,
                    remedy=f"Its responses are numbered 0 to {size - 1}.",
                )


def _check_offsets(offsets: NDArray[np.int64], rows: int) -> None:
    sizes = np.diff(offsets)
    if len(sizes) == 0 or offsets[0] != 0 or offsets[-1] != rows:
        raise InputError(
            f"offsets must run from 0 to the number of feature rows, {rows}",
            field="offsets",
            value=offsets,
            remedy="Give one offset per prompt and a last one equal to the number of rows.",
        )
    if np.any(sizes < 2):
        raise InputError(
            "a prompt has fewer than two responses",
            row=int(np.argmax(sizes < 2)) + 1,
            field="offsets",
            value=int(sizes.min()),
            remedy="Drop the prompt or give it an alternative response.",
        )


def _check_rows(name: str, rows: NDArray[np.int64], total: int) -> None:
    if len(rows) == 0:
        raise InputError(
            "no data points", field=name, remedy="Each objective needs at least one data point."
        )
    out = (rows < 0) | (rows >= total)
    if np.any(out):
        raise InputError(
            "response out of range",
            row=int(np.argmax(out)) + 1,
            field=name,
            value=int(rows[np.argmax(out)]),
            remedy=f"Rows are numbered 0 to {total - 1}.",
        )


def _check_pairs(problem: Any) -> None:
    if len(problem.chosen) != len(problem.rejected):
        raise InputError(
            "chosen and rejected differ in length",
            field="rejected",
            value=len(problem.rejected),
            remedy=f"Give one rejected response for each of the {len(problem.chosen)} chosen.",
        )
    same = problem.chosen == problem.rejected
    if np.any(same):
        raise InputError(
            "chosen and rejected are the same response",
            row=int(np.argmax(same)) + 1,
            field="chosen",
            value=int(problem.chosen[np.argmax(same)]),
            remedy="A preference needs two different responses; drop the pair.",
        )
    prompt = problem.prompt_of_row
    apart = prompt[problem.chosen] != prompt[problem.rejected]
    if np.any(apart):
        raise InputError(
            "chosen and rejected answer different prompts",
            row=int(np.argmax(apart)) + 1,
            field="rejected",
            value=int(problem.rejected[np.argmax(apart)]),
            remedy="Compare responses of one prompt; their normalisers must cancel.",
        )


def check_weights(name: str, weights: NDArray[np.float64] | None) -> None:
    """Check that weights are ``None``, or not negative with a positive finite sum."""
    if weights is None:
        return
    with np.errstate(over="ignore"):
        total = np.sum(weights)
    if np.any(weights < 0) or not 0 < total < np.inf:
        raise InputError(
            "weights must be non-negative with a positive finite sum",
            field=name,
            value=weights,
            remedy="Drop data points of weight zero or below.",
        )
