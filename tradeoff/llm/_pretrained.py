"""Safe reading of models that others made: files give sizes and weights, never code.

Only code of transformers runs, chosen by the caller. A folder could ask for other code: beside its
weights, in an attention kernel from a hub, in modules that adapters import, or in pickled files.
Such settings are rejected before a model is built, for every version of transformers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tradeoff.errors import InputError
from tradeoff.llm import _model_files, varlen
from tradeoff.llm._generation_settings import FILE, end_ids
from tradeoff.llm._model_files import INDEX
from tradeoff.records import read_json

Kind = Literal["CausalLM", "SequenceClassification"]
"""Kinds of models, by the end of the name of transformers' `AutoModelFor...`."""

ATTENTIONS = (
    *("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"),
    varlen.NAME,
)
"""Attention that comes with transformers or this package, or from an installed package."""

_ATTENTION_KEYS = {"attn_implementation", "_attn_implementation", "_attn_implementation_internal"}
_EXPERTS_KEYS = {key.replace("attn", "experts") for key in _ATTENTION_KEYS}
_CODE_KEYS = {
    *("allow_all_kernels", "custom_generate", "kernel_config", "trust_remote_code", "use_kernels"),
    *("megatron_config", "cache_file", "covariance_file"),
    *("prompt_tuning_init_state_dict_path", "tokenizer_kwargs"),
}
_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def read(
    place: str,
    kind: Kind,
    *,
    dtype: Any,
    attention: str | None = None,
    quantise: str | None = None,
) -> tuple[Any, set[str]]:
    """Read a model from the safetensors of a folder or hub name.

    Parameters
    ----------
    place
        Folder or hub name, but not a folder of adapters.
    kind
        Kind of the model.
    dtype
        Type of the weights.
    attention
        One of `ATTENTIONS`; None: see :func:`attention_of`.
    quantise
        "nf4": matrices of 4 bits, by bitsandbytes.

    Returns
    -------
    model
        The model with the requested attention.
    missing
        Names of weights that are not in the files; these are random.

    Raises
    ------
    ValueError, OSError, RuntimeError
        If the files ask for code, lack safetensors, or hold weights of other shapes or values
        that are not finite.
    InputError
        If a file of weights is absent or damaged, `attention` may not be used, or bitsandbytes
        is not installed.
    """
    settings, chosen = _prepared(place, kind, attention)
    _model_files.check_weights(place)
    _refuse_pickles(place)
    more = {} if quantise is None else {"quantization_config": quantisation(quantise)}
    try:
        model, found = _auto(kind).from_pretrained(
            place,
            config=settings,
            attn_implementation=chosen,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **more,
        )
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        problem = "its weights have other shapes than config.json says"
        raise ValueError(problem) from error
    if not found["missing_keys"]:  # which is an error to tell first
        _warn_of_unused(place, found["unexpected_keys"])
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ValueError(f"its weight {name} has values that are not finite")
    _check_attention_of(model, chosen)
    return model, set(found["missing_keys"])


def _warn_of_unused(place: str, names: Iterable[str]) -> None:
    """Warn of weights without a place in the model, as of a reward model read as a policy."""
    if unused := sorted(names):
        warnings.warn(
            f"{place}: {len(unused)} weights of the files, such as {unused[0]}, have no place in "
            "the model and are left out; make sure that it was saved as a model of this kind",
            stacklevel=4,
        )


def quantisation(name: str) -> Any:
    """The settings for transformers to load quantised weights.

    Raises
    ------
    InputError
        If bitsandbytes is not installed.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise InputError(
            "weights of 4 bits need the package bitsandbytes, which is not installed",
            field="quantise",
            value=name,
            remedy="Install it: pip install bitsandbytes; or leave quantise out.",
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=name,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def build(place: str, kind: Kind, *, dtype: Any, attention: str | None = None) -> Any:
    """Build a model with random weights, from the configuration that :func:`read` would use."""
    settings, chosen = _prepared(place, kind, attention)
    model = _auto(kind).from_config(
        settings, attn_implementation=chosen, dtype=dtype, trust_remote_code=False
    )
    _check_attention_of(model, chosen)
    return model


def settings_of(place: str) -> Any:
    """Read the configuration of a folder or hub name, after a check that it asks for no code.

    Raises
    ------
    ValueError, OSError
        If it asks for code, is of a kind that transformers does not have, or is absent.
    """
    from transformers import AutoConfig, PretrainedConfig

    # transformers may read another file, which config.json names by version.
    _refuse_code("config.json", PretrainedConfig.get_config_dict(place)[0])
    if (Path(place) / "custom_generate").exists():
        raise ValueError("its folder custom_generate holds code, which is never run")
    generation = _read_if_there(place, FILE)
    _refuse_code(FILE, generation)
    try:
        end_ids(generation)
    except InputError as error:
        raise error.at(file=f"{place}/{FILE}") from error
    return AutoConfig.from_pretrained(place, trust_remote_code=False)


def tokenizer_of(place: str) -> Any:
    """Read the tokenizer of a folder or hub name, which must have a class of transformers.

    Raises
    ------
    ValueError, OSError
        If it needs its own code, or is absent.
    """
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    _refuse_code("tokenizer_config.json", get_tokenizer_config(place))
    try:
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:
        # tokenizers raises the first, and transformers the second for a folder without a tokenizer.
        if type(error) is Exception:
            problem = f"its tokenizer cannot be read: {error}"
        elif not isinstance(error, KeyError):
            raise
        else:
            if (Path(place) / "config.json").is_file():
                settings_of(place)  # whose error this can be
            problem = "there is no tokenizer that transformers can read, such as tokenizer.json"
        raise ValueError(problem) from error


def check_adapters(settings: dict[str, Any]) -> None:
    """Reject adapters whose settings import modules, read pickled files or fetch other adapters.

    Raises
    ------
    ValueError
        If `settings`, the content of adapter_config.json, do so.
    """
    _refuse_code("adapter_config.json", settings)
    if str(settings.get("peft_type")).upper() == "XLORA":
        raise ValueError("adapter_config.json: peft_type 'XLORA' loads adapters from other places")
    module = (settings.get("auto_mapping") or {}).get("parent_library")
    if module is not None and str(module).split(".")[0] != "transformers":
        raise ValueError(f"adapter_config.json: auto_mapping would import {module!r}")


def attention_of(settings: Any, kind: Kind = "CausalLM") -> str:
    """Default attention of a kind of model: "sdpa" if the model has it, otherwise "eager"."""
    found = _auto(kind)._model_mapping.get(type(settings), None)
    kinds = found if isinstance(found, tuple | list) else [found]
    return "sdpa" if all(getattr(one, "_supports_sdpa", False) for one in kinds) else "eager"


def check_attention(name: str) -> None:
    """Reject attention that would be fetched from a hub.

    Raises
    ------
    InputError
        If `name` is not one of `ATTENTIONS`, or its package is missing.
    """
    problem, remedy = None, f"Use one of {', '.join(ATTENTIONS)}."
    if name not in ATTENTIONS:
        problem = "no such attention"
    elif (package := _PACKAGES.get(name)) and not find_spec(package):
        problem = f"{package} is not installed"
        if find_spec("kernels"):
            problem += ", and transformers would fetch code from a hub for it"
        remedy = f"Install {package}, or use attention = 'sdpa'."
    if problem is not None:
        raise InputError(problem, field="attention", value=name, remedy=remedy)


def _prepared(place: str, kind: Kind, attention: str | None) -> tuple[Any, str]:
    """The configuration, with the chosen attention set at every depth."""
    settings = settings_of(place)
    if kind == "CausalLM" and settings.is_encoder_decoder:
        problem = "is an encoder and a decoder; only models of a decoder are trained"
        raise ValueError(f"a model of the type {settings.model_type} {problem}")
    chosen = attention or attention_of(settings, kind)
    check_attention(chosen)
    if chosen == varlen.NAME:
        varlen.register()
    settings._attn_implementation = chosen
    return settings, chosen


def _auto(kind: Kind) -> Any:
    import transformers

    return getattr(transformers, f"AutoModelFor{kind}")


def _check_attention_of(model: Any, chosen: str) -> None:
    """Check that the model and its parts use the chosen attention."""
    used = {str(getattr(model.config, "_attn_implementation", chosen))}
    parts = (getattr(module, "config", None) for module in model.modules())
    used |= {str(name) for part in parts if (name := getattr(part, "_attn_implementation", None))}
    # A part without this attention may use eager attention.
    if model.config._attn_implementation != chosen or used - {chosen, "eager"}:
        raise ValueError(f"the model uses the attention {sorted(used)} and not {chosen!r}")


def _read_if_there(place: str, name: str) -> dict[str, Any]:
    """Read a JSON file of a folder or hub name; empty if there is no such file.

    Raises
    ------
    ValueError
        If the file holds anything but an object of JSON.
    """
    from transformers.utils.hub import cached_file

    try:
        file = cached_file(place, name)
    except OSError:
        return {}
    if file is None:
        return {}
    try:
        found = read_json(Path(file))
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds no settings")
    return found


def _refuse_pickles(place: str) -> None:
    """Reject an index of weights that names no safetensors: transformers would unpickle them."""
    names = dict(_read_if_there(place, INDEX).get("weight_map", {})).values()
    if wrong := sorted({str(name) for name in names if not str(name).endswith(".safetensors")}):
        raise ValueError(f"{INDEX} names {wrong[0]}, which holds no safetensors")


def _refuse_code(file: str, settings: Any) -> None:
    for key, value in _entries(settings):
        if key in _ATTENTION_KEYS:
            wrong = any(name not in ATTENTIONS for name in _names(value))
        elif key in _EXPERTS_KEYS:
            wrong = any(not str(name).isidentifier() for name in _names(value))
        else:
            wrong = key in _CODE_KEYS and bool(value)
        if wrong:
            raise ValueError(f"{file}: {key} = {value!r} could run code that comes with a model")


def _entries(settings: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value at any depth."""
    left = [settings]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield from part.items()
            left += part.values()
        elif isinstance(part, list | tuple):
            left += part


def _names(value: Any) -> list[Any]:
    """Names in an entry: none, one, or one for each part of a model."""
    found = list(value.values()) if isinstance(value, dict) else [value]
    return [name for name in found if name is not None]
