"""A TRL script becomes a joint one: its fields are used or rejected by name, with TRL's results."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets
import llm_trl
import pytest
import torch
import trl
import yaml
from chat_tokenizers import chat_tokenizer
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import preference_rows, sft_rows
from packaging.version import Version
from peft import AutoPeftModelForCausalLM, LoraConfig, PromptTuningConfig
from transformers import (
    AutoModelForCausalLM,
    EarlyStoppingCallback,
    TrainerCallback,
    TrainingArguments,
)
from trl import DPOConfig, SFTConfig, SyncRefModelCallback
from typer.testing import CliRunner

from tradeoff import experiment
from tradeoff.cli import app
from tradeoff.data import read_preferences, read_sft
from tradeoff.data.columns import columns_of
from tradeoff.errors import InputError
from tradeoff.methods.losses import Dpo, RobustDpo
from tradeoff.records import read_json
from tradeoff.schedules import Alright, Mix
from tradeoff.trl import joint_trainer, read_yaml, train_config

pytestmark = pytest.mark.filterwarnings(llm_trl.IGNORED)
TOKENIZER = bpe_tokenizer_hf()
SFT, PAIRS = sft_rows(), preference_rows()


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def of(rows: Any) -> datasets.Dataset:
    return datasets.Dataset.from_list([asdict(row) for row in rows])


def arguments(folder: Any, **both: Any) -> dict[str, Any]:
    """Both configurations of a script."""
    given = {**llm_trl.settings(folder, 8, 2, 2), **both}
    return {"sft_args": SFTConfig(**given), "dpo_args": DPOConfig(**given)}


def joint(folder: Any, schedule: Any = None, **more: Any) -> Any:
    args = more.pop("args", None) or arguments(folder)
    sft, pairs = more.pop("rows", (SFT, PAIRS))
    return joint_trainer(
        more.pop("model", None) or tiny_llama(len(TOKENIZER)),
        **args,
        sft_dataset=of(sft),
        dpo_dataset=of(pairs),
        processing_class=copy.deepcopy(TOKENIZER),
        schedule=schedule,
        **more,
    )


# ---------------------------------------------------------------------- both ends


# Before this version, TRL gives the first token of a response no loss if it begins in the prompt.
AT_THE_BORDER = Version(trl.__version__) >= Version("1.14.2")


def apart(row: Any) -> Any:
    """The row with the blank at the end of its prompt moved into the responses."""
    given = {k: f" {v}" for k, v in asdict(row).items() if k != "prompt" and isinstance(v, str)}
    return replace(row, prompt=row.prompt.rstrip(), **given)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_both_ends_are_the_trainers_of_trl(
    lam: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm_trl.in_order(monkeypatch)
    model = tiny_llama(len(TOKENIZER))
    # Half of the rows have a token over the border between prompt and response.
    sft, pairs = ([*rows[:10], *map(apart, rows[10:])] for rows in (SFT, PAIRS))
    if not AT_THE_BORDER:
        sft, pairs = list(map(apart, SFT)), list(map(apart, PAIRS))
    args = arguments(tmp_path)
    args["dpo_args"].max_length = 24  # Cuts responses, which demonstrations have longer.
    theirs = (
        llm_trl.dpo(model, model, TOKENIZER, pairs, tmp_path / "theirs", max_length=24)
        if lam
        else llm_trl.sft(model, TOKENIZER, sft, tmp_path / "theirs")
    )
    theirs.train()
    ours = joint(
        tmp_path / "ours", Alright(lam=lam), model=copy.deepcopy(model), steps=8,
        rows=(sft, pairs), args=args,
    )  # fmt: skip
    longest = [max(map(max, (x.lengths for x in ours.data.training(i)))) for i in (0, 1)]
    assert longest[0] > longest[1] == 24
    ours.train(progress=False)
    both = zip(ours.model.parameters(), theirs.model.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in both) <= 1e-5
    moved = zip(ours.model.parameters(), model.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in moved) > 1e-3


def test_a_token_over_the_border_carries_loss(tmp_path: Path) -> None:
    """It is the only difference from older versions of TRL."""
    rows = [SFT[0], apart(SFT[1])]
    theirs = llm_trl.sft(tiny_llama(len(TOKENIZER)), TOKENIZER, rows, tmp_path)
    ours = joint(tmp_path, rows=(rows, PAIRS))
    for place, over in enumerate((True, False)):
        batch = theirs.data_collator([theirs.train_dataset[place]])
        item = ours.data.training(0)[place]
        assert batch["input_ids"][0].tolist() == item.tokens.tolist()
        labels = int((batch["labels"] != -100).sum())
        assert item.scored == labels + (over and not AT_THE_BORDER)


def test_left_to_itself_it_does_as_many_updates_as_both(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    args["dpo_args"].max_steps = 4
    made = joint(tmp_path, args=args)
    assert made.steps == 12
    assert made.schedule == Alright(lam=1 / 3)


# ---------------------------------------------------------------------- fields


def test_fields_are_taken_over(tmp_path: Path) -> None:
    args = arguments(
        tmp_path, lr_scheduler_type="cosine", warmup_steps=2, eval_strategy="steps",
        eval_steps=5, save_strategy="steps", save_steps=0.25, save_total_limit=3, seed=7,
        max_grad_norm=0.0,
    )  # fmt: skip
    sft, dpo = args["sft_args"], args["dpo_args"]
    dpo.learning_rate, dpo.beta, dpo.loss_type = 1e-6, 0.3, ["ipo"]
    dpo.per_device_train_batch_size = 1
    assert train_config(sft, dpo, (20, 20)).preference_max_length is None
    dpo.max_length = 20
    found = train_config(sft, dpo, (20, 20))
    assert (found.max_length, found.preference_max_length) == (llm_trl.LENGTH, 20)
    assert (found.steps, found.batch_size, found.preference_batch_size) == (16, 4, 2)
    assert (found.rows_per_forward, found.decay, found.warmup) == (1, "cosine", 2)
    assert (found.learning_rate, found.preference_learning_rate) == (llm_trl.RATE, 1e-6)
    assert (found.loss, found.beta, found.clip, found.betas) == ("ipo", 0.3, None, (0.9, 0.95))
    assert (found.evaluate_every, found.save_every, found.keep, found.seed) == (5, 4, 3, 7)
    sft.max_steps = dpo.max_steps = -1
    sft.num_train_epochs, dpo.num_train_epochs = 2, 1
    assert train_config(sft, dpo, (20, 21)).steps == 2 * 5 + 11


def test_all_that_cannot_be_taken_over_is_named_in_one_error(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    sft, dpo = args["sft_args"], args["dpo_args"]
    sft.packing, sft.neftune_noise_alpha, sft.adam_beta2 = True, 5.0, 0.9
    dpo.ld_alpha, dpo.loss_type, dpo.sync_ref_model = 0.5, ["sigmoid", "sft"], True
    with pytest.raises(InputError) as error:
        train_config(sft, dpo, (20, 20))
    for text in (
        "SFTConfig.packing = True", "SFTConfig.neftune_noise_alpha = 5.0",
        "adam_beta2 is 0.9 for SFT and 0.95 for DPO", "DPOConfig.ld_alpha = 0.5",
        "DPOConfig.loss_type = ['sigmoid', 'sft']", "DPOConfig.sync_ref_model = True",
    ):  # fmt: skip
        assert text in str(error.value)


def test_a_field_of_one_loss_counts_where_that_loss_is_trained(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    sft, dpo = args["sft_args"], args["dpo_args"]
    dpo.discopop_tau = 0.2
    assert train_config(sft, dpo, (20, 20)).loss == "sigmoid"
    dpo.loss_type = ["discopop"]
    with pytest.raises(InputError, match=r"discopop_tau = 0\.2"):
        train_config(sft, dpo, (20, 20))


def test_robust_dpo_has_the_smoothing_of_its_configuration(tmp_path: Path) -> None:
    """TRL has none by default, this package's loss has some."""
    args = arguments(tmp_path)
    sft, dpo = args["sft_args"], args["dpo_args"]
    dpo.loss_type = ["robust"]
    assert train_config(sft, dpo, (20, 20)).preference_loss() == Dpo(beta=0.1)
    dpo.label_smoothing = 0.2
    assert train_config(sft, dpo, (20, 20)).preference_loss() == RobustDpo(label_smoothing=0.2)


def test_a_field_without_effect_on_the_result_is_free(tmp_path: Path) -> None:
    args = arguments(tmp_path, use_liger_kernel=True, resume_from_checkpoint=True, tf32=False)
    assert train_config(args["sft_args"], args["dpo_args"], (20, 20)).steps == 16
    for more, named in (
        ({"resume_from_checkpoint": "runs/old"}, r"= 'runs/old' \(train\(\) goes on"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches"),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "patience = N"),
    ):
        if "load_best_model_at_end" in more:
            more |= {"eval_strategy": "no"}
        args = arguments(tmp_path, **more)
        with pytest.raises(InputError, match=named):
            train_config(args["sft_args"], args["dpo_args"], (20, 20))
    args["sft_args"].dataset_kwargs = {"skip_prepare_dataset": True}
    with pytest.raises(InputError, match=r"dataset_kwargs.*tokenised here"):
        train_config(args["sft_args"], args["dpo_args"], (20, 20))


def test_every_field_of_trl_is_known_or_refused(tmp_path: Path) -> None:
    """With all fields at their defaults nothing is rejected, whatever fields a version has."""
    args = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "bf16": False}
    found = train_config(SFTConfig(**args), DPOConfig(**args), (20, 20))
    assert (found.decay, found.max_length, found.gradient_checkpointing) == ("linear", 1024, True)


def test_objects_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ref_model"):
        joint(tmp_path, ref_model=tiny_llama(len(TOKENIZER)))
    with pytest.raises(InputError, match="processing_class"):
        joint_trainer(
            tiny_llama(9), **arguments(tmp_path), sft_dataset=of(SFT), dpo_dataset=of(PAIRS)
        )
    args = arguments(tmp_path, max_steps=-1)
    with pytest.raises(InputError, match="max_steps"):
        joint_trainer(
            tiny_llama(9), **args, sft_dataset=iter(()), dpo_dataset=of(PAIRS),
            processing_class=TOKENIZER,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"peft_config": {"r": 2}}, "peft_config.*such as LoraConfig"),
        ({"formatting_func": str}, r"formatting_func.*sft_dataset\.map"),
        ({"tokenizer": TOKENIZER}, "tokenizer.*processing_class"),
        ({"learning_rat": 1.0}, "learning_rat.*fields of TrainConfig"),
        ({"callbacks": [EarlyStoppingCallback(2)]}, "patience = 2"),
        ({"callbacks": [SyncRefModelCallback(None, None)]}, "does not move.*tr_dpo"),
        ({"callbacks": ["wandb"]}, "cannot be called"),
        ({"model_init_kwargs": {}}, "model_init_kwargs"),
    ],
)
def test_an_argument_of_another_kind_is_refused(
    given: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=match):
        joint(tmp_path, **given)


def test_configurations_of_another_kind_are_refused(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    plain = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    for wrong, match in (
        ({**args, "sft_args": plain}, "sft_args.*SFTConfig"),
        ({"sft_args": args["dpo_args"], "dpo_args": args["sft_args"]}, "sft_args.*DPOConfig"),
        ({**args, "dpo_args": {"beta": 0.1}}, "dpo_args.*dict"),
    ):
        with pytest.raises(InputError, match=match):
            joint(tmp_path, args=wrong)


# ---------------------------------------------------------------------- objects of a script


def test_adapters_are_those_of_trl_in_every_run_of_a_script(tmp_path: Path) -> None:
    """TRL seeds them; a run whose adapters differ could not be resumed."""
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = tiny_llama(len(TOKENIZER))
    theirs = llm_trl.sft(model, TOKENIZER, SFT, tmp_path, steps=1, peft_config=lora).model
    for _ in range(2):
        torch.rand(7)
        made = joint(tmp_path, model=copy.deepcopy(model), peft_config=lora)
        both = zip(made.model.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in both)
    with pytest.raises(InputError, match="adapters already"):
        joint(tmp_path, model=made.model, peft_config=lora)


def test_adapters_of_each_kind_are_trained_or_refused(tmp_path: Path) -> None:
    tokens = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3])
    made = joint(tmp_path, Mix(lam=0.5), peft_config=tokens, steps=1)
    assert made.train(progress=False).summary["steps"] == 1
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(InputError, match="tokens before the prompt"):
        joint(tmp_path, peft_config=prompt)


@pytest.mark.parametrize("field", ["text", "body"])
def test_texts_beside_other_columns_are_read_as_trl_reads_them(field: str, tmp_path: Path) -> None:
    """All of the text has loss, although the row has instruction and output, too."""
    end = TOKENIZER.eos_token
    rows = [
        {"instruction": r.prompt, "output": r.completion, field: f"{r.prompt}{r.completion}{end}"}
        for r in SFT
    ]
    args = arguments(tmp_path)
    args["sft_args"].dataset_text_field = field
    given = {**args, "dpo_dataset": of(PAIRS), "processing_class": copy.deepcopy(TOKENIZER)}
    for source in (made := datasets.Dataset.from_list(rows), made.to_iterable_dataset()):
        ours = joint_trainer(tiny_llama(len(TOKENIZER)), **given, sft_dataset=source)
        for row, item in zip(rows, ours.data.training(0), strict=False):
            assert item.tokens.tolist() == TOKENIZER(row[field])["input_ids"]
            assert item.scored == len(item.tokens) - 1
    args["sft_args"].dataset_text_field = "other"
    with pytest.raises(InputError, match="dataset_text_field"):
        joint_trainer(tiny_llama(len(TOKENIZER)), **given, sft_dataset=rows)


def test_a_model_given_by_name_is_loaded_as_the_fields_say(made: Path, tmp_path: Path) -> None:
    given = {"sft_dataset": of(SFT), "dpo_dataset": of(PAIRS)}
    args = arguments(tmp_path, model_init_kwargs={"attn_implementation": "eager"})
    trainer = joint_trainer(str(made / "model"), **args, **given)
    assert trainer.model.config._attn_implementation == "eager"
    for key, value in (("revision", "step1000"), ("quantization_config", {})):
        args = arguments(tmp_path, model_init_kwargs={key: value})
        with pytest.raises(InputError, match=f"model_init_kwargs.*{key}"):
            joint_trainer(str(made / "model"), **args, **given)
    args = arguments(tmp_path, model_init_kwargs={"dtype": "bfloat16"})
    with pytest.warns(UserWarning, match="dtype = bfloat16 is not applied"):
        joint_trainer(str(made / "model"), **args, **given)
    # The tokenizer of a model that was loaded from a folder, as TRL finds it.
    model = AutoModelForCausalLM.from_pretrained(made / "model")
    found = joint_trainer(model, **arguments(tmp_path), **given).tokenizer
    assert found.get_vocab() == TOKENIZER.get_vocab()
    with pytest.raises(InputError, match="no tokenizer"):
        joint_trainer(model, **arguments(tmp_path), **given, processing_class="model")


def test_an_optimizer_of_ones_own_is_handed_on(tmp_path: Path) -> None:
    made = joint(
        tmp_path, Mix(lam=0.5), steps=1,
        optimizer=lambda groups, config: torch.optim.SGD(groups, lr=config.learning_rate),
    )  # fmt: skip
    assert isinstance(made.optimizer.optimizer, torch.optim.SGD)


class Watch(TrainerCallback):
    """Record the calls of the callback, and stop the training."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.seen.append(("begin", state.max_steps, given["model"] is not None))

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
        control.should_training_stop = state.global_step == 3
        control.should_save = state.global_step == 1
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **given: Any) -> None:
        self.seen.append(sorted(name for name in logs if name.endswith("sft_loss")))

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.seen.append(("save", state.global_step))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.seen.append(("end", state.global_step))


def test_datasets_adapters_and_callbacks_are_taken_as_they_are(tmp_path: Path) -> None:
    watch = Watch()
    lora = LoraConfig(r=2, target_modules=["q_proj"], use_rslora=True, task_type="CAUSAL_LM")
    made = joint(
        tmp_path,
        Mix(lam=0.5),
        peft_config=lora,
        callbacks=[watch],
        sft_eval_dataset=of(SFT[:2]),
        dpo_eval_dataset=of(PAIRS[:2]),
        chosen_nll=0.5,
        evaluate_every=100,
    )
    result = made.train(progress=False)
    assert result.summary["steps"] == 3
    assert result.table.preference_loss.notna().all()
    assert made.config.chosen_nll == 0.5
    assert made.model.peft_config["default"].use_rslora
    assert watch.seen == [
        ("begin", 16, True),
        ["eval_sft_loss"],
        ("save", 1),
        ("save", 3),
        ("end", 3),
    ]


# ---------------------------------------------------------------------- the rest of a script


@pytest.mark.parametrize("adapters", [False, True])
def test_what_scripts_call_after_training(
    adapters: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    more: dict[str, Any] = {"peft_config": lora} if adapters else {}
    made = joint(tmp_path, Mix(lam=0.5), sft_eval_dataset=of(SFT[:2]), **more)
    with pytest.raises(InputError, match="no trained model yet"):
        made.save_model(tmp_path)
    done = made.train(resume_from_checkpoint=None, progress=False)
    metrics = done.metrics
    assert metrics["eval_sft_loss"] == done.table.sft_loss.iloc[-1]
    assert metrics["train_preference/loss"] == done.log["preference/loss"].iloc[-1]
    assert done.global_step == done.summary["steps"] == 16
    metrics["train_samples"] = len(SFT)
    made.log_metrics("train", metrics)
    assert "***** train metrics *****" in capsys.readouterr().out
    made.save_metrics("train", metrics)
    made.save_metrics("eval", {"eval_rows": 2})
    assert read_json(tmp_path / "train_results.json") == pytest.approx(metrics, rel=1e-5)
    together = read_json(tmp_path / "all_results.json")
    assert together == pytest.approx({**metrics, "eval_rows": 2}, rel=1e-5)
    made.save_state()
    made.create_model_card(dataset_name="own", tags=["joint"])
    if made.is_world_process_zero():
        made.accelerator.print("saved")
    before = {path.name for path in tmp_path.iterdir()}
    made.save_model(str(tmp_path))
    made.save_model(tmp_path / "elsewhere" / "policy")
    assert before < {path.name for path in tmp_path.iterdir()}
    kind = AutoPeftModelForCausalLM if adapters else AutoModelForCausalLM
    trained = {k: v for k, v in made.model.state_dict().items() if "lora" in k or not adapters}
    for folder in (tmp_path, tmp_path / "elsewhere" / "policy", tmp_path / "model"):
        found = kind.from_pretrained(folder).state_dict()
        for name, value in trained.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0)
    with pytest.warns(UserWarning, match=f"nothing was uploaded.*hf upload .*{tmp_path}/model"):
        made.push_to_hub(dataset_name="own")


def test_a_script_resumes_from_its_own_newest_checkpoint_alone(tmp_path: Path) -> None:
    first = joint(tmp_path / "a", Mix(lam=0.5))
    with pytest.raises(InputError, match="or None, to begin"):
        first.train(str(tmp_path / "a"), progress=False)
    done = first.train(progress=False)
    newest = max((tmp_path / "a" / "checkpoints").glob("step-*"))
    for given in (True, tmp_path / "a", str(newest), None):
        again = joint(tmp_path / "a", Mix(lam=0.5))
        assert again.train(given, progress=False).log.equals(done.log)
        assert again.step == 16
    with pytest.raises(InputError, match="its own output folder"):
        joint(tmp_path / "b", Mix(lam=0.5)).train(newest, progress=False)
    anew = joint(tmp_path / "a", Mix(lam=0.5)).train(False, progress=False)
    assert not anew.table.seconds.equals(done.table.seconds)


class Epochs(TrainerCallback):
    """Wait for the ends of epochs, and ask for evaluations."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        raise AssertionError

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        control.should_evaluate = True


def test_what_a_callback_wishes_in_vain_is_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Epochs has on_epoch_end, which a joint run never calls"):
        made = joint(tmp_path, Mix(lam=0.5), callbacks=[Epochs], steps=1)
    with pytest.warns(UserWarning, match="should_evaluate"):
        made.train(progress=False)


def test_whole_conversations_are_trained_on_the_turns_of_the_assistant(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = datasets.Dataset.from_list([{"messages": said * 2}] * 4)
    tokenizer = chat_tokenizer()
    given = {**arguments(tmp_path), "processing_class": tokenizer, "dpo_dataset": of(PAIRS)}
    for turns, count in (("last", 4), ("all", 8)):
        model = tiny_llama(len(tokenizer))
        with pytest.warns(UserWarning, match="loss on every token|turn of the assistant is a row"):
            made = joint_trainer(model, **given, sft_dataset=rows, turns=turns)
        assert len(made.data.sft) == count


def test_loss_on_the_assistant_only_needs_no_warning_but_of_the_rows(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = datasets.Dataset.from_list([{"messages": said * 2}] * 4)
    tokenizer = chat_tokenizer()
    args = arguments(tmp_path)
    args["sft_args"].assistant_only_loss = True
    given = {**args, "processing_class": tokenizer, "dpo_dataset": of(PAIRS)}
    with pytest.warns(UserWarning, match="4 conversations are 8 rows.*batch_size = 8") as said_to:
        made = joint_trainer(tiny_llama(len(tokenizer)), **given, sft_dataset=rows)
    assert (made.config.turns, len(made.data.sft)) == ("all", 8)
    assert not any("every token" in str(warning.message) for warning in said_to)
    # With a completion TRL has loss on no turn before it.
    rows = datasets.Dataset.from_list([{"prompt": said + said[:1], "completion": said[1:]}] * 4)
    made = joint_trainer(tiny_llama(len(tokenizer)), **given, sft_dataset=rows)
    assert (made.config.turns, len(made.data.sft)) == ("last", 4)


def test_an_update_has_the_rows_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = arguments(tmp_path, max_steps=-1, dataloader_drop_last=True)
    found = train_config(args["sft_args"], args["dpo_args"], (20, 23), processes=2)
    assert (found.batch_size, found.rows_per_forward) == (8, 2)
    assert found.steps == sum(3 * math.ceil(n // 4 / 2) for n in (20, 23))
    seen = []
    monkeypatch.setattr(
        "tradeoff.trl.joint.train_config",
        lambda *given, processes, **more: seen.append(processes) or train_config(*given),
    )
    monkeypatch.setattr("tradeoff.llm.setup.launched", lambda: 2)
    with pytest.raises(InputError, match="2 processes"):
        joint(tmp_path)
    assert seen == [2]


def test_sft_on_the_chosen_response_is_added_to_each_pair() -> None:
    from tradeoff.llm._losses import preference
    from tradeoff.llm.config import TrainConfig
    from tradeoff.methods.losses import Rpo

    made = torch.Generator().manual_seed(0)
    policy, fixed = -5 * torch.rand(2, 8, generator=made, dtype=torch.float64)
    lengths = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    config = TrainConfig(beta=0.2, chosen_nll=0.7)
    found = preference(policy, fixed, lengths, config).loss
    expected = preference(policy, fixed, lengths, config, Rpo(beta=0.2, alpha=0.7)).loss
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and rows in the layouts of both programs."""
    folder = tmp_path_factory.mktemp("made")
    tiny_llama(len(TOKENIZER), bos_token_id=0, eos_token_id=1).save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    for name, rows in {"sft": SFT, "dpo": PAIRS}.items():
        lines = [{k: v for k, v in asdict(row).items() if v} for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    registry = {"skills": {"file_name": "sft.jsonl"}, "taste": {"file_name": "dpo.jsonl"}}
    registry["hub"] = {"hf_hub_url": "owner/name", "subset": "en", "split": "train_sft"}
    (folder / "dataset_info.json").write_text(json.dumps(registry), "utf-8")
    return folder


def written(folder: Path, name: str, content: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


def trl_files(made: Path, folder: Path, **more: Any) -> tuple[Path, Path]:
    both = {
        "model_name_or_path": str(made / "model"), "learning_rate": 1e-3, "max_steps": 2,
        "per_device_train_batch_size": 2, "bf16": False, "use_cpu": True, "use_peft": True,
        "lora_r": 2, "lora_target_modules": ["q_proj"], "max_length": 64,
        "gradient_checkpointing": False,
    }  # fmt: skip
    sft = written(folder, "sft.yaml", {**both, "dataset_name": str(made / "sft.jsonl")})
    pairs = {"dataset_name": str(made / "dpo.jsonl"), "beta": 0.3, "learning_rate": 1e-4}
    return sft, written(folder, "dpo.yaml", {**both, **pairs, **more})


def test_files_of_the_command_line_of_trl(made: Path, tmp_path: Path) -> None:
    sft, dpo = trl_files(made, tmp_path)
    flags = ["--plain", "--schedule", "mix", "--out", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(app, ["train", "--from-trl", str(sft), str(dpo), *flags])
    assert done.exit_code == 0, done.output
    found = experiment.settings(tmp_path / "run" / "run.toml", {})
    assert found.make_schedule() == Mix(lam=0.5)
    train = found.train
    assert (train.steps, train.learning_rate, train.preference_learning_rate) == (4, 1e-3, 1e-4)
    assert (train.beta, train.decay, train.holdout) == (0.3, "linear", 0.0)
    assert train.lora is not None
    assert (train.lora.rank, train.lora.alpha, train.lora.targets) == (2, 32, ("q_proj",))
    both = ["train", str(sft), "--from-trl", str(sft), str(dpo)]
    assert "two sources" in str(CliRunner().invoke(app, both).exception)


def test_files_of_llama_factory(made: Path, tmp_path: Path) -> None:
    both = {
        "model_name_or_path": str(made / "model"), "finetuning_type": "lora", "lora_rank": 4,
        "lora_target": "q_proj,v_proj", "dataset_dir": str(made),
        "cutoff_len": 128, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
        "num_train_epochs": 2.0, "lr_scheduler_type": "cosine", "bf16": False, "use_cpu": True,
        "val_size": 0.1, "output_dir": str(tmp_path / "out"), "do_train": True,
        "quantization_bit": 4,
    }  # fmt: skip
    sft = written(tmp_path, "sft.yaml", {**both, "stage": "sft", "dataset": "skills"})
    pairs = {"stage": "dpo", "dataset": "taste", "pref_beta": 0.2, "pref_loss": "sigmoid"}
    dpo = written(tmp_path, "dpo.yaml", {**both, **pairs, "pref_ftx": 0.4})
    found = experiment.settings(None, {}, (), read_yaml(sft, dpo))
    assert found.model.quantise == "nf4"
    train = found.train
    assert (train.steps, train.beta, train.chosen_nll, train.chat) == (12, 0.2, 0.4, True)
    assert (train.max_length, train.holdout, train.learning_rate) == (128, 0.1, 5e-5)
    assert train.lora is not None
    assert (train.lora.rank, train.lora.alpha, train.lora.targets) == (4, 8, ("q_proj", "v_proj"))
    assert found.data.preference == str(made / "dpo.jsonl")
    assert train.turns == "all"
    with pytest.raises(InputError, match="registered"):
        read_yaml(sft, written(tmp_path, "bad.yaml", {**both, **pairs, "dataset": "none"}))
    # As in its own examples: several sets, bf16 wherever it runs, code of a model allowed.
    del both["use_cpu"]
    more = {"dataset": "skills, hub", "bf16": True, "trust_remote_code": True, "max_steps": 2}
    sft = written(tmp_path, "sft.yaml", {**both, "stage": "sft", **more, "mask_history": True})
    more = {"dataset": "taste", "bf16": True, "max_steps": 2}
    found = experiment.settings(
        None, {}, (), read_yaml(sft, written(tmp_path, "dpo.yaml", {**both, **pairs, **more}))
    )
    assert found.data.sft == f"{made / 'sft.jsonl'},owner/name:en@train_sft"
    assert (found.train.turns, found.train.precision) == ("last", "bf16")
    bad = {**both, **pairs, **more, "pref_loss": "orpo", "pref_beta": 0.3}
    with pytest.raises(InputError, match=r"beta = 0\.3.*orpo"):
        read_yaml(sft, written(tmp_path, "dpo.yaml", bad))
    several = {**both, "stage": "sft", "dataset": "skills,hub", "max_samples": 9}
    with pytest.raises(InputError, match="max_samples"):
        read_yaml(written(tmp_path, "sft.yaml", several), dpo)


def test_columns_of_the_registry_are_taken_over(made: Path, tmp_path: Path) -> None:
    both = {
        "model_name_or_path": str(made / "model"), "dataset_dir": str(tmp_path), "use_cpu": True,
        "num_train_epochs": 2.0, "report_to": "none", "val_size": 0.1,
    }  # fmt: skip
    rows = [{"q": r.prompt, "a": r.completion, "output": "not this", "x": 1} for r in SFT]
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    columns = {"prompt": "q", "response": "a"}
    registry = {
        "taste": {"file_name": str(made / "dpo.jsonl"), "ranking": True, "columns": {
            "prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}},
        "odd": {"file_name": "odd.jsonl", "columns": columns},
        "plain": {"file_name": "odd.jsonl"},
        "few": {"file_name": "odd.jsonl", "columns": columns, "num_samples": 3},
        "past": {"file_name": "odd.jsonl", "columns": {**columns, "history": "h"}},
        "tags": {"file_name": "odd.jsonl", "formatting": "sharegpt", "tags": {"role_tag": "who"}},
    }  # fmt: skip
    (tmp_path / "dataset_info.json").write_text(json.dumps(registry), "utf-8")
    dpo = written(tmp_path, "dpo.yaml", {**both, "stage": "dpo", "dataset": "taste"})

    def of_sft(**more: Any) -> Path:
        return written(tmp_path, "sft.yaml", {**both, "stage": "sft", "dataset": "odd", **more})

    table = read_yaml(of_sft(), dpo)
    found = experiment.settings(None, {}, (), table)
    assert found.train.precision == "fp32"  # LLaMA-Factory's default; TRL's is bf16.
    first = read_sft(found.data.sft, columns=columns_of(found.data.columns, "sft"))[0]
    assert str(SFT[0].prompt) in str(first.prompt)
    assert first.completion == SFT[0].completion
    pairs = read_preferences(
        found.data.preference, columns=columns_of(found.data.columns, "preference")
    )
    assert str(PAIRS[0].prompt) in str(pairs[0].prompt)
    for limit in (None, len(SFT)):
        both["max_samples"] = limit
        table = read_yaml(of_sft(dataset="odd,odd"), dpo)
        assert table["data"].get("limit") is None
        assert table["train"]["steps"] == 2 * (5 + 3)  # 40 and 20 rows by eight, twice.
    both["max_samples"] = len(SFT) - 1
    with pytest.raises(InputError, match=f"max_samples = {len(SFT) - 1}"):
        read_yaml(of_sft(dataset="odd,odd"), dpo)
    del both["max_samples"]
    for name, match in (
        ("odd,plain", "plain: another column prompt"),
        ("few", "few: num_samples = 3"),
        ("past", "past: the column history"),
        ("tags", "tags: role_tag = 'who'"),
    ):
        with pytest.raises(InputError, match=match):
            read_yaml(of_sft(dataset=name, max_steps=2), dpo)
    with pytest.warns(UserWarning, match=r"one share of both sets: 0\.3"):
        assert read_yaml(of_sft(val_size=0.3), dpo)["train"]["holdout"] == 0.3


@pytest.mark.filterwarnings("ignore:eval_strategy")
def test_files_are_read_as_the_command_line_of_trl_reads_them(made: Path, tmp_path: Path) -> None:
    """YAML has texts for numbers such as 2e-5, and files repeat defaults."""
    sft, dpo = trl_files(made, tmp_path)
    content = yaml.safe_load(sft.read_text("utf-8"))

    def of_sft(**more: Any) -> Path:
        return written(tmp_path, "sft.yaml", {**content, **more})

    usual: dict[str, Any] = {
        "use_rslora": False,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
    }
    usual |= {"max_prompt_length": None, "deepspeed": None, "fsdp": ""}
    texts: dict[str, Any] = {"learning_rate": "2e-5", "max_steps": "3", "bf16": "false"}
    train = read_yaml(of_sft(**texts, **usual), dpo)["train"]
    assert (train["learning_rate"], train["steps"], train["precision"]) == (2e-5, 5, "fp32")
    wrong: dict[str, Any] = {
        "learning_rate": "fast",
        "deepspeed": "zero3.json",
        "packing": True,
        "foo": 1,
    }
    with pytest.raises(InputError) as error:
        read_yaml(of_sft(**wrong, model_init_kwargs={"revision": "old"}), dpo)
    for text in (
        "learning_rate = 'fast'", "deepspeed = 'zero3.json' (start the script with", "foo = 1",
        "SFTConfig.packing = True", "model_init_kwargs",
    ):  # fmt: skip
        assert text in str(error.value)
    with pytest.warns(UserWarning, match=r"sft\.yaml: dtype = bfloat16 is not applied"):
        read_yaml(of_sft(dtype="bfloat16"), dpo)
    found = read_yaml(of_sft(dataset_text_field="body", assistant_only_loss=True), dpo)
    assert found["data"]["columns"] == {"sft.text": "body"}
    assert found["train"]["turns"] == "all"
    saved = datasets.DatasetDict(train_sft=of(SFT), test_sft=of(SFT[:2]))
    saved.save_to_disk(str(tmp_path / "saved"))
    splits = {"dataset_train_split": "train_sft", "dataset_test_split": "test_sft"}
    more = {"dataset_name": str(tmp_path / "saved"), "eval_strategy": "steps", "eval_steps": 1}
    found = read_yaml(of_sft(**more, **splits, max_steps=-1), dpo)
    assert found["data"]["sft"] == f"{tmp_path / 'saved'}@train_sft"
    assert found["data"]["sft_test"] == f"{tmp_path / 'saved'}@test_sft"


@pytest.mark.filterwarnings("ignore:a joint run holds out")
def test_a_mixture_of_data_sets_is_read_in_order(made: Path, tmp_path: Path) -> None:
    rows = str(made / "sft.jsonl")
    sft, dpo = trl_files(made, tmp_path)
    content = yaml.safe_load(sft.read_text("utf-8"))
    del content["dataset_name"]
    parts: list[dict[str, Any]] = [
        {"path": rows, "columns": ["prompt", "completion"]},
        {"path": "json", "data_files": [rows]},
        {"path": "owner/name", "name": "en", "split": "train[:9]"},
    ]
    mixed = {**content, "datasets": parts, "test_split_size": 0.2, "streaming": False}
    found = read_yaml(written(tmp_path, "sft.yaml", mixed), dpo)
    assert found["data"]["sft"] == f"{rows},{rows},owner/name:en@train[:9]"
    assert found["train"]["holdout"] == 0.2
    # The alignment handbook has other names for the same.
    parts = [{"id": "owner/name", "config": "en", "split": "a", "weight": 1.0}, {"id": rows}]
    handbook = {**content, "dataset_mixture": {"datasets": parts, "test_split_size": 0.1}}
    found = read_yaml(written(tmp_path, "sft.yaml", handbook), dpo)
    assert found["data"]["sft"] == f"owner/name:en@a,{rows}"
    assert found["train"]["holdout"] == 0.1
    for bad, named in (
        ({"path": rows, "fraction": 0.5}, r"datasets\[0\]\.fraction = 0\.5"),
        ({"path": "x/y", "data_dir": "z"}, r"datasets\[0\]\.data_dir"),
        ({"path": "x/y", "data_files": "a.json"}, r"datasets\[0\]\.data_files"),
        ({"name": "en"}, "there is no path"),
    ):
        with pytest.raises(InputError, match=named):
            read_yaml(written(tmp_path, "sft.yaml", {**content, "datasets": [bad]}), dpo)
    for more, named in (
        ({"datasets": rows}, "no list"),
        ({"test_split_size": 100}, "give a share"),
    ):
        with pytest.raises(InputError, match=named):
            read_yaml(written(tmp_path, "sft.yaml", {**mixed, **more}), dpo)


def test_dpo_that_follows_sft_begins_where_sft_begins(made: Path, tmp_path: Path) -> None:
    sft, dpo = trl_files(made, tmp_path, model_name_or_path="someone/skilled")
    with pytest.raises(InputError, match="begins where SFT begins"):
        read_yaml(sft, dpo)
    content = yaml.safe_load(sft.read_text("utf-8"))
    chain = {"output_dir": "data/skilled", "attn_implementation": "sdpa"}
    chain |= {"warmup_ratio": 0.25, "evaluation_strategy": "no", "overwrite_output_dir": True}
    sft = written(tmp_path, "sft.yaml", {**content, **chain})
    later = {**yaml.safe_load(dpo.read_text("utf-8")), "warmup_ratio": 0.25}
    dpo = written(tmp_path, "dpo.yaml", later)
    with pytest.warns(UserWarning, match="what SFT made"):
        found = read_yaml(sft, dpo)
    assert found["model"] == {"path": content["model_name_or_path"], "attention": "sdpa"}
    assert found["train"]["warmup"] == 1
    # LLaMA-Factory goes on with adapters.
    later["model_name_or_path"] = content["model_name_or_path"]
    adapter = written(tmp_path, "dpo.yaml", {**later, "adapter_name_or_path": "saves/skilled"})
    with pytest.warns(UserWarning, match="saves/skilled"):
        read_yaml(sft, adapter)
    adapter = written(tmp_path, "dpo.yaml", {**later, "adapter_name_or_path": "saves/other"})
    with pytest.raises(InputError, match=r"dpo\.yaml: adapter_name_or_path = 'saves/other'"):
        read_yaml(sft, adapter)


def test_what_files_ask_for_in_vain_is_named(made: Path, tmp_path: Path) -> None:
    sft, dpo = trl_files(made, tmp_path, lora_modules_to_save=["lm_head"], lora_r=4)
    with pytest.raises(InputError) as error:
        read_yaml(sft, dpo)
    assert "dpo.yaml: lora_modules_to_save = ['lm_head']" in str(error.value)
    assert "lora is" in str(error.value)
    for content in ("[1]", "a: [", "dataset_name: x"):
        (tmp_path / "bad.yaml").write_text(content, "utf-8")
        with pytest.raises(InputError, match=r"bad\.yaml"):
            read_yaml(tmp_path / "bad.yaml", dpo)


def test_a_value_of_a_wrong_type_is_named(made: Path, tmp_path: Path) -> None:
    sft, dpo = trl_files(made, tmp_path)
    content = yaml.safe_load(sft.read_text("utf-8"))
    wrong = {"lora_r": "sixteen", "lora_dropout": "x", "max_steps": 2.5, "learning_rate": [1e-4]}
    wrong |= {"dataset_name": ["a", "b"], "max_length": True, "use_peft": 3}
    with pytest.raises(InputError) as error:
        read_yaml(written(tmp_path, "sft.yaml", {**content, **wrong}), dpo)
    for text in (
        "lora_r = 'sixteen' (give a whole number)", "lora_dropout = 'x' (give a number)",
        "max_steps = 2.5", "learning_rate = [0.0001]", "dataset_name = ['a', 'b'] (give a text)",
        "max_length = True", "use_peft = 3 (give true or false)", "there is no dataset_name",
    ):  # fmt: skip
        assert text in str(error.value)
    # An empty field has its default, and a bare `no` is false in YAML.
    usual = {"lora_alpha": None, "report_to": None, "eval_strategy": False, "use_peft": "true"}
    found = read_yaml(written(tmp_path, "sft.yaml", {**content, **usual}), dpo)
    assert found["train"]["lora"]["alpha"] == 32
    with pytest.raises(InputError, match="there is no model_name_or_path"):
        read_yaml(written(tmp_path, "sft.yaml", {**content, "model_name_or_path": None}), dpo)
    factory = {"stage": "sft", "dataset": "skills,skills", "dataset_dir": str(made)}
    factory |= {"model_name_or_path": str(made / "model"), "max_steps": 2, "use_cpu": True}
    taste = {**factory, "stage": "dpo", "dataset": "taste"}
    bad = {"lora_rank": "eight", "max_samples": "all", "val_size": "ten", "dataset": None}
    with pytest.raises(InputError) as error:
        read_yaml(
            written(tmp_path, "sft.yaml", {**factory, **bad}),
            written(tmp_path, "dpo.yaml", {**taste, "pref_ftx": [1]}),
        )
    for text in (
        "lora_rank = 'eight'", "max_samples = 'all'", "val_size = 'ten'", "pref_ftx = [1]",
        "there is no dataset (",
    ):  # fmt: skip
        assert text in str(error.value)
    found = read_yaml(
        written(tmp_path, "sft.yaml", {**factory, "max_samples": "1e3", "lora_target": "a, b,"}),
        written(tmp_path, "dpo.yaml", {**taste, "pref_ftx": None, "lora_target": ["a", "b"]}),
    )
    assert found["train"]["lora"]["targets"] == ["a", "b"]


def test_no_field_of_a_published_recipe_is_dropped_silently(made: Path, tmp_path: Path) -> None:
    sft, dpo = trl_files(made, tmp_path)
    content = yaml.safe_load(sft.read_text("utf-8"))

    def of_sft(more: dict[Any, Any]) -> Path:
        return written(tmp_path, "sft.yaml", {**content, **more})

    parts = [{"id": content["dataset_name"]}]
    mixture = {"datasets": parts, "seed": 0, "test_size": 9}
    several: dict[str, Any] = {"dataset_name": None}
    for more, text in (
        ({**several, "dataset_mixer": {"a/b": 1.0}}, "dataset_mixer = {'a/b': 1.0} (name the"),
        ({**several, "dataset_mixture": [1]}, "dataset_mixture = [1]"),
        ({**several, "dataset_mixture": mixture}, "dataset_mixture.test_size = 9"),
        ({"datasets": [{"path": "a/b"}]}, "dataset_name beside a list of datasets"),
        ({"test_split_size": 0.1}, "test_split_size = 0.1 without a list"),
        ({"env": {"A": "b"}}, "env = {'A': 'b'} (set"),
        ({"loss_type": "sigmoid"}, "SFTConfig.loss_type = 'sigmoid'"),
        ({"model_revision": "old"}, "model_revision = 'old' (download"),
        ({1: 2}, "sft.yaml: 1 = 2"),
    ):
        with pytest.raises(InputError) as error:
            read_yaml(of_sft(more), dpo)
        assert text in str(error.value)
    # What older versions had and no result depends on is no problem.
    older = {"save_safetensors": True, "logging_dir": "logs", "generate_during_eval": False}
    older |= {"evaluation_strategy": "steps", "dataset_name": "owner/name", "label_names": None}
    with pytest.warns(UserWarning, match="eval_strategy, eval_steps of SFT are taken"):
        found = read_yaml(of_sft(older), dpo)
    assert found["data"]["sft_test"] == "owner/name@test"


def test_a_recipe_of_llama_factory_runs_from_the_folder_above_its_data(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {
        "stage": "sft", "model_name_or_path": str(made / "model"), "max_steps": 2, "use_cpu": True,
        "dataset": "skills", "packing": False, "train_on_prompt": False, "report_to": "none",
        "quantization_method": "bnb", "resume_from_checkpoint": None, "save_only_model": False,
    }  # fmt: skip
    taste = {**recipe, "stage": "dpo", "dataset": "taste"}
    (tmp_path / "examples").mkdir()
    files = [written(tmp_path / "examples", f"{one['stage']}.yaml", one) for one in (recipe, taste)]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"dataset_info\.json.*there is no such file"):
        read_yaml(*files)
    (tmp_path / "data").symlink_to(made)
    assert read_yaml(*files)["data"]["sft"] == str(Path("data") / "sft.jsonl")
    for more, text in (
        ({"quantization_bit": 4, "quantization_method": "hqq"}, "quantization_method = 'hqq'"),
        ({"train_on_prompt": True}, "train_on_prompt = True"),
    ):
        with pytest.raises(InputError, match=text):
            read_yaml(written(tmp_path / "examples", "sft.yaml", {**recipe, **more}), files[1])
    files[0] = written(tmp_path / "examples", "sft.yaml", {**recipe, "template": "alpaca"})
    with pytest.warns(UserWarning, match="template = alpaca is not applied"):
        read_yaml(*files)


# ---------------------------------------------------------------------- in one process


def test_a_trainer_of_trl_before_ours_does_not_decide_the_precision(tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    assert Accelerator(cpu=True, mixed_precision="bf16").mixed_precision == "bf16"
    made = joint(tmp_path, Mix(lam=0.5), steps=1)
    assert made.train(progress=False).summary["steps"] == 1
    assert made.accelerator.mixed_precision == "no"
    theirs = llm_trl.sft(tiny_llama(len(TOKENIZER)), TOKENIZER, SFT, tmp_path, steps=1)
    theirs.train()
