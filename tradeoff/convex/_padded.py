"""The responses of each prompt in one array: short prompts are padded."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike


def padded(offsets: ArrayLike) -> tuple[Int[np.ndarray, "P n"], Bool[np.ndarray, "P n"]]:
    """Rows (P, n) of the responses of P prompts, and which of them are no padding.

    Padding repeats the first row of the prompt.

    Parameters
    ----------
    offsets
        (P + 1,) first row of each prompt, and the number of rows.

    Examples
    --------
    >>> rows, present = padded([0, 2, 3])
    >>> rows.tolist(), present.tolist()
    ([[0, 1], [2, 2]], [[True, True], [True, False]])
    """
    starts = np.asarray(offsets)
    sizes = np.diff(starts)
    column = np.arange(sizes.max())
    present = column < sizes[:, None]
    return starts[:-1, None] + np.where(present, column, 0), present
