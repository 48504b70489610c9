"""Folders of models, runs and adapters with code that must not run, for every function that reads
them.

Payloads touch a marker. They are in modules that a configuration names, pickles with the names of
weights, kernels of a hub, adapters that import, and chat templates that try to escape their
sandbox. The reader may ignore the payload, or reject the folder with an `InputError`.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import llm_payloads as payloads
import llm_runs
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama

from tests.attack._alarm import Payload, alarmed
from tests.attack._escapes import escapes
from tests.attack._outcome import Outcome, sample, spread
from tests.attack._setup import copied, model_folder, place, row_files
from tradeoff.data.rows import Message, SftRow
from tradeoff.errors import InputError
from tradeoff.llm import inspection, models
from tradeoff.llm._data import tokenise_sft
from tradeoff.llm._turns import rendered, turns
from tradeoff.llm.config import Lora, ModelConfig
from tradeoff.llm.evaluation import Contest, reward_model
from tradeoff.llm.evaluation import load as load_policy
from tradeoff.llm.export import export
from tradeoff.networks.hugging_face import from_hugging_face, load_llama

PROMISE = "No code that comes with a model, a run, adapters, a tokenizer or a template is ever run."
TRIES, FULL = 300, 2000


def run(tries: int, seed: int) -> Outcome:
    """Read `tries` malicious folders."""
    kinds = {
        "configuration names code": _configurations,
        "pickle for weights": _pickles,
        "adapters": _adapters,
        "chat template": _templates,
        "folder of a run": _runs,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spread(tries, seed, {kind: partial(_tried, part) for kind, part in kinds.items()})


# ---------------------------------------------------------------------- judgement


def _tried(
    cases: Callable[[dict[str, Path], Path], dict[str, Any]],
    tries: int,
    rng: random.Random,
    outcome: Outcome,
) -> None:
    kind = {_configurations: "configuration names code", _pickles: "pickle for weights",
            _adapters: "adapters", _templates: "chat template",
            _runs: "folder of a run"}[cases]  # fmt: skip
    with place() as root:
        marker, folders = root / "marker", _folders(root / "good")
        work = root / "work"
        found = cases(folders, marker)
        for name in sample(sorted(found), tries, rng):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            with alarmed(marker) as seen:
                try:
                    found[name](work)
                    problem = None
                except InputError:
                    problem = None
                except Exception as error:
                    problem = f"{type(error).__name__}: {str(error)[:200]}"
            if marker.is_dir():
                marker.rmdir()
            outcome.add(kind, f"{name}: {'; '.join(seen) or problem}" if seen or problem else None)


# ---------------------------------------------------------------------- readers


def _folders(root: Path) -> dict[str, Path]:
    """A policy, a judge, adapters and a stopped run, all good."""
    root.mkdir()
    tokenizer = bpe_tokenizer_hf()
    policy = model_folder(root / "policy")
    adapted = models.with_adapters(tiny_llama(len(tokenizer)), Lora(rank=2, targets=("q_proj",)))
    adapted.save_pretrained(root / "adapters")
    payloads.classifier(root / "judge")
    stop = [llm_runs.stop_at(2, 15)]
    run = llm_runs.trainer(output=root / "run", save_every=2, callbacks=stop)
    run.train(progress=False)
    row_files(root)
    return {"policy": policy} | {name: root / name for name in ("judge", "adapters", "run")}


def _readers(folders: dict[str, Path]) -> dict[str, tuple[str, Callable[[Path], Any]]]:
    """Readers of a model: for each, the folder to copy, and a function of the copy."""
    rows = str(folders["policy"].parent / "sft.jsonl")

    def upon(place: Path) -> Any:
        adapters = copied(folders["adapters"], place.parent / "upon")
        payloads.edit(adapters, "adapter_config.json", base_model_name_or_path=str(place))
        return models.load(ModelConfig(path=str(adapters)))

    return {
        "policy": ("policy", payloads.READERS["policy"]),
        "random weights": ("policy", payloads.READERS["random"]),
        "reference": ("policy", payloads.READERS["reference"]),
        "outline": ("policy", payloads.READERS["settings"]),
        "base of adapters": ("policy", upon),
        "judge": ("judge", reward_model),
        "evaluation": ("policy", lambda at: load_policy(str(at))),
        "doctor": ("policy", lambda at: list(inspection.rows(str(at), {"sft": rows}))),
        "export": ("policy", lambda at: export(at, at.parent / "out")),
        "llama": ("policy", load_llama),
        "small network": ("policy", lambda at: from_hugging_face(at)),
    }


def _read(folders: dict[str, Path], harm: Callable[[Path], Any], reader: str, work: Path) -> None:
    wanted, read = _readers(folders)[reader]
    folder = copied(folders[wanted], work / "model")
    harm(folder)
    read(folder)


# ---------------------------------------------------------------------- payloads


def _configurations(folders: dict[str, Path], marker: Path) -> dict[str, Any]:
    autos = (
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForSequenceClassification",
    )
    mine = dict.fromkeys(autos, "mine.Mine")
    elsewhere = dict.fromkeys(autos, "someone/model--mine.Mine")

    def edits(file: str, **entries: Any) -> Callable[[Path], None]:
        def harm(at: Path) -> None:
            payloads.plant(at, marker)
            shutil.rmtree(at / "custom_generate")
            payloads.edit(at, file, **entries)

        return harm

    def planted(harm: Callable[[Path], Any]) -> Callable[[Path], None]:
        def both(at: Path) -> None:
            payloads.plant(at, marker)
            shutil.rmtree(at / "custom_generate")
            harm(at)

        return both

    both_autos = {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}
    harms: dict[str, Callable[[Path], Any]] = {
        **{name: planted(harm) for name, harm in payloads.HARMS.items()},
        "generate with code": lambda at: payloads.plant(at, marker),
        "classes": edits("config.json", auto_map=mine),
        "classes elsewhere": edits("config.json", auto_map=elsewhere),
        "classes of a new kind": edits("config.json", auto_map=mine, model_type="mine"),
        "classes without a kind": edits("config.json", auto_map=mine, model_type=None),
        "classes and trust": edits("config.json", auto_map=mine, trust_remote_code=True),
        "tokenizer class": edits("tokenizer_config.json", auto_map=both_autos),
        "tokenizer class alone": edits(
            "tokenizer_config.json", auto_map=both_autos, tokenizer_class="Mine"
        ),
        "tokenizer of a module": edits("tokenizer_config.json", tokenizer_class="mine.Mine"),
        "processor": edits("processor_config.json", auto_map={"AutoProcessor": "mine.Mine"}),
        "feature extractor": edits(
            "preprocessor_config.json", auto_map={"AutoFeatureExtractor": "mine.Mine"}
        ),
        "generation classes": edits("generation_config.json", auto_map=mine),
        "quantization": edits(
            "config.json", quantization_config={"quant_method": "mine", "modules": "mine"}
        ),
        "architecture": edits("config.json", architectures=["mine.Mine"]),
        "dtype": edits("config.json", dtype="mine.Mine", torch_dtype="mine.Mine"),
        "activation": edits("config.json", hidden_act="mine.Mine"),
    }
    return {
        f"{reader}, {name}": partial(_read, folders, harm, reader)
        for reader in _readers(folders)
        for name, harm in harms.items()
    }


def _pickles(folders: dict[str, Path], marker: Path) -> dict[str, Any]:
    plain = pickle.dumps(Payload(marker))

    def archive(path: Path) -> None:
        """A file of torch.save whose pickle is the payload."""
        with zipfile.ZipFile(path, "w") as content:
            content.writestr("archive/data.pkl", plain)
            content.writestr("archive/version", "3\n")

    def beside(name: str, form: Any) -> Callable[[Path], None]:
        return lambda at: form(at / name)

    def instead(name: str, form: Any) -> Callable[[Path], None]:
        def harm(at: Path) -> None:
            (at / "model.safetensors").unlink()
            form(at / name)

        return harm

    def indexed(at: Path, weights: str) -> None:
        (at / "model.safetensors").unlink()
        archive(at / weights)
        index = {"metadata": {}, "weight_map": {"model.norm.weight": weights}}
        for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
            (at / name).write_text(json.dumps(index), "utf-8")

    forms = {"pickle": lambda path: path.write_bytes(plain), "archive": archive,
             "torch": lambda path: torch.save(Payload(marker), path)}  # fmt: skip
    harms: dict[str, Callable[[Path], Any]] = {}
    for how, form in forms.items():
        for name in ("pytorch_model.bin", "model.safetensors", "model.pt", "tf_model.h5"):
            harms[f"{how} {name}"] = instead(name, form)
        for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl",
                     "tokenizer.model", "vocab.pkl", "adapter_model.bin"):  # fmt: skip
            harms[f"{how} beside, {name}"] = beside(name, form)
    harms["index of a pickle"] = lambda at: indexed(at, "weights.bin")
    harms["index of another ending"] = lambda at: indexed(at, "weights.safetensors")
    return {
        f"{reader}, {name}": partial(_read, folders, harm, reader)
        for reader in _readers(folders)
        for name, harm in harms.items()
    }


def _adapters(folders: dict[str, Path], marker: Path) -> dict[str, Any]:
    def adapters(edits: dict[str, Any], work: Path) -> None:
        at = copied(folders["adapters"], work / "adapters")
        payloads.plant(at, marker)
        settings = {"base_model_name_or_path": str(folders["policy"]), **edits}
        payloads.edit(at, "adapter_config.json", **settings)
        for name in ("cache.bin", "state.bin"):
            (at / name).write_bytes(pickle.dumps(Payload(marker)))
        here = os.getcwd()
        os.chdir(at)  # places where a named module or file may be found
        try:
            models.load(ModelConfig(path=str(at)))
        finally:
            os.chdir(here)

    def weights(name: str, work: Path) -> None:
        at = copied(folders["adapters"], work / "adapters")
        payloads.edit(at, "adapter_config.json", base_model_name_or_path=str(folders["policy"]))
        (at / "adapter_model.safetensors").unlink()
        (at / name).write_bytes(pickle.dumps(Payload(marker)))
        models.load(ModelConfig(path=str(at)))

    def hidden(work: Path) -> None:
        """Make a model folder with adapters beside its weights, which transformers would add."""
        at = copied(folders["policy"], work / "model")
        for file in folders["adapters"].iterdir():
            shutil.copy(file, at / f"{file.name}")
        payloads.edit(at, "adapter_config.json", **payloads.BAD_ADAPTERS["others"])
        (at / "adapter_model.safetensors").unlink(missing_ok=True)
        (at / "adapter_model.bin").write_bytes(pickle.dumps(Payload(marker)))
        models.load(ModelConfig(path=str(at)))

    more = {"modules": {"modules_to_save": ["mine.Mine"], "auto_mapping": {
        "parent_library": "os", "base_model_class": "system"}}}  # fmt: skip
    return {
        **{name: partial(adapters, edits) for name, edits in payloads.BAD_ADAPTERS.items()},
        **{name: partial(adapters, edits) for name, edits in more.items()},
        "pickle": partial(weights, "adapter_model.bin"),
        "pickle of another name": partial(weights, "adapter_model.safetensors"),
        "within a model": hidden,
    }


def _templates(folders: dict[str, Path], marker: Path) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    row = SftRow((Message("user", "Hello"),), (Message("assistant", "Hi."),))

    def ours(template: str) -> Any:
        tokenizer = bpe_tokenizer_hf()
        tokenizer.chat_template = template
        return tokenizer

    def quiet(template: str, work: Path) -> None:
        """A rendered text must not contain names of classes."""
        try:
            text = rendered(ours(template), messages)
        except Exception:  # a template is a program and can raise any error
            return
        if "<class" in text or "built-in" in text or "root:" in text:
            raise AssertionError(f"it read {text[:60]!r}")

    def rows(template: str, work: Path) -> None:
        turns(ours(template))
        tokenise_sft([row], ours(template), 64)

    def folder(template: str, work: Path, name: str, kind: str) -> Path:
        at = copied(folders[kind], work / "model")
        (at / "chat_template.jinja").unlink(missing_ok=True)
        if name == "chat_template.jinja":
            (at / name).write_text(template, "utf-8")
        elif name == "tokenizer_config.json":
            payloads.edit(at, name, chat_template=template)
        else:
            several = [{"name": "default", "template": template}]
            payloads.edit(at, "tokenizer_config.json", chat_template=several)
        return at

    def read(template: str, work: Path, name: str) -> None:
        _, tokenizer = models.load(ModelConfig(path=str(folder(template, work, name, "policy"))))
        tokenise_sft([row], tokenizer, 64)

    def judged(template: str, work: Path, name: str) -> None:
        judge = reward_model(folder(template, work, name, "judge"))
        judge.margins([Contest((Message("user", "Hello"),), "a", "b")])

    def named(template: str, work: Path) -> None:
        (work / "template").write_text(template, "utf-8")
        config = ModelConfig(path=str(folders["policy"]), chat_template=str(work / "template"))
        tokenise_sft([row], models.load(config)[1], 64)

    found: dict[str, Any] = {}
    for text in escapes(marker):
        found |= {f"rendered, {text}": partial(quiet, text), f"rows, {text}": partial(rows, text)}
        found[f"setting, {text}"] = partial(named, text)
        for name in ("chat_template.jinja", "tokenizer_config.json", "several"):
            found[f"{name}, {text}"] = partial(read, text, name=name)
            found[f"judge, {name}, {text}"] = partial(judged, text, name=name)
    return found


def _runs(folders: dict[str, Path], marker: Path) -> dict[str, Any]:
    """Files of a run, which resumption, `export` and evaluation read again."""
    plain = pickle.dumps(Payload(marker))

    def surroundings(at: Path) -> Path:
        return at / "checkpoints" / "model"

    def newest(at: Path) -> Path:
        return sorted((at / "checkpoints").glob("step-*"))[-1]

    def code(at: Path) -> None:
        payloads.plant(surroundings(at), marker)
        payloads.edit(surroundings(at), "config.json", auto_map={"AutoConfig": "mine.Mine"},
                      _attn_implementation=payloads.KERNEL)  # fmt: skip

    harms: dict[str, Callable[[Path], Any]] = {
        "code beside checkpoints": code,
        "kernel": lambda at: payloads.edit(
            surroundings(at), "config.json", _attn_implementation=payloads.KERNEL
        ),
        "tokenizer": lambda at: payloads.edit(
            surroundings(at), "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.M"] * 2}
        ),
        "generation": lambda at: payloads.edit(
            surroundings(at), "generation_config.json", custom_generate=payloads.KERNEL
        ),
        "base": lambda at: payloads.edit(
            surroundings(at), "about.json", base="someone/model", adapter="default"
        ),
        **{
            f"pickle {name}": (lambda at, n=name: (newest(at) / n).write_bytes(plain))
            for name in (
                "policy.safetensors",
                "optimizer.safetensors",
                "reference.safetensors",
                "state.json",
                "optimizer.pt",
                "pytorch_model.bin",
            )
        },
        "pickle frozen": lambda at: (surroundings(at) / "frozen.safetensors").write_bytes(plain),
    }
    readers: dict[str, Callable[[Path], Any]] = {
        "resumption": lambda at: llm_runs.trainer(output=at, save_every=2).train(progress=False),
        "export": lambda at: export(at, at.parent / "out"),
        "evaluation": lambda at: load_policy(str(at)),
        "outline": lambda at: models.without_weights(str(at)),
    }

    def read(harm: Callable[[Path], Any], reader: Callable[[Path], Any], work: Path) -> None:
        at = copied(folders["run"], work / "run")
        harm(at)
        reader(at)

    return {
        f"{how}, {name}": partial(read, harm, reader)
        for how, reader in readers.items()
        for name, harm in harms.items()
    }
