"""The joint trainer: the objective of each update, its log, and errors that end a run."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from llm_models import bpe_tokenizer_hf, tiny_neox
from llm_runs import (
    LORA,
    SCHEDULES,
    begin,
    cases,
    preference_rows,
    sft_rows,
    steady,
    trainer,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tradeoff import draws
from tradeoff.errors import InputError
from tradeoff.llm import checkpoints, setup
from tradeoff.llm._fingerprints import dotted_name
from tradeoff.llm._streams import Stream
from tradeoff.llm.callbacks import Callback, as_callbacks
from tradeoff.llm.config import TrainConfig
from tradeoff.llm.logprobs import Policy
from tradeoff.llm.trainer import JointTrainer
from tradeoff.schedules import Alright, Maxright, Mix, Schedule, Sequential, SmoothMaxright

VOCABULARY = len(bpe_tokenizer_hf())


def choices(run: JointTrainer) -> list[tuple[int, int]]:
    """Whether each update followed (SFT, preference); the run evaluates at every update."""
    table = run.train(progress=False).table
    return [
        tuple(row)
        for row in table[["sft_updates", "preference_updates"]]
        .diff()[1:]
        .astype(int)
        .to_numpy()
        .tolist()
    ]


# ---------------------------------------------------------------------- what is followed


def test_sequential_follows_one_and_then_the_other():
    run = trainer(Sequential(first="preference", share=1 / 3), evaluate_every=1)
    assert choices(run) == [(0, 1)] * 2 + [(1, 0)] * 4


def test_mix_follows_both():
    assert choices(trainer(Mix(lam=0.3), evaluate_every=1)) == [(1, 1)] * 6


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_alright_follows_the_draws_of_the_seed(lam):
    run = trainer(Alright(lam=lam), evaluate_every=1, seed=7)
    u = draws.uniform(draws.keys(0, 7, draws.OBJECTIVE), np.arange(6))
    assert choices(run) == [(0, 1) if draw < lam else (1, 0) for draw in u]


def test_maxright_follows_the_larger_weighted_gap():
    """The trainer refreshes its losses at every update on all rows; the oracle also does."""
    optima, lam, expected = (1.0, 0.1), 0.85, []
    schedule = Maxright(lam=lam, refresh=1)
    settings = {"learning_rate": 3e-2, "steps": 8, "reference_rows": "all"}
    run = trainer(schedule, evaluate_every=1, optima=optima, **settings)

    def note(self: JointTrainer, record: dict[str, Any]) -> None:
        sft = self.scorer.mean_sft(self.data.sft)["sft_loss"]
        assert self.references is not None
        pairs = self.scorer.mean_pairs(self.data.preference, self.references.train)
        gaps = (1 - lam) * (sft - optima[0]), lam * (pairs["preference_loss"] - optima[1])
        expected.append((0, 1) if gaps[1] > gaps[0] else (1, 0))

    run.callbacks = (note,)
    assert choices(run) == expected[:-1]
    assert len(set(expected)) == 2


def test_between_refreshes_maxright_knows_what_it_has_seen():
    run = trainer(Maxright(lam=0.5, refresh=None, samples=3), steps=3, recent=0.25, log_every=1)
    known = run.known
    seen: list[tuple[int, float]] = []
    observe = known.observe
    known.observe = lambda objective, loss: (
        seen.append((objective, loss)),
        observe(objective, loss),
    )[1]
    done = run.train(progress=False)
    assert known.probed == 6
    losses = done.log.filter(like="/loss")
    for (objective, loss), (_, line) in zip(seen, losses.iterrows(), strict=True):
        name = ("sft/loss", "preference/loss")[objective]
        assert line[name] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
def test_smooth_maxright_is_maxright_when_cold_and_alright_when_hot():
    known = {"optima": (1.0, 0.1), "learning_rate": 3e-2, "steps": 8, "evaluate_every": 1}
    rule = SmoothMaxright(lam=0.85, mu=1e-9, refresh=1)
    sharp = Maxright(lam=0.85, weighted=False)
    expected = choices(trainer(sharp, reference_rows="all", **known))
    assert choices(trainer(rule, reference_rows="all", **known)) == expected
    assert len(set(expected)) == 2
    rule = SmoothMaxright(lam=0.5, mu=1e9, samples=4)
    assert choices(trainer(rule, **known)) == choices(trainer(Alright(lam=0.5), **known))


def test_an_update_reads_only_rows_of_what_it_follows():
    run = trainer(Sequential(share=0.5), steps=4)
    run.train(progress=False)
    assert run.feed.positions == [8, 8]


def test_an_epoch_reads_every_row_once():
    run = trainer(Sequential(share=1.0), steps=4, batch_size=4, holdout=0.2)
    read: list[int] = []
    passes = run.feed.passes

    def watched(*arguments: Any, **named: Any) -> Any:
        found = passes(*arguments, **named)
        read.extend(row for part in found for row in part.rows)
        return found

    run.feed.passes = watched
    run.train(progress=False)
    assert sorted(read) == list(range(16))


# ---------------------------------------------------------------------- what is told


@pytest.mark.parametrize("mode", ["cached", "second_model"])
@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_before_training_the_preference_loss_is_log_two(layout, mode):
    done = trainer(layout=layout, reference_mode=mode, steps=1).train(progress=False)
    assert done.table.preference_loss[0] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["cached", "adapter_off", "second_model"])
def test_ways_to_keep_the_reference_train_alike(mode):
    settings = {"lora": LORA, "schedule": "alright", "epsilon": 1e-4}
    given = trainer(reference_mode=mode, **settings).train(progress=False).table
    cached = trainer(**settings).train(progress=False).table
    pd.testing.assert_frame_equal(steady(given), steady(cached), rtol=1e-4, atol=1e-5)


def test_work_is_counted_over_what_was_read():
    run = trainer(Mix(), steps=2)
    done = run.train(progress=False)
    rows = [Stream(16, run.config.seed, objective).rows(0, 8) for objective in (0, 1)]
    tokens = sum(sum(run.data.training(o)[i].lengths) for o in (0, 1) for i in rows[o])
    assert done.summary["tokens"] == tokens == done.table.tokens.iloc[-1]


class Operators(TorchDispatchMode):
    """Record every operator of torch, and the shapes of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[torch.Size, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        self.seen.append((str(func), tuple(x.shape for x in given)))
        return func(*args, **(kwargs or {}))


@cache
def operators(schedule: Schedule, **settings: Any) -> dict[tuple[int, int], list[Counter]]:
    """Operators of each update by its objective, without the first, which has extra work.

    One batch is the whole data set: updates of a kind are the same work.
    """
    few = {"sft": sft_rows(4), "preference": preference_rows(4), "holdout": 0.0}
    run = begin(trainer(schedule, steps=12, lora=LORA, **few, **settings))
    found: dict[tuple[int, int], list[Counter]] = {}
    for _ in range(12):
        before = tuple(run.tally.updates)
        with Operators() as operators:
            run._update()
        sft, preference = np.subtract(run.tally.updates, before).tolist()
        found.setdefault((sft, preference), []).append(Counter(operators.seen))
    return {kind: counts[1:] for kind, counts in found.items()}


@pytest.mark.slow
def test_an_update_of_joint_training_does_what_one_of_sequential_training_does():
    one_by_one = operators(Sequential())
    wanted = {kind: counts[-1] for kind, counts in one_by_one.items()}
    alright = operators(Alright())
    assert set(alright) == set(wanted) == {(1, 0), (0, 1)}
    for kind, counts in alright.items():
        assert counts == [wanted[kind]] * len(counts)
    # Mix: both gradients, and one step of the optimiser.
    twice = sum(count.total() for count in wanted.values())
    assert 0.75 * twice < operators(Mix())[1, 1][-1].total() < twice


@pytest.mark.slow
def test_between_probes_maxright_reads_one_number():
    wanted = {kind: counts[-1] for kind, counts in operators(Sequential()).items()}
    rule = Maxright(refresh=5, samples=4)
    more = [
        count - wanted[kind]
        for kind, counts in operators(rule, optima=(3.0, -0.3)).items()
        for count in counts
    ]
    few = [extra for extra in more if extra.total() < 100]
    assert len(few) >= 6
    assert len(more) > len(few)  # Those with a probe.
    for extra in few:
        assert extra.total() == 2
        assert all(math.prod(shape) == 1 for _, shapes in extra for shape in shapes)


def test_callbacks_add_to_each_evaluation():
    def count(run: JointTrainer, record: dict[str, Any]) -> None:
        record["weights"] = sum(p.numel() for p in run.model.parameters())

    table = trainer(callbacks=[count]).train(progress=False).table
    assert table.weights.nunique() == 1


def test_what_callbacks_add_is_written_as_plain_values(tmp_path):
    added = {
        "number": np.float32(1.5),
        "tensor": torch.tensor(2),
        "parts": [np.arange(2), {"none": float("nan")}],
        "text": "kind",
    }
    run = trainer(callbacks=[lambda run, record: record.update(added)], steps=1, output=tmp_path)
    run.train(progress=False)
    first = json.loads((tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()[0])
    assert {name: first[name] for name in added} == {
        "number": 1.5,
        "tensor": 2,
        "parts": [[0, 1], {"none": None}],
        "text": "kind",
    }


def test_a_value_that_no_log_holds_is_named():
    run = trainer(callbacks=[lambda run, record: record.update(model=run.model)], steps=1)
    with pytest.raises(InputError, match="'model': the log holds numbers"):
        run.train(progress=False)


@pytest.mark.parametrize(
    ("given", "words"), [(Callback(), "not a list"), (print, "not a list"), ([Callback], "a class")]
)
def test_callbacks_are_a_list_of_objects(given, words):
    with pytest.raises(InputError, match=words):
        as_callbacks(given)


def test_a_loop_of_ones_own_hears_what_it_lacks(tmp_path):
    run = trainer(steps=1)
    for early in (run.update, run.evaluate, run.save):
        with pytest.raises(InputError, match="has not begun"):
            early()
    run.begin()
    with pytest.raises(InputError, match="'output': there is no folder to save to"):
        run.save()


def test_a_trainer_that_has_done_updates_does_not_begin_anew():
    run = trainer(steps=1)
    run.begin(resume=False)
    run.train(resume=False, progress=False)
    with pytest.raises(InputError, match="has done 1 updates"):
        run.train(resume=False, progress=False)


def test_a_run_that_a_callback_ends_is_not_done():
    class Ends(Callback):
        def updated(self, run: Any, losses: Any) -> None:
            run.stop()

    run = trainer(callbacks=[Ends()], steps=2)
    assert repr(run.train(progress=False)).endswith("stopped)")
    assert repr(run.train(progress=False)).endswith("done)")


@pytest.mark.parametrize("field", ["model", "tokenizer", "schedule", "config"])
def test_names_are_no_objects(field):
    given = {
        "model": tiny_neox(VOCABULARY),
        "tokenizer": bpe_tokenizer_hf(),
        "schedule": Mix(),
        "config": TrainConfig(),
    }
    setup.check_kinds(**given)
    with pytest.raises(InputError, match=f"'{field}': .* is needed, and this is of type"):
        setup.check_kinds(**{**given, field: "mix"})


def test_a_model_in_a_wrapper_or_without_values_is_refused():
    model = tiny_neox(VOCABULARY)
    compiled = torch.nn.Sequential(OrderedDict(_orig_mod=model))  # As torch.compile names it.
    for wrapped in (compiled, torch.nn.DataParallel(model)):
        with pytest.raises(InputError, match="in a wrapper"):
            trainer(model=wrapped)
    with pytest.raises(InputError, match="without values"):
        trainer(model=model.to("meta"))


def test_a_warm_up_longer_than_every_stage_is_said():
    with pytest.warns(UserWarning, match="longest stage of the run has 3"):
        trainer(Sequential(share=0.5), warmup=3)
    trainer(Sequential(share=0.5), warmup=2)


def test_without_held_out_rows_there_is_only_a_log():
    done = trainer(holdout=0.0).train(progress=False)
    assert "sft_loss" not in done.table
    assert {"sft/loss", "preference/loss"} <= set(done.log.columns)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer().train(progress=False)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_what_the_log_holds(tmp_path):
    run = trainer(output=tmp_path, trackers=("tensorboard",))
    done = run.train(progress=False)
    events = EventAccumulator(str(tmp_path / "tradeoff"))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("sft_loss")}
    told = dict(zip(done.table.step, done.table.sft_loss, strict=True))
    assert shown == pytest.approx(told, rel=1e-6)


def test_a_tracker_goes_on_with_a_resumed_run(tmp_path):
    for steps in (2, 2):
        trainer(output=tmp_path, trackers=("tensorboard",), steps=steps).train(progress=False)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


# ---------------------------------------------------------------------- the same in other ways


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_gradient_checkpointing_changes_memory_only(lora):
    plain, saving = trainer(lora=lora), trainer(lora=lora, gradient_checkpointing=True)
    tables = [steady(run.train(progress=False).table) for run in (plain, saving)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5, atol=1e-6)
    base = saving.model.get_base_model() if lora else saving.model
    assert base.is_activation_checkpointing


# torch's tracer accesses gradients of inner tensors, and hides the warning from users.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_blocks_give_the_same_losses(monkeypatch):
    """Traced with changing lengths and differentiated, without the machine code of inductor."""
    traced: list[Any] = []
    compile_block = torch.nn.Module.compile

    def trace(self: Any, **options: Any) -> None:
        traced.append(self)
        compile_block(self, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    settings = {"schedule": "mix", "steps": 2, "layout": "packed", "epsilon": 1e-4}
    compiled = trainer(compile=True, **settings).train(progress=False)
    assert [type(block).__name__ for block in traced] == ["LlamaDecoderLayer"] * 2
    expected = trainer(**settings).train(progress=False)
    for name in ("sft_loss", "preference_loss"):
        np.testing.assert_allclose(compiled.table[name], expected.table[name], rtol=1e-5)


def test_blocks_are_compiled_where_the_model_has_gone(monkeypatch):
    order, prepare = [], Accelerator.prepare

    def moved(self, *given):
        order.append("moved")
        return prepare(self, *given)

    monkeypatch.setattr(Accelerator, "prepare", moved)
    monkeypatch.setattr(setup, "compile_blocks", lambda model: order.append("compiled"))
    trainer(compile=True)
    assert order == ["moved", "compiled"]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_reference_is_loaded_as_the_policy_is(kind, tmp_path):
    model = tiny_neox(VOCABULARY)
    model.save_pretrained(tmp_path)
    bpe_tokenizer_hf().save_pretrained(tmp_path)
    found = setup.load_reference(Policy(model.to(kind)))(str(tmp_path))
    assert {weight.dtype for weight in found.parameters()} == {kind}


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    cases(["sft-dpo", "mix", "alright", "maxright", "constrained"], ["mix", "maxright"]),
)
def test_bf16_goes_near_fp32(schedule):
    tables = [
        trainer(schedule, precision=precision, lora=LORA, evaluate_every=3)
        .train(progress=False)
        .table
        for precision in ("fp32", "bf16")
    ]
    np.testing.assert_allclose(tables[1].sft_loss, tables[0].sft_loss, rtol=2e-2)


def test_another_architecture(tmp_path):
    done = trainer(model=tiny_neox(VOCABULARY), output=tmp_path).train(progress=False)
    assert done.table.sft_loss.iloc[-1] < done.table.sft_loss.iloc[0]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_learns_what_it_follows(schedule):
    done = trainer(schedule, steps=10, evaluate_every=5).train(progress=False)
    losses = {"sft": done.table.sft_loss, "preference": done.table.preference_loss}
    for name, count in done.summary["updates"].items():
        assert count == 0 or losses[name].min() < losses[name].iloc[0]


# ---------------------------------------------------------------------- divergence


@pytest.mark.slow
@pytest.mark.parametrize("log_every", [1, 100])
def test_a_run_that_diverges_says_so_and_keeps_its_last_good_checkpoint(tmp_path, log_every):
    def explode(run: JointTrainer, record: dict[str, Any]) -> None:
        if run.step == 4:
            run.rates[4:] = 1e38

    settings = {"steps": 20, "save_every": 1, "keep": 50, "log_every": log_every}
    run = trainer("mix", output=tmp_path, callbacks=[explode], **settings)
    done = run.train(progress=False)
    assert done.diverged_at == 5
    assert json.loads((tmp_path / "summary.json").read_text())["diverged_at"] == done.diverged_at
    assert not (tmp_path / "model").exists()
    for path in checkpoints.checkpoints(tmp_path / "checkpoints"):
        policy = checkpoints.read(path, tmp_path / "metrics.jsonl")[0]["policy"]
        assert all(bool(weight.isfinite().all()) for weight in policy.values()), path
    text = (tmp_path / "metrics.jsonl").read_text()
    for line in text.splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = trainer("mix", output=tmp_path, **settings).train(progress=False)
    assert (again.diverged_at, again.summary["steps"]) == (None, 20)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, value):
    """One bad weight that no loss has used yet."""

    def spoil(run: JointTrainer, record: dict[str, Any]) -> None:
        if run.step == 2:
            with torch.no_grad():
                run.model.get_input_embeddings().weight[VOCABULARY - 1] = value

    run = trainer(output=tmp_path, callbacks=[spoil], save_every=1, log_every=100)
    done = run.train(progress=False)
    assert done.diverged_at == 3
    newest = checkpoints.checkpoints(tmp_path / "checkpoints")[-1]
    assert newest.name == "step-00000002"


def test_own_functions_of_one_name_are_told_apart():
    made = [lambda groups, _, rate=rate: torch.optim.SGD(groups, lr=rate) for rate in (0.1, 0.2)]
    made.append(lambda groups, _: torch.optim.Adam(groups))
    named = [dotted_name(one) for one in made]
    assert len(set(named)) == 3
    assert dotted_name(made[0]) == named[0]
    bound = [partial(torch.optim.SGD, lr=rate) for rate in (0.1, 0.2)]
    assert len({dotted_name(one) for one in bound}) == 2
    assert dotted_name(torch.optim.SGD) == "torch.optim.sgd.SGD"


def test_what_is_refused_leaves_no_folder_behind(tmp_path):
    settings = {"output": tmp_path / "run", "reference_cache": str(tmp_path / "cache")}
    with pytest.raises(InputError):
        trainer(sft=[], **settings)
    assert not list(tmp_path.iterdir())
    trainer(**settings)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
