"""No code from a model folder: payloads that touch a marker, over every path that reads a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.modeling_utils
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_payloads import (
    BAD_ADAPTERS,
    HARMS,
    KERNEL,
    READERS,
    TEMPLATES,
    classifier,
    edit,
    pickled,
    plant,
)
from llm_runs import preference_rows, sft_rows
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForSequenceClassification
from typer.testing import CliRunner

from tradeoff.cli import app
from tradeoff.data.rows import Message, SftRow
from tradeoff.errors import InputError
from tradeoff.llm import _pretrained, models
from tradeoff.llm._data import tokenise_sft
from tradeoff.llm._turns import rendered
from tradeoff.llm.config import Lora, ModelConfig
from tradeoff.llm.evaluation import Contest, reward_model
from tradeoff.networks.hugging_face import load_llama


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A causal model, a reward model, and adapters without their base."""
    root, tokenizer = tmp_path_factory.mktemp("models"), bpe_tokenizer_hf()
    model = tiny_llama(len(tokenizer))
    model.save_pretrained(root / "policy")
    tokenizer.save_pretrained(root / "policy")
    adapted = models.with_adapters(model, Lora(rank=2, targets=("q_proj",)))
    adapted.save_pretrained(root / "adapters")
    return {name: root / name for name in ("policy", "adapters")} | {
        "judge": classifier(root / "judge")
    }


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once a payload has run. Fetching a kernel also counts as running it."""
    file = tmp_path / "marker"

    def fetched(name: Any, *_: Any, **__: Any) -> None:
        file.write_text(f"fetched {name}", "utf-8")

    monkeypatch.setattr(
        transformers.modeling_utils, "lazy_import_flash_attention", fetched, raising=False
    )
    return file


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Any:
    shutil.copytree(folders["adapters"], tmp_path / "adapters")

    def copy(reader: str) -> Path:
        kind = "judge" if reader == "judge" else "policy"
        return Path(shutil.copytree(folders[kind], tmp_path / "model"))

    return copy


@pytest.mark.parametrize(
    ("reader", "harm"),
    [("settings", harm) for harm in HARMS]
    + [(reader, harm) for reader in READERS for harm in ("kernel", "generate", "model code")],
)
def test_settings_that_choose_code_are_refused(copied, marker, reader, harm):
    place = copied(reader)
    HARMS[harm](place)
    with pytest.raises(InputError, match="can be loaded"):
        READERS[reader](place)
    assert not marker.exists()


@pytest.mark.parametrize("reader", ["policy", "base", "judge"])
def test_pickled_weights_are_refused(copied, reader):
    place = copied(reader)
    pickled(place)
    with pytest.raises(InputError, match=r"can be loaded|these weights are pickled"):
        READERS[reader](place)


@pytest.mark.parametrize("reader", ["policy", "base", "judge"])
def test_an_index_of_pickled_weights_is_refused(copied, reader):
    place = copied(reader)
    pickled(place)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model.bin"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(InputError, match=r"names pytorch_model\.bin, which holds no safetensors"):
        READERS[reader](place)


@pytest.mark.parametrize("reader", READERS)
def test_code_beside_a_known_model_is_not_run(copied, marker, reader):
    place = copied(reader)
    plant(place, marker)
    shutil.rmtree(place / "custom_generate")
    autos = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    edit(place, "config.json", auto_map=dict.fromkeys(autos, "mine.Mine"))
    edit(place, "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", "mine.Mine"]})
    READERS[reader](place)
    assert not marker.exists()


@pytest.mark.parametrize("command", ["train", "reference", "evaluate", "judge"])
def test_no_command_runs_code_of_a_model(copied, folders, marker, tmp_path, command):
    place, known = copied(command), folders["policy"]
    plant(place, marker)
    edit(place, "config.json", _attn_implementation=KERNEL, auto_map={"AutoConfig": "mine.Mine"})
    rows = {"sft": sft_rows(4), "preference": preference_rows(4)}
    for name, part in rows.items():
        lines = "".join(f"{json.dumps(vars(row))}\n" for row in part)
        (tmp_path / f"{name}.jsonl").write_text(lines, "utf-8")
    trained = ["--sft", tmp_path / "sft.jsonl", "--preference", tmp_path / "preference.jsonl"]
    trained += ["--out", tmp_path / "out", "--steps", 1]
    arguments = {
        "train": ["train", "--model", place, *trained],
        "reference": ["train", "--model", known, "--set", f"train.reference={place}", *trained],
        "evaluate": ["evaluate", place, "--sft", tmp_path / "sft.jsonl"],
        "judge": ["evaluate", known, "--win-rate", trained[3], "--judge", place],
    }
    done = CliRunner().invoke(app, list(map(str, arguments[command])))
    assert isinstance(done.exception, InputError)
    assert "could run code" in str(done.exception)
    assert not marker.exists()


@pytest.mark.parametrize("named", ["flex_attention", {"": "eager"}])
@pytest.mark.parametrize("asked", ["eager", None])
def test_the_attention_is_ours_and_not_the_folders(copied, named, asked):
    place = copied("policy")
    edit(place, "config.json", _attn_implementation=named, attn_implementation=named)
    model, _ = models.load(ModelConfig(path=str(place), attention=asked))
    assert model.config._attn_implementation == (asked or "sdpa")


@pytest.mark.parametrize("name", [KERNEL, "paged|sdpa", "flash", "kernel:layer"])
def test_attention_that_is_asked_for_must_be_known(folders, name):
    with pytest.raises(InputError, match="field 'attention': no such attention"):
        _pretrained.read(str(folders["policy"]), "CausalLM", dtype=torch.float32, attention=name)


def test_flash_attention_is_not_fetched_from_a_hub(folders, marker, monkeypatch):
    monkeypatch.setattr(_pretrained, "find_spec", lambda name: name == "kernels" or None)
    with pytest.raises(InputError, match="flash_attn is not installed"):
        models.load(ModelConfig(path=str(folders["policy"]), attention="flash_attention_2"))
    assert not marker.exists()
    monkeypatch.setattr(_pretrained, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"flash_attn is not installed \(.*Install flash_attn, or"):
        models.load(ModelConfig(path=str(folders["policy"]), attention="flash_attention_2"))


def test_what_the_model_uses_is_compared_with_what_was_chosen(folders):
    model = tiny_llama(8)
    model.model.layers[0].self_attn.config = LlamaConfig(attn_implementation="flex_attention")
    with pytest.raises(ValueError, match="flex_attention"):
        _pretrained._check_attention_of(model, "sdpa")


def test_a_llama_is_read_without_what_its_folder_chooses(copied, marker):
    place = copied("policy")
    edit(place, "config.json", _attn_implementation=KERNEL, attn_implementation=KERNEL)
    assert load_llama(place).config._attn_implementation == "sdpa"
    assert not marker.exists()


@pytest.mark.parametrize("harm", BAD_ADAPTERS)
def test_adapters_that_bring_code_are_refused(folders, copied, tmp_path, harm):
    place = tmp_path / "adapters"
    copied("policy")
    base = {"base_model_name_or_path": str(folders["policy"])}
    edit(place, "adapter_config.json", **base)
    models.load(ModelConfig(path=str(place)))
    edit(place, "adapter_config.json", **BAD_ADAPTERS[harm])
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        models.load(ModelConfig(path=str(place)))


def test_pickled_adapters_and_chains_are_refused(folders, copied, tmp_path):
    copied("policy")
    place, chain = tmp_path / "adapters", tmp_path / "chain"
    edit(place, "adapter_config.json", base_model_name_or_path=str(folders["policy"]))
    shutil.copytree(place, chain)
    edit(chain, "adapter_config.json", base_model_name_or_path=str(place))
    with pytest.raises(InputError, match="no base model but"):
        models.load(ModelConfig(path=str(chain)))
    torch.save(load_file(place / "adapter_model.safetensors"), place / "adapter_model.bin")
    (place / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        models.load(ModelConfig(path=str(place)))


@pytest.mark.parametrize("harm", TEMPLATES)
def test_a_chat_template_reaches_nothing(copied, marker, harm):
    place = copied("judge")
    template = TEMPLATES[harm].replace("MARKER", str(marker))
    (place / "chat_template.jinja").write_text(template, "utf-8")
    judge = reward_model(place)
    turns = (Message("user", "Hello"),)
    with pytest.raises(InputError, match="chat template cannot render"):
        judge.margins([Contest(turns, "a", "b")])
    row = SftRow(turns, (Message("assistant", "Hello."),))
    tokenizer = bpe_tokenizer_hf()
    tokenizer.chat_template = template
    with pytest.raises(InputError, match="the chat template"):
        tokenise_sft([row], tokenizer)
    assert not marker.exists()


@pytest.mark.parametrize(
    "template",
    ["{{ ('{0.__class__}' | attr('format'))('') }}", "{{ messages | attr('__class__') }}"],
)
def test_a_chat_template_that_asks_in_a_roundabout_way_is_given_nothing(template):
    tokenizer = bpe_tokenizer_hf()
    tokenizer.chat_template = template
    assert rendered(tokenizer, [{"role": "user", "content": "a"}]) == ""


@pytest.mark.parametrize("names", [{"dtype": "mine.Mine"}, {"hidden_act": "mine.Mine"}])
@pytest.mark.parametrize("reader", ["policy", "random", "judge"])
def test_names_that_transformers_lacks_are_refused(copied, reader, names):
    place = copied(reader)
    edit(place, "config.json", **names)
    with pytest.raises(InputError, match=r"can be loaded: .*Mine"):
        READERS[reader](place)


def test_a_llama_without_weights_is_refused(copied):
    place = copied("policy")
    (place / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no Llama can be loaded"):
        load_llama(place)


# ------------------------------------------------------------------------------ missing weights


def changed_weights(place: Path, name: str, value: torch.Tensor | None) -> None:
    weights = load_file(place / "model.safetensors")
    del weights[name]
    if value is not None:
        weights[name] = value
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["score.weight", "model.layers.0.mlp.up_proj.weight"])
def test_a_judge_without_some_of_its_weights_is_an_error(copied, name):
    place = copied("judge")
    changed_weights(place, name, None)
    with pytest.raises(InputError, match=f"lack 1 of its weights, such as {name}"):
        reward_model(place)


def test_a_text_without_tokens_has_no_reward(copied):
    judge = reward_model(copied("judge"))
    judge.tokenizer.chat_template = "{{ '' }}"
    with pytest.raises(InputError, match="no tokens"):
        judge.margins([Contest((Message("user", "Hello"),), "a", "b")])


def test_a_causal_model_is_no_judge(copied):
    place = copied("policy")
    edit(place, "config.json", num_labels=1, id2label={"0": "reward"})
    with pytest.raises(InputError, match="this is a policy"):
        reward_model(place)


@pytest.mark.parametrize("name", ["score.weight", "model.norm.weight"])
def test_a_judge_with_weights_of_another_shape_is_an_error(copied, name):
    place = copied("judge")
    changed_weights(place, name, torch.ones(3, 5))
    with pytest.raises(InputError, match="no reward model can be loaded"):
        reward_model(place)


def test_adapters_bring_the_head_of_a_judge(folders, tmp_path):
    """Or the base has it. Without a head, rewards would be random."""
    base = tmp_path / "base"
    shutil.copytree(folders["judge"], base)
    model = LlamaForSequenceClassification.from_pretrained(base)
    with models._peft_quiet():
        adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"]))
    with torch.no_grad():
        adapted.base_model.model.score.modules_to_save["default"].weight.fill_(0.5)
    adapted.save_pretrained(tmp_path / "judge")
    bpe_tokenizer_hf().save_pretrained(tmp_path / "judge")
    changed_weights(base, "score.weight", None)
    with pytest.raises(InputError, match=r"score\.weight"):
        reward_model(base)
    head = reward_model(tmp_path / "judge").model.base_model.model.score
    assert (head.modules_to_save["default"].weight == 0.5).all()
    edited = load_file(tmp_path / "judge" / "adapter_model.safetensors")
    kept = {name: value for name, value in edited.items() if "score" not in name}
    save_file(kept, tmp_path / "judge" / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"score\.weight"):
        reward_model(tmp_path / "judge")
