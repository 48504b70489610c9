"""Defects of the official code of arXiv 2410.15483: each test fails on code with the defect.

Where a switch of `Defects` imitates the defect, the test turns it on and checks that its own check
fails.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import LORA, begin, preference_rows, sft_rows, steady, trainer
from torch.utils._python_dispatch import TorchDispatchMode

from tradeoff.checkout import ROOT
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.splits import Split
from tradeoff.llm import setup
from tradeoff.llm.defects import Defects
from tradeoff.llm.logprobs import Policy
from tradeoff.llm.trainer import JointTrainer
from tradeoff.methods import find
from tradeoff.schedules import Alright, Maxright, Mix, Rule, Sequential


def tokens_of(data: Any) -> set[tuple[int, ...]]:
    return {tuple(ids.tolist()) for item in data for ids in item.sequences}


class Counted:
    """Count the forward passes of a run's policy, and the backward passes before each of them."""

    def __init__(self, run: JointTrainer) -> None:
        self.forwards, self.events = 0, ""
        forward, backward = Policy.forward, run.accelerator.backward

        def counted(policy: Policy, batch: Any) -> Any:
            self.forwards += 1
            self.events += "F"
            return forward(policy, batch)

        def noted(loss: Any) -> None:
            self.events += "B"
            backward(loss)

        run._bare.forward = counted.__get__(run._bare)
        run.accelerator.backward = noted


# ---------------------------------------------------------------------- hooks


def test_without_defects_every_hook_returns_what_the_package_does() -> None:
    off, plan, run = Defects(), Maxright().plan(3), trainer(steps=1)
    held_out = Split([], []), Split([], [])
    assert off.split(([], []), lambda: held_out) is held_out
    assert off.masked(run.data.sft) is run.data.sft
    assert off.draws(Rule.DRAW, 24, 2) == 1
    assert not off.discards(plan.rule)
    assert off.watched(plan) == plan.watched
    assert not off.ends(np.zeros(2), np.ones(2))
    assert off.read_as_followed
    assert off.prompts_can_be_shared
    assert not off.determining
    off.check_method(find("mix+pcgrad"))
    seen: list[Any] = []
    off.backward(seen.append)("loss", False)
    assert seen == ["loss"]


def test_only_the_hooks_read_the_switches() -> None:
    """Only one object knows the official code's defects."""
    names = {item.name for item in dataclasses.fields(Defects)}
    readers = {
        path.name
        for path in sorted((ROOT / "tradeoff").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in names
    }
    assert readers == {"defects.py"}


# ---------------------------------------------------------------------- data


def test_held_out_rows_are_not_trained_on() -> None:
    def leaks(run: JointTrainer) -> bool:
        data = run.data
        return bool(
            tokens_of(data.sft) & tokens_of(data.sft_test)
            or tokens_of(data.preference) & tokens_of(data.preference_test)
        )

    run = trainer()
    assert len(run.data.sft_test)
    assert len(run.data.preference_test)
    assert not leaks(run)
    assert leaks(trainer(defects=Defects(evaluate_on_training_rows=True)))


def test_the_first_token_of_each_response_carries_loss() -> None:
    tokenizer = bpe_tokenizer_hf()
    sft = [SftRow(f"Say {i}: ", "the dog") for i in range(9)]
    pairs = [PreferenceRow(f"Say {i}: ", "the dog", "the fox") for i in range(9)]

    def first_words(run: JointTrainer) -> set[str]:
        """The model's first tokens of a response; the prompt ends in a space."""
        scored = [item.tokens[item.start :] for item in run.data.sft]
        scored += [item.chosen[item.start :] for item in run.data.preference]
        return {tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in scored}

    assert first_words(trainer(sft=sft, preference=pairs)) == {"the dog"}
    masked = trainer(sft=sft, preference=pairs, defects=Defects(mask_first_token=True))
    assert first_words(masked) == {"dog"}


def test_cached_references_of_masked_rows_are_told_apart() -> None:
    plain, masked = trainer(), trainer(defects=Defects(mask_first_token=True))
    for name, value in plain.data.fingerprints().items():
        assert masked.data.fingerprints()[name] != value


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alright", "maxright", "sft-dpo", "mix"])
def test_only_rows_that_are_used_are_read(name: str) -> None:
    def reads_what_it_uses(run: JointTrainer) -> bool:
        run.train(progress=False)
        return run.feed.positions == [4 * count for count in run.tally.updates]

    assert reads_what_it_uses(trainer(name))
    wasteful = trainer(name, defects=Defects(discard_unused_batch=True))
    assert reads_what_it_uses(wasteful) == (name == "mix")
    assert wasteful.feed.positions == [24, 24]


def test_an_epoch_reads_every_row() -> None:
    # Sets of 17 and 13 rows, batches of 4: the official loop omits rows that fill no batch.
    run = trainer(
        Mix(),
        sft=sft_rows(17),
        preference=preference_rows(13),
        steps=17,
        holdout=0.0,
        evaluate_every=17,
    )
    seen: list[list[int]] = [[], []]
    loss = run._loss

    def noted(part: Any) -> Any:
        seen[part.objective] += part.rows.tolist()
        return loss(part)

    run._loss = noted  # type: ignore[method-assign]
    run.train(progress=False)
    for rows, size in zip(seen, (17, 13), strict=True):
        counts = np.bincount(rows, minlength=size)
        assert counts.max() - counts.min() <= 1


# ---------------------------------------------------------------------- MAXRIGHT


def test_maxright_judges_by_the_whole_batch() -> None:
    run = trainer(
        Maxright(lam=0.0, refresh=None),
        recent=1.0,
        steps=1,
        batch_size=4,
        rows_per_forward=1,
        learning_rate=1e-12,
        evaluate_every=9,
    )
    run.train(progress=False)
    rows = run.feed._streams[0].rows(0, 4)
    whole, *single = [
        run.scorer.mean_sft(run.data.sft, part)["sft_loss"] for part in (rows, *rows[:, None])
    ]
    assert run.known.values[0] == pytest.approx(whole, rel=1e-5)
    # One pass of it, which the official code uses, gives another loss.
    assert all(abs(loss - whole) > 1e-3 for loss in single)


def test_a_batch_of_different_losses_is_averaged_whatever_the_passes() -> None:
    values = []
    for at_once in (1, 2, 4):
        run = trainer(
            Maxright(lam=0.0, refresh=None),
            recent=1.0,
            steps=1,
            rows_per_forward=at_once,
            evaluate_every=9,
        )
        run.train(progress=False)
        values.append(run.known.values[0])
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    assert values[2] == pytest.approx(values[0], rel=1e-5)


def test_the_losing_value_does_not_stay_stale() -> None:
    def values_of_the_loser(refresh: int | None) -> set[float]:
        run = trainer(Maxright(lam=0.0, refresh=refresh, samples=4), steps=6, evaluate_every=9)
        seen = []
        observe = run.known.observe

        def noted(objective: int, loss: float) -> None:
            seen.append(float(run.known.values[1]))
            observe(objective, loss)

        run.known.observe = noted  # type: ignore[method-assign]
        run.train(progress=False)
        assert run.tally.updates == [6, 0]
        return set(seen)

    assert len(values_of_the_loser(2)) == 3
    assert len(values_of_the_loser(None)) == 1  # The official default.


def test_a_comparison_costs_the_probe_and_no_more() -> None:
    run = trainer(Maxright(refresh=3, samples=4), steps=6, evaluate_every=100, holdout=0.0)
    begin(run)
    counter = Counted(run)
    run.train(progress=False)
    # 4 rows of each objective, 2 at once, at updates 0 and 3; 2 passes per update.
    assert counter.events.count("B") == 6 * 2
    assert counter.forwards == 6 * 2 + 2 * 2 * 2
    assert run.known.probed == 16


@pytest.mark.parametrize("name", ["alright", "sft-dpo"])
def test_an_update_runs_the_policy_once_per_pass(name: str) -> None:
    run = trainer(name, steps=4, evaluate_every=100, holdout=0.0)
    begin(run)
    counter = Counted(run)
    run.train(progress=False)
    assert counter.events == "FB" * 8  # neither the reference nor the other objective runs


# ---------------------------------------------------------------------- when a run ends


@pytest.mark.parametrize("schedule", [Alright(), Maxright(samples=4)])
def test_reaching_one_optimum_does_not_end_the_run(schedule: Any) -> None:
    optima = (100.0, 0.0)  # The SFT loss is below it from the first update on.
    assert trainer(schedule, optima=optima).train(progress=False).summary["steps"] == 6
    early = trainer(schedule, optima=optima, defects=Defects(stop_at_either_optimum=True))
    assert early.train(progress=False).summary["steps"] < 6


# ---------------------------------------------------------------------- the draw of the objective


def test_the_draw_is_made_once_an_update() -> None:
    def mixed(run: JointTrainer) -> int:
        """Updates that follow both objectives although only one should be drawn."""
        count = 0
        for step in range(20):
            passes = run.feed.passes(step, run.plan.rule, run._follow)
            count += len({part.objective for part in passes}) > 1
        return count

    settings: dict[str, Any] = {"steps": 20, "batch_size": 4, "rows_per_forward": 1}
    assert mixed(trainer(Alright(), **settings)) == 0
    assert mixed(trainer(Alright(), **settings, defects=Defects(choose_per_forward=True))) > 10


def test_a_mixed_update_still_knows_the_loss_of_each_objective() -> None:
    run = trainer(
        Alright(),
        rows_per_forward=1,
        batch_size=4,
        recent=1.0,
        optima=(-1.0, -1.0),
        steps=1,
        learning_rate=1e-12,
        defects=Defects(choose_per_forward=True, stop_at_either_optimum=True),
    )
    run.train(progress=False)
    for objective, value in enumerate(run.known.values):
        assert np.isnan(value) or value > (3.0, 0.5)[objective]


def test_draws_do_not_hang_on_the_random_state_of_a_process() -> None:
    counts = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        run = trainer(Alright(), steps=12, evaluate_every=12)
        run.train(progress=False)
        counts.append((run.tally.updates, run.feed.positions))
    assert counts[0] == counts[1]


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(run: JointTrainer, record: dict[str, Any]) -> None:
        if record["step"] == 4:
            raise Stop

    whole = trainer("alright", steps=8, evaluate_every=4).train(progress=False)
    with pytest.raises(Stop):
        trainer(
            "alright", steps=8, evaluate_every=4, save_every=2, output=tmp_path, callbacks=(stop,)
        ).train(progress=False)
    run = trainer("alright", steps=8, evaluate_every=4, save_every=2, output=tmp_path)
    counter = Counted(run)
    done = run.train(progress=False)
    # Four updates are left, not eight. A false resumption would run all eight.
    assert counter.events.count("B") == 4 * 2
    assert steady(done.table).equals(steady(whole.table))


# ---------------------------------------------------------------------- cost


def test_no_process_is_started_and_no_cache_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer("mix")

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(torch.cuda, "empty_cache", forbidden)
    run.train(progress=False)


class Waits(TorchDispatchMode):
    """Count operations whose result the host must wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.count += name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "expected"), [("alright", 0), ("mix", 0), ("maxright", 1)])
@pytest.mark.parametrize("lora", [None, LORA])
def test_an_update_does_not_wait_for_the_device(name: str, expected: int, lora: Any) -> None:
    run = trainer(name, lora=lora, steps=3, evaluate_every=100, log_every=100, layout="packed")
    begin(run)
    run._update()
    with Waits() as waits:
        run._update()
    # MAXRIGHT must know one loss before it can choose again.
    assert waits.count == expected


def test_mix_frees_one_graph_before_it_builds_the_next() -> None:
    def events(**settings: Any) -> str:
        run = trainer(Mix(), steps=1, evaluate_every=9, rows_per_forward=4, **settings)
        begin(run)
        counter = Counted(run)
        run._update()
        return counter.events

    assert events() == "FBFB"
    assert events(defects=Defects(joint_graph=True)) == "FFB"


def test_two_passes_give_the_gradient_of_the_joint_graph() -> None:
    found = []
    for joint in (False, True):
        run = trainer(Mix(lam=0.3), defects=Defects(joint_graph=joint))
        begin(run)
        run._backward(run.feed.passes(0, run.plan.rule, run._follow))
        found.append([p.grad for p in run.model.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------------- what it needs


@pytest.mark.slow
def test_nothing_but_the_listed_packages_is_needed() -> None:
    absent = ("wandb", "deepspeed", "flash_attn", "trl", "liger_kernel", "bitsandbytes", "vllm")
    code = (
        f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n"
        "import tradeoff.llm.trainer, tradeoff.llm.models, tradeoff.llm.xright\n"
        "from tradeoff.llm import JointTrainer"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_needs_no_accelerator() -> None:
    run = trainer(precision="bf16", lora=LORA)
    assert run.accelerator.device.type == "cpu"
    done = run.train(progress=False)
    assert np.isfinite(done.table["preference_loss"]).all()


# ---------------------------------------------------------------------- reference, and what is kept


def test_dpo_starts_at_log_two_where_the_reference_is_the_policy() -> None:
    for mode, lora in (("cached", None), ("second_model", None), ("adapter_off", LORA)):
        run = trainer(Sequential(), reference_mode=mode, lora=lora)
        table = run.train(progress=False).table
        assert table["preference_loss"].iloc[0] == pytest.approx(math.log(2), abs=1e-6)


def test_the_stage_that_prefers_starts_at_log_two_of_its_own_reference() -> None:
    done = trainer(Sequential(share=0.5), reference="stage", log_every=1, steps=6)
    log = done.train(progress=False).log.set_index("step")
    assert log.loc[4, "preference/loss"] == pytest.approx(math.log(2), abs=1e-6)
    fixed = trainer(Sequential(share=0.5), log_every=1, steps=6).train(progress=False).log
    assert abs(fixed.set_index("step").loc[4, "preference/loss"] - math.log(2)) > 1e-3


def test_a_reference_that_is_another_model_is_kept_faithfully(tmp_path: Path) -> None:
    """The paper compares a base policy with the SFT optimum, so DPO does not start at log 2."""
    tokenizer = bpe_tokenizer_hf()
    other = tiny_llama(len(tokenizer), seed=1)
    other.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    first = [
        trainer(Alright(), reference=str(tmp_path), reference_mode=mode)
        .train(progress=False)
        .table["preference_loss"]
        .iloc[0]
        for mode in ("cached", "second_model")
    ]
    assert first[0] == pytest.approx(first[1], abs=1e-6)
    assert abs(first[0] - math.log(2)) > 1e-3


def test_the_cache_tells_precisions_apart(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        trainer(precision=precision, reference_cache=str(tmp_path)).train(progress=False)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4  # Two sets of pairs for each.


def test_the_published_gradient_of_maxright_is_not_weighted() -> None:
    found = []
    for weighted in (True, False):
        run = trainer(Maxright(lam=0.25, weighted=weighted, samples=4), optima=(0.0, 0.6))
        begin(run)
        run.known.refresh(0, run._mean_training_loss)
        passes = run.feed.passes(0, run.plan.rule, run._follow)
        found.append({(part.objective, part.weight) for part in passes})
    assert found == [{(0, 0.75)}, {(0, 1.0)}]


def test_dropout_is_a_function_of_seed_update_and_process() -> None:
    draws = []
    for seed, step, process in ((0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        setup.seed_dropout(seed, step, process)
        draws.append(float(torch.rand(())))
    assert draws[0] == draws[1]
    assert len(set(draws)) == 4
