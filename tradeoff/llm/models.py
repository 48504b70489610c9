"""Models and tokenizers of transformers, from a folder, the hub or a configuration."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tradeoff import _seals
from tradeoff.errors import InputError
from tradeoff.llm import (
    _generation_settings,
    _model_files,
    _origin,
    _pretrained,
    gguf,
    snapshots,
)
from tradeoff.llm._pretrained import Kind
from tradeoff.llm._turns import stop_ids
from tradeoff.llm.config import Lora, ModelConfig
from tradeoff.records import read_json, replacing_folder, write_json

Precision = Literal["fp32", "bf16"]
CARD = "README.md"
"""File of a model card, which users may edit."""
MODEL, BASE = "model", "base"
"""Folder of the trained model in the folder of a run; folder of the model below adapters, in the
folder of these adapters, if no other files hold that model."""


def load(config: ModelConfig, *, seed: int = 0, frozen_bf16: bool = False) -> tuple[Any, Any]:
    """Load a causal model and its tokenizer; code that comes with a model is never run.

    The output folder of a run gives its model, or its newest intact checkpoint if it has no model
    yet. A single checkpoint or a GGUF file (:func:`tradeoff.llm.gguf.unpacked`) can be loaded, too.
    A folder of adapters gives their base with the adapters on it, frozen, as in peft.

    Parameters
    ----------
    config
        Settings that name the model.
    seed
        Seed of random weights.
    frozen_bf16
        Load in bf16, for adapters on a frozen model; otherwise in float32.

    Raises
    ------
    InputError
        If the folder or hub name holds no causal model with a tokenizer, or needs its own code.
    """
    read: dict[str, Any] = {
        "dtype": torch.bfloat16 if frozen_bf16 else torch.float32,
        "attention": config.attention,
    }
    path = model_folder(config.path)
    if config.quantise and (config.config_only or snapshots.checkpoint_of(path) is not None):
        raise InputError(
            "random weights and checkpoints are not quantised",
            field="quantise",
            value=config.quantise,
            remedy="Give a model with weights of its own.",
        )
    with _readable(config.path):
        if (checkpoint := snapshots.checkpoint_of(path)) is not None:
            return _of_checkpoint(checkpoint, config, read)
        base = _checked_base(path)
        _check_seal(path, base, weights=False)  # must come before the tokenizer is read
        tokenizer = with_overrides(tokenizer_of(path, base), config)
        if config.config_only:
            torch.manual_seed(seed)
            model = _pretrained.build(base, "CausalLM", **read)
            _forget_name(model)
        else:
            quantise = {} if config.quantise is None else {"quantise": config.quantise}
            model = with_weights(path, base, "CausalLM", **read, **quantise)
    return model, tokenizer


def with_weights(path: str, base: str, kind: Kind, **read: Any) -> Any:
    """Load the model of `base`, with the adapters of `path` on it if `path` is another place.

    Policies, references and judges are read here. `read` is passed to `transformers`.

    Raises
    ------
    ValueError, OSError, RuntimeError
        If a weight is missing or has another shape; further if it cannot be read.
    InputError
        If a file is not as the package wrote it.
    """
    _check_seal(path, base)
    with quiet():
        model, missing = _pretrained.read(base, kind, **read)
        if path == base:
            _require_all_weights(missing)
            return model
        _require_all_weights(missing - _names_in_adapters(path))
        return _put_upon(model, path)


def _check_seal(path: str, base: str, *, weights: bool = True) -> None:
    """Compare a folder that :func:`write` made, and the model below adapters, with its seal."""
    folder = Path(path)
    if not (folder / _seals.MANIFEST).is_file():
        return
    large = () if weights else [file.name for file in folder.glob("*.safetensors")]
    try:
        about = _seals.check_folder(folder, leave_out=large)
    except _seals.Broken as error:
        raise InputError(
            f"the model is damaged: {error.problem}",
            file=error.file,
            remedy="Restore it; the command of a run writes its model anew. After a change on "
            f"purpose, remove {_seals.MANIFEST} from the folder.",
        ) from error
    if weights and (files := about.get("base_files")):
        _origin.check(base, files)


def with_overrides(tokenizer: Any, config: ModelConfig) -> Any:
    """Give the tokenizer the chat template and the end token that the settings name.

    Raises
    ------
    InputError
        If the template cannot be read, or the tokenizer has no such token.
    """
    if config.chat_template is not None:
        try:
            tokenizer.chat_template = Path(config.chat_template).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"the chat template cannot be read: {error}",
                field="chat_template",
                value=config.chat_template,
                remedy="Give a file of UTF-8 text with a Jinja template.",
            ) from error
    if config.eos_token is not None:
        if config.eos_token not in tokenizer.get_vocab():
            raise InputError(
                "the tokenizer has no such token",
                field="eos_token",
                value=config.eos_token,
                remedy=f"Give one of its tokens, such as {tokenizer.all_special_tokens}.",
            )
        tokenizer.eos_token = config.eos_token
    return tokenizer


def _of_checkpoint(checkpoint: Path, config: ModelConfig, read: dict[str, Any]) -> tuple[Any, Any]:
    """Load the model of a checkpoint and its tokenizer; adapters are frozen."""
    from peft import PeftConfig, get_peft_model
    from transformers import GenerationConfig

    found = snapshots.surroundings(checkpoint)
    place = str(found.folder)
    with quiet():
        if found.base is None:
            model: Any = _pretrained.build(place, "CausalLM", **read)
            _forget_name(model)
        else:
            _origin.check(found.base, found.base_files)
            model = with_weights(found.base, found.base, "CausalLM", **read)
    if (found.folder / _generation_settings.FILE).is_file():
        model.generation_config = GenerationConfig.from_pretrained(place)
    known: set[str] = set()
    if found.adapter is not None:
        _pretrained.check_adapters(read_json(found.folder / "adapter_config.json"))
        with _peft_quiet():
            about = PeftConfig.from_pretrained(place)
            about.base_model_name_or_path = None  # peft warns of another model's adapter
            model = get_peft_model(model, about, adapter_name=found.adapter)
        names = [name for name, _ in model.named_parameters()]
        known = {name for name in names if found.base and plain_name(model, name)}
    snapshots.fill(model, checkpoint, known)
    if found.adapter is not None:
        model.requires_grad_(False)
    return model, with_overrides(tokenizer_of(place, place), config)


def without_weights(path: str) -> tuple[Any, Any]:
    """Configuration and tokenizer that :func:`load` would read, or its `InputError`, quickly."""
    place = model_folder(path)
    with _readable(path):
        if (checkpoint := snapshots.checkpoint_of(place, whole=False)) is not None:
            base = place = str(snapshots.surroundings(checkpoint).folder)
        else:
            base = _checked_base(place)
        return _pretrained.settings_of(base), tokenizer_of(place, base)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 over what decides the tokens of a row: rules, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    about = (rules, sorted(tokenizer.special_tokens_map.items(), key=str), tokenizer.chat_template)
    digest = hashlib.sha256(repr(about).encode("utf-8", "surrogatepass"))
    file = getattr(tokenizer, "vocab_file", None)
    if backend is None and file and Path(file).is_file():
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"no causal model can be loaded: {reason(error)}",
            field="path",
            value=path,
            remedy="Give a folder or hub name with config.json, tokenizer and safetensors.",
        ) from error


_UNKNOWN = (AttributeError, KeyError, TypeError, AssertionError, ArithmeticError)
"""Errors that transformers raises for unknown names and impossible numbers in a configuration."""
UNREADABLE = (
    *(OSError, ValueError, ImportError, RuntimeError, SafetensorError, UserWarning),
    *_UNKNOWN,
)
"""Errors that transformers, peft and this module raise for files that cannot be used."""


def reason(error: BaseException) -> str:
    """The first line of an error that says something, with its type if the text is not enough."""
    kind = type(error).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [kind]
    text = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    return f"{kind}: {text}" if isinstance(error, _UNKNOWN) else text


def model_folder(path: str | Path) -> str:
    """The model folder of a run or of a GGUF file; any other path is returned unchanged."""
    path = gguf.unpacked(str(path))
    # Of checkpoints it has what they share, but no weights.
    inner = Path(path) / ("" if Path(path).name == snapshots.CHECKPOINTS else MODEL)
    names = ("config.json", "adapter_config.json")
    return str(inner) if any((inner / name).is_file() for name in names) else str(path)


def has_adapter_files(path: str) -> bool:
    """Whether a folder or hub name holds adapters and not a model; False if it holds neither."""
    path = model_folder(path)
    try:
        if (checkpoint := snapshots.checkpoint_of(path, whole=False)) is not None:
            return snapshots.surroundings(checkpoint).adapter is not None
        return base_of(path) != path
    except UNREADABLE:
        return False


def base_of(path: str) -> str:
    """Folder or hub name of the model below adapters; `path` itself if it holds a model.

    Raises
    ------
    ValueError
        If the adapters do not name their base, name other adapters, or ask for code.
    InputError
        If the base has no configuration; the error names it.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    if (file := find_adapter_config_file(path)) is None:
        return path
    settings = read_json(Path(file))
    if not isinstance(settings, dict):
        raise ValueError("adapter_config.json holds no settings")
    _pretrained.check_adapters(settings)
    own = Path(path) / BASE
    base = str(own) if own.is_dir() else settings.get("base_model_name_or_path")
    if base and _model_files.is_local(base) and not Path(base).is_dir():
        raise _no_base("there is no such folder", base, file)
    if not base or find_adapter_config_file(base) is not None:
        raise ValueError(f"the adapters have no base model but {base!r}")
    try:
        _model_files.check_small(base)
        _pretrained.settings_of(base)
    except InputError:
        raise
    except OSError as error:
        raise _no_base(reason(error), base, file) from error
    return base


def _no_base(problem: str, base: str, file: str) -> InputError:
    return InputError(
        f"the base model of the adapters cannot be read: {problem}",
        file=file,
        field="base_model_name_or_path",
        value=base,
        remedy="Put the base model there, or write its folder or hub name into this field.",
    )


def _checked_base(path: str) -> str:
    """As `base_of`, after a check of the path and of the small files that are there."""
    _model_files.check_place(path)
    base = base_of(path)
    _model_files.check_small(path)
    return base


def tokenizer_of(path: str, base: str) -> Any:
    """The tokenizer of a model, or of adapters or their base."""
    try:
        return _pretrained.tokenizer_of(path)
    except (OSError, ValueError):
        own = any((Path(path) / name).is_file() for name in _TOKENIZERS)
        if path == base or own:
            raise
    # Adapters from elsewhere often have no tokenizer.
    return _pretrained.tokenizer_of(base)


_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
"""Files of which a folder with a tokenizer has one."""


def _names_in_adapters(path: str) -> set[str]:
    """Names, in the model, of weights that are saved with adapters, such as a trained head."""
    from transformers.utils.hub import cached_file

    file = cached_file(path, "adapter_model.safetensors")
    with safe_open(file, framework="pt") as stored:
        return {name.removeprefix("base_model.model.") for name in stored.keys()}  # noqa: SIM118


def _put_upon(model: Any, path: str) -> Any:
    """Put the adapters of a folder on a model; new tokens that they bring get rows in it."""
    from peft import PeftModel
    from transformers.utils.hub import cached_file

    # Without this file peft would load a pickled one.
    file = cached_file(path, "adapter_model.safetensors")
    if (rows := _rows_of_embedding(file, model)) not in (None, vocabulary(model)):
        model.resize_token_embeddings(rows, mean_resizing=False)
    with _peft_quiet():
        warnings.filterwarnings("error", "Found missing adapter keys")
        return PeftModel.from_pretrained(model, path, torch_device="cpu")


def _rows_of_embedding(file: Any, model: Any) -> int | None:
    """Number of rows of the embedding in a file of adapters; None if they leave it as it is."""
    embed = model.get_input_embeddings()
    names = [name for name, module in model.named_modules() if module is embed]
    with safe_open(file, framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118
            plain = name.removeprefix("base_model.model.").removesuffix(".weight")
            plain = plain.removesuffix(".base_layer")  # of adapters on the embedding itself
            if name.endswith(".weight") and plain in names:
                return int(stored.get_slice(name).get_shape()[0])
    return None


@contextmanager
def _peft_quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # peft uses a name that version 6 of transformers removes.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        # `merged` unties them.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        yield


def _forget_name(model: Any) -> None:
    """Forget the model's name, so that adapters do not take its old files for its weights."""
    model.name_or_path = model.config._name_or_path = ""


def _require_all_weights(missing: Iterable[str]) -> None:
    if absent := sorted(missing):
        raise ValueError(f"the files lack {len(absent)} of its weights, such as {absent[0]}")


def below_adapters(model: Any) -> Any:
    """The model of transformers below adapters of peft; the model itself if there are none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def vocabulary(model: Any) -> int:
    """Number of rows of a model's embedding, which may have adapters."""
    return int(below_adapters(model).get_input_embeddings().weight.shape[0])


def context(settings: Any) -> int | None:
    """Longest sequence in tokens, by a model's configuration; None if it names no limit."""
    text = settings.get_text_config()
    names = ("max_position_embeddings", "max_seq_len")  # MPT has the second
    return next((found for name in names if (found := getattr(text, name, None))), None)


def has_adapters(model: nn.Module) -> bool:
    """Whether a model has adapters, of peft or from transformers."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(model, PeftModel) or any(
        isinstance(module, BaseTunerLayer) for module in model.modules()
    )


def merged(model: Any) -> Any:
    """Merge the adapters into the weights of the model below them.

    Weights that are tied, of which one has adapters, differ afterwards, and are then not tied.

    Raises
    ------
    InputError
        If these adapters cannot be merged, or do not belong to a model of peft.
    """
    try:
        _untie(below_adapters(model))
        model = model.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError) as error:
        raise InputError(
            "new adapters cannot be added, as the model's own cannot be merged into its weights",
            field="lora",
            value=type(model).__name__,
            remedy="Load them by peft.PeftModel.from_pretrained, or leave lora out to train them.",
        ) from error
    _forget_name(model)
    return model


def _untie(base: Any) -> None:
    """Give embedding and output layer a weight each, if they share one and either has adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [base.get_input_embeddings(), base.get_output_embeddings()]
    if not any(isinstance(layer, BaseTunerLayer) for layer in layers):
        return
    inner: list[Any] = [
        one.get_base_layer() if isinstance(one, BaseTunerLayer) else one for one in layers
    ]
    if inner[1] is None or inner[0].weight is not inner[1].weight:
        return
    shared = inner[0].weight
    inner[1].weight = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
    for settings in (base.config, base.config.get_text_config()):
        settings.tie_word_embeddings = False


def resume_adapters(model: Any) -> None:
    """Make a model's adapters trainable, if the whole model is frozen.

    Raises
    ------
    InputError
        If they do not belong to a model of peft; others could not be saved.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise InputError(
            "adapters within a plain model cannot be trained",
            field="model",
            value=type(model).__name__,
            remedy="Load them by peft.PeftModel.from_pretrained.",
        )
    if not any(weight.requires_grad for weight in model.parameters()):
        model.set_adapter(model.active_adapter)


def with_adapters(model: nn.Module, lora: Lora, *, seed: int = 0) -> Any:
    """Add low-rank adapters and freeze all else; earlier adapters are merged into the model.

    Raises
    ------
    InputError
        If no layer has the name of a target.
    """
    from peft import LoraConfig, get_peft_model

    if has_adapters(model):
        model = merged(model)

    torch.manual_seed(seed)
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha or 2 * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_dora=lora.dora,
    )
    names = sorted({n.split(".")[-1] for n, m in model.named_modules() if type(m) is nn.Linear})
    try:
        with _peft_quiet():
            return get_peft_model(model, settings)
    except ValueError as error:
        raise InputError(
            f"adapters cannot be added: {reason(error).removesuffix('.')}",
            field="targets",
            value=targets,
            remedy=f"Use some of {names}.",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager that hides the progress bars of transformers."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def save(
    accelerator: Any,
    model: Any,
    tokenizer: Any,
    folder: Path,
    texts: Mapping[str, str] | None = None,
    *,
    sync: bool = True,
    precision: Precision = "fp32",
) -> None:
    """Write a folder for transformers, or for peft with adapters; it appears only when complete.

    `texts` are other files by name, such as a card. Trained weights are in float32; with
    `precision` "bf16" they are rounded, and config.json says so.

    With adapters, the model below them is compared with the files it was loaded from, tensor by
    tensor. If they differ, as after training, merging or new tokens, or if there are no files, that
    model is written, too. The adapters then name it as their base.
    """
    weights = untied(model, accelerator.get_state_dict(model))
    if accelerator.is_main_process:
        write(model, weights, tokenizer, folder, texts, sync=sync, precision=precision)
    accelerator.wait_for_everyone()


def untied(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by name; tied weights have the first of their names."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied = names - {name for name, _ in model.named_parameters()}
    return {name: value for name, value in weights.items() if name not in tied}


def write(
    model: Any,
    weights: dict[str, Tensor],
    tokenizer: Any,
    folder: Path,
    texts: Mapping[str, str] | None = None,
    *,
    sync: bool = True,
    precision: Precision = "fp32",
) -> None:
    """As :func:`save`, in one process that holds whole weights."""
    # peft would look for the embedding of the base model, which has not changed.
    options: dict[str, Any] = {}
    if hasattr(model, "get_base_model"):
        options = {"save_embedding_layers": False, "selected_adapters": [model.active_adapter]}
    with replacing_folder(folder, sync=sync) as partial, quiet():
        base = below_adapters(model)
        settings = base.generation_config
        with (
            nullcontext() if settings is None else _generation_settings.unused(base),
            _base_written(model, weights, tokenizer, partial, folder),
        ):
            model.save_pretrained(partial, state_dict=rounded(weights, precision), **options)
        for place in (partial, partial / BASE):
            if settings is not None and (place / _generation_settings.FILE).is_file():
                _generation_settings.write(settings, place, stop_ids(tokenizer, settings))
        _say_precision(partial / "config.json", precision)
        _unpack(partial, model)
        tokenizer.save_pretrained(partial)
        # Users may edit a card, so it is not sealed; peft's own card is an empty form.
        (partial / CARD).unlink(missing_ok=True)
        texts = dict(texts or {})
        card = texts.pop(CARD, None)
        for name, text in texts.items():
            (partial / name).write_text(text, "utf-8")
        _seals.seal_folder(partial, {"base_files": _files_below(partial)})
        if card is not None:
            (partial / CARD).write_text(card, "utf-8")


def rounded(weights: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """Weights of 32 bits in the precision in which a model is saved."""
    if precision == "fp32":
        return dict(weights)
    return {k: v.bfloat16() if v.dtype == torch.float32 else v for k, v in weights.items()}


def _say_precision(config: Path, precision: Precision) -> None:
    """Name the precision of the saved weights, in which transformers will load them."""
    if precision == "fp32" or not config.is_file():
        return
    found = {k: v for k, v in read_json(config).items() if k != "torch_dtype"}
    write_json(config, found | {"dtype": "bfloat16"})


def _files_below(partial: Path) -> dict[str, str]:
    """SHA-256 of the files of the adapters' base, unless these are in the folder."""
    settings = partial / "adapter_config.json"
    if not settings.is_file() or (partial / BASE).is_dir():
        return {}
    return _origin.digests(str(read_json(settings)["base_model_name_or_path"]))


@contextmanager
def _base_written(
    model: Any, weights: dict[str, Tensor], tokenizer: Any, partial: Path, folder: Path
) -> Iterator[None]:
    """Write the model below adapters if no files hold its weights, and name it in this context.

    A folder is named from the root, as the adapters may be loaded in another working directory.
    """
    about = model.active_peft_config if hasattr(model, "active_peft_config") else None
    if about is None:
        yield
        return
    named, stored = about.base_model_name_or_path, stored_base(model, weights, folder)
    if stored is None:
        model.get_base_model().save_pretrained(partial / BASE, state_dict=below(model, weights))
        tokenizer.save_pretrained(partial / BASE)
        stored = str((folder / BASE).resolve())
    elif Path(stored).exists():
        stored = str(Path(stored).resolve())
    about.base_model_name_or_path = stored
    try:
        yield
    finally:
        about.base_model_name_or_path = named


def _unpack(partial: Path, model: Any) -> None:
    """Move adapters with their own name out of the subfolder that peft makes for them."""
    # In older versions of transformers, whole models have a method of this name.
    named = hasattr(model, "get_base_model")
    inner = partial / str(model.active_adapter) if named else partial
    if inner != partial and inner.is_dir():
        for file in inner.iterdir():
            file.replace(partial / file.name)
        inner.rmdir()


def stored_base(model: Any, weights: dict[str, Tensor], folder: Path) -> str | None:
    """Folder or hub name whose files hold the model below adapters as it is in memory.

    Parameters
    ----------
    model
        A model of peft.
    weights
        All of its weights by name.
    folder
        The folder that will be replaced; its content does not count.
    """
    named = model.active_peft_config.base_model_name_or_path
    if not named or folder.resolve() in [(place := Path(named).resolve()), *place.parents]:
        return None
    if getattr(model.get_base_model(), "is_quantized", False):
        return str(named)  # its files hold unrounded weights
    return named if _origin.holds(named, below(model, weights), model.get_base_model()) else None


def below(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the model below adapters, by their names without adapters."""
    names = {name: plain_name(model, name) for name in weights}
    return {plain: weights[name] for name, plain in names.items() if plain is not None}


def plain_name(model: Any, name: str) -> str | None:
    """Name that a weight of a model of peft has in the model below; None if adapters added it."""
    from peft.tuners.tuners_utils import BaseTuner

    tuned = isinstance(model.base_model, BaseTuner)
    start = "base_model.model." if tuned else "base_model."
    added = (getattr(model.base_model, "prefix", "lora_"), *_ADDED) if tuned else _ADDED
    if not name.startswith(start) or any(part in name for part in added):
        return None
    name = name.removeprefix(start)
    for wrapper in _WRAPPERS:
        while wrapper in name:  # peft puts a wrapper around each weight of experts that it adapts
            name = name.replace(wrapper, ".")
    return name


_ADDED = ("lora_", ".modules_to_save.", ".trainable_tokens_")
"""Parts of the names of weights that peft adds."""
_WRAPPERS = (".base_layer.", ".original_module.", ".token_adapter.")
"""Parts that peft inserts into the names of a model's weights."""
