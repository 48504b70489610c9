"""Commands of language models on a failing disk: one error, and an earlier run stays whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llm_models import bpe_tokenizer_hf, tiny_llama
from llm_runs import preference_rows, sft_rows

from tradeoff import cli, files
from tradeoff.errors import InputError
from tradeoff.llm import setup, trainer
from tradeoff.llm.config import Lora, TrainConfig


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Small commands on a random model and a finished run of it."""
    place, tokenizer = tmp_path_factory.mktemp("disk"), bpe_tokenizer_hf()
    model = place / "model"
    tiny_llama(len(tokenizer), bos_token_id=0, eos_token_id=1).save_pretrained(model)
    tokenizer.save_pretrained(model)
    rows: list[Any] = []
    for name, found in {"sft": sft_rows(8), "preference": preference_rows(8)}.items():
        path = place / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(vars(row))}\n" for row in found), "utf-8")
        rows += [f"--{name}", path]
    few = ["--steps", 2, "--batch-size", 4, "--save-every", 1]
    return {
        "train": ["train", "--model", model, *rows, *few],
        "evaluate": ["evaluate", model, *rows[:2]],
        "export": ["export", place / "run"],
    }


def command(capsys: pytest.CaptureFixture[str], *given: Any) -> tuple[int, str]:
    """Exit status and standard error; no traceback reaches a user."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in given])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return int(stop.value.code or 0), error


def fail_at(name: str, code: int, patch: pytest.MonkeyPatch) -> None:
    """Make the writing of files or folders with a name fail."""
    writing = files.writing

    @contextlib.contextmanager
    def failing(path: Path) -> Iterator[None]:
        with writing(path):
            if path.name == name:
                raise OSError(code, os.strerror(code), str(path))
            yield

    patch.setattr(files, "writing", failing)


def test_what_cannot_be_written_is_one_error_and_the_same_command_goes_on(
    arguments: dict[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = Path(arguments["export"][1])
    train = [*arguments["train"], "--out", run]
    cases = {"step-00000002": errno.ENOSPC, "model": errno.EROFS, "trajectory.csv": errno.ENOENT}
    for name, code in cases.items():
        with monkeypatch.context() as patch:
            fail_at(name, code, patch)
            status, error = command(capsys, *train)
        assert status == 2
        line = error.splitlines()[-1]
        assert line.startswith("error: ")
        assert f"{name}: cannot be written: {os.strerror(code)}. " in line
        assert (run / "checkpoints" / "step-00000001").exists()
    assert command(capsys, *train)[0] == 0
    assert (run / "summary.json").exists()
    assert (run / "model" / "model.safetensors").exists()
    for name, file in (("evaluate", "evaluation.json"), ("export", "out")):
        with monkeypatch.context() as patch:
            fail_at(file, errno.ENOSPC, patch)
            status, error = command(capsys, *arguments[name], "--out", tmp_path / "out")
        assert status == 2
        assert error.splitlines()[-1].startswith(f"error: {tmp_path / 'out'}")
        assert "cannot be written: No space left on device" in error
        assert not any(tmp_path.glob("out/*"))


def test_a_folder_that_vanishes_while_a_run_goes_on_is_named(
    arguments: dict[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "run"
    evaluate = trainer.JointTrainer.evaluate

    def vanish(self: Any) -> Any:
        shutil.rmtree(out)
        return evaluate(self)

    monkeypatch.setattr(trainer.JointTrainer, "evaluate", vanish)
    status, error = command(capsys, *arguments["train"], "--out", out)
    assert status == 2
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert str(out) in line
    assert "No such file or directory. It was moved or removed" in line


@pytest.mark.parametrize("name", ["train", "export"])
def test_space_is_compared_with_what_will_be_written(
    name: str,
    arguments: dict[str, list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    source = Path(arguments["train"][2])
    given = arguments["train"] if name == "train" else ["export", source]
    free = (source / "model.safetensors").stat().st_size - 4096  # Except its header.
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    status, error = command(capsys, *given, "--out", tmp_path / "out")
    assert status == 2
    assert "the disk of the output folder has" in error
    assert "will be written" in error
    assert not any(tmp_path.glob("out/*"))


def test_the_space_asked_for_is_what_a_run_takes_at_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        setup, "check_writable", lambda folder, needed=0, **_: asked.append(needed) or folder
    )
    model = tiny_llama(100)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())

    def needed(steps: int = 9, **settings: Any) -> float:
        setup.check_space(tmp_path, model, TrainConfig(steps=steps, **settings), steps)
        return asked[-1] / weights

    # Three times the weights for a checkpoint, one more than are kept, and the model.
    assert needed() == 3 + 1
    assert needed(save_every=3) == 3 * 3 + 1
    assert needed(save_every=1, keep=4) == 3 * 5 + 1
    assert needed(save_every=5) == 3 * 2 + 1
    for parameter in list(model.parameters())[1:]:
        parameter.requires_grad = False
    before = needed()
    assert 1 < before < 4
    earlier = tmp_path / "checkpoints" / "step-00000001" / "policy.safetensors"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(bytes(weights // 2))
    assert before - needed() == pytest.approx(0.5)


def test_adapters_take_their_own_space_only(tmp_path: Path, monkeypatch: Any) -> None:
    from tradeoff.llm import models

    asked: list[int] = []
    monkeypatch.setattr(
        setup, "check_writable", lambda folder, needed=0, **_: asked.append(needed) or folder
    )
    model = models.with_adapters(tiny_llama(100), Lora(rank=2, targets=("q_proj",)), seed=0)
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    setup.check_space(tmp_path, model, TrainConfig(steps=2), 2)
    assert asked == [4 * trained]


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to the output folder: Not a directory"):
        setup.check_output(tmp_path / "file")
