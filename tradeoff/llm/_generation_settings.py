"""Settings of generation that come with a model: end tokens, penalties, temperatures.

transformers refuses to save some settings that it loads, such as a temperature without sampling.
They are written as they are, so that a trained model can be saved.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tradeoff.errors import InputError

FILE = "generation_config.json"


def end_ids(settings: Any) -> list[int]:
    """Ids of the end tokens that a model names, of which there may be none.

    Parameters
    ----------
    settings
        The content of `FILE`, or a `transformers.GenerationConfig`, or None.

    Raises
    ------
    InputError
        If an end token is not an id.
    """
    name = "eos_token_id"
    own: Any = settings.get(name) if isinstance(settings, dict) else getattr(settings, name, None)
    many = isinstance(own, list | tuple)
    found: list[Any] = list(own) if many else [] if own is None else [own]
    if wrong := [i for i in found if isinstance(i, bool) or not isinstance(i, int) or i < 0]:
        raise InputError(
            "an end token must be the number of a token",
            file=FILE,
            field="eos_token_id",
            value=wrong[0],
            remedy="Give one id, or a list of ids, as in [2, 32000]; or leave it out.",
        )
    return found


@contextmanager
def unused(base: Any) -> Iterator[None]:
    """Context manager: a model of transformers has the default settings in place of its own."""
    from transformers import GenerationConfig

    kept, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = kept


def write(settings: Any, folder: Path, ends: Sequence[int] | None = None) -> None:
    """Write `FILE`, in the form of transformers.

    Parameters
    ----------
    settings
        A `transformers.GenerationConfig`, which does not change.
    folder
        Folder of the model.
    ends
        End tokens in place of those of the settings.
    """
    found = json.loads(settings.to_json_string())
    found.pop("compile_config", None)
    if ends is not None:
        found["eos_token_id"] = list(ends) if len(ends) > 1 else ends[0]
    text = json.dumps(found, indent=2, sort_keys=True)
    (folder / FILE).write_text(f"{text}\n", "utf-8")
