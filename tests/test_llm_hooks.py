"""What a user sees of a run while it goes on, and where others can step in."""

from __future__ import annotations

import json
import time
import tomllib
from typing import Any

import numpy as np
import pytest
import torch
from llm_runs import preference_rows, sft_rows, steady, trainer, weights
from typer.testing import CliRunner

from tradeoff.cli import app
from tradeoff.errors import InputError
from tradeoff.llm import Hook
from tradeoff.llm import trainer as trainer_module
from tradeoff.llm.bar import Bar
from tradeoff.llm.config import read_experiment
from tradeoff.schedules import Maxright, Mix

QUIET = {"evaluate_every": 100, "log_every": 100}


class Noted(Hook):
    """Notes all that it is called for, and may end the run."""

    def __init__(self, last: int = 99) -> None:
        self.seen: list[Any] = []
        self.last = last

    def begin(self, trainer: Any) -> None:
        self.seen.append("begin")

    def updated(self, trainer: Any, losses: Any) -> None:
        self.seen.append((trainer.step, sorted(losses)))
        if trainer.step == self.last:
            trainer.stop()

    def logged(self, trainer: Any, line: Any) -> None:
        self.seen.append(("log", line["step"]))

    def evaluated(self, trainer: Any, record: dict[str, Any]) -> None:
        record["more"] = 1.0

    def saved(self, trainer: Any, folder: Any) -> None:
        self.seen.append(("saved", folder.name))

    def end(self, trainer: Any, result: Any) -> None:
        self.seen.append(result.summary["steps"])


# ---------------------------------------------------------------------- hooks and one's own loop


def test_a_hook_is_called_at_all_points_and_may_end_the_run(tmp_path: Any) -> None:
    both = ["preference", "sft"]
    hook = Noted(last=2)
    run = trainer("mix", output=tmp_path, callbacks=[hook], evaluate_every=3, log_every=2)
    found = run.train(progress=False)
    assert hook.seen == ["begin", (1, both), (2, both), ("log", 2), ("saved", "checkpoints"), 2]
    assert found.table.more.tolist() == [1.0]
    rest = Noted()
    trainer("mix", output=tmp_path, callbacks=[rest], evaluate_every=3, log_every=2).train(
        progress=False
    )
    assert rest.seen[:2] == ["begin", (3, both)]
    assert rest.seen[-1] == 6


def test_a_loop_of_ones_own_is_that_of_train() -> None:
    whole, own = trainer("alright", **QUIET), trainer("alright", **QUIET)
    with pytest.raises(InputError, match=r"begin\(\)"):
        own.update()
    whole.train(progress=False)
    own.begin()
    while own.step < own.steps:
        assert all(loss.isfinite() for loss in own.update().values())
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(own).items())
    with pytest.raises(InputError, match="has ended"):
        own.update()


def test_optimizer_and_rates_can_be_ones_own(tmp_path: Any) -> None:
    def sgd(groups: Any, config: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=1.0, momentum=0.5)

    def halving(config: Any, clock: Any) -> Any:
        return config.learning_rate * 0.5**clock

    from tradeoff.llm import JointTrainer

    def made(output: Any = None, **more: Any) -> JointTrainer:
        given = trainer(**QUIET)
        return JointTrainer(
            *(given._bare.model, given.tokenizer),
            sft=sft_rows(),
            preference=preference_rows(),
            schedule=Mix(),
            config=given.config,
            output=output,
            **more,
        )

    run = made(tmp_path, optimizer=sgd, rates=halving)
    assert isinstance(run.optimizer.optimizer, torch.optim.SGD)
    before = weights(run)
    run.begin()
    run.update()
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-2)
    moved = max(float((v - before[k]).abs().max()) for k, v in weights(run).items())
    assert 0 < moved <= 0.5e-2  # a gradient of norm 1 at most
    run.save()
    with pytest.raises(InputError, match="belongs to another run"):
        made(tmp_path).train(progress=False)
    for bad in (lambda c, k: [1.0], lambda c, k: -1e-3 * k, lambda c, k: np.nan * k):
        with pytest.raises(InputError, match="one finite number"):
            made(rates=bad)


# ---------------------------------------------------------------------- what is said


def test_the_bar_counts_evaluations_into_the_time_left() -> None:
    now = iter([0.0, 10.0, 11.0, 12.0, 22.0, 23.0, 24.0, 34.0])
    bar = Bar(4, 0, 2, shown=False, clock=lambda: next(now))
    assert bar.left() is None
    bar.set_postfix({"sft_loss": 1.5})
    bar.update({"sft": 2.0})
    assert bar.left() == 3 * 1.0 + 2 * 10.0
    bar.update({"preference": 0.7})
    assert bar.left() == 2 * 1.0 + 2 * 10.0  # the one that is due, and the last
    bar.set_postfix({"sft_loss": 1.4})
    bar.update()
    bar.update()
    assert bar.left() == 0.0
    assert bar.losses == {"sft": 2.0, "preference": 0.7}
    assert bar.held_out == {"SFT": 1.4}


def test_the_bar_shows_losses_and_time(capfd: pytest.CaptureFixture[str]) -> None:
    trainer("mix", steps=2).train()
    shown = capfd.readouterr().err
    assert "left, " in shown
    assert "sft " in shown
    assert "held-out preference " in shown


def test_the_command_says_what_it_does_and_repeats_itself(tmp_path: Any) -> None:
    from llm_models import bpe_tokenizer_hf, tiny_llama

    tokenizer = bpe_tokenizer_hf()
    tiny_llama(len(tokenizer), bos_token_id=0, eos_token_id=1).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    given = ["train", "--model", str(tmp_path / "model"), "--plain", "--steps", "2"]
    for name, rows in {"sft": sft_rows(), "preference": preference_rows()}.items():
        file = tmp_path / f"{name}.jsonl"
        lines = [json.dumps({k: v for k, v in vars(row).items() if v}) for row in rows]
        file.write_text("\n".join(lines), "utf-8")
        given += [f"--{name}", str(file)]
    given += ["--set", "train.clip=none", "--batch-size", "4", "--max-length", "22"]
    done = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    said = done.output.index
    order = ["reading settings", "reading rows", "20 sft and 20 preference", "truncated:"]
    order += ["ALRIGHT: 2 updates of 4 rows", "held out"]
    assert [said(text) for text in order] == sorted(said(text) for text in order)
    settings = (tmp_path / "run" / "run.toml").read_text("utf-8")
    assert tomllib.loads(settings)["train"]["batch_size"] == 4
    command = settings.splitlines()[0].removeprefix("# tradeoff ").replace("--out run", "--out")
    again = CliRunner().invoke(app, [*command.split(), str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    logs = [
        [steady_line(line) for line in (tmp_path / name / "metrics.jsonl").read_text().split("\n")]
        for name in ("run", "again")
    ]
    assert logs[0] == logs[1]
    assert read_experiment(tmp_path / "again" / "run.toml").train.batch_size == 4


def steady_line(line: str) -> dict[str, Any]:
    found = dict(json.loads(line or "{}"))
    return {k: v for k, v in found.items() if k not in ("seconds", "tokens_per_second")
            and not k.startswith("peak")}  # fmt: skip


def test_gaps_from_zero_are_warned_of_and_so_is_neglect() -> None:
    schedule = Maxright(lam=0.5, samples=4, refresh=5)
    with pytest.warns(UserWarning, match="gaps count from zero"):
        trainer(schedule, optima=None)
    run = trainer(schedule, steps=20, optima=(0.0, 0.6), **QUIET)
    with pytest.warns(UserWarning, match="none of 20 updates followed the preference objective"):
        assert run.train(progress=False).summary["updates"] == {"sft": 20, "preference": 0}


def test_a_run_saves_by_the_clock_where_it_says_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = Noted()
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", 1e-9)
    whole = trainer("mix", output=tmp_path, callbacks=[hook], log_every=2, keep=9)
    table = whole.train(progress=False).table
    assert hook.seen.count(("saved", "checkpoints")) == 3
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", 1e9)
    assert time.monotonic() - whole._saved_at < 60
    calm = trainer("mix", log_every=2).train(progress=False).table
    np.testing.assert_array_equal(
        steady(table).drop(columns="more").to_numpy(), steady(calm).to_numpy()
    )
