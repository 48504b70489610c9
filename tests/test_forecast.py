"""Forecasts: sketches, convex surrogates, the two kinds of subject, calibration, sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from tradeoff import tiny
from tradeoff.convex.solve import minimise
from tradeoff.data.synthetic import Language, generate
from tradeoff.data.tokenizer import byte_tokenizer
from tradeoff.errors import InputError
from tradeoff.forecast import features
from tradeoff.forecast.calibration import Calibration, from_record, stored
from tradeoff.forecast.candidates import CANDIDATES, RADII, STACKED, from_problem
from tradeoff.forecast.forecast import forecast
from tradeoff.forecast.lab import Effort, Lab
from tradeoff.forecast.networks import TaskSubject
from tradeoff.forecast.quantities import (
    LAMBDAS,
    NAMES,
    OBJECTIVE,
    forgetting,
    from_scale,
    front,
    to_scale,
)
from tradeoff.forecast.sentences import sentences
from tradeoff.forecast.sketch import CountSketch, TwoSided
from tradeoff.forecast.stack import Measured, fit, half_widths, left_out
from tradeoff.forecast.subject import Subject, blend
from tradeoff.forecast.surrogate import GaussNewton, LinearMargins, Surrogate, TokenSoftmax
from tradeoff.networks.language_model import LanguageModel, LanguageModelConfig
from tradeoff.networks.language_task import LanguageTask

EFFORT = Effort(
    updates=100, batch=8, features=5, gradients=4, evaluated=3, probe_updates=2, probe_batch=2
)


@pytest.fixture(scope="module")
def subject() -> TaskSubject:
    """A random tiny model on generated rows."""
    tokenizer = byte_tokenizer()
    few = Language(sft_rows=40, preference_rows=20, test_rows=5, documents=1)
    config = LanguageModelConfig(vocabulary=len(tokenizer), width=16, layers=1, hidden=24)
    return TaskSubject(LanguageTask.of(LanguageModel(config), generate(few), tokenizer), 1e-3)


@pytest.fixture(scope="module")
def lab(subject: TaskSubject) -> Lab:
    return Lab(subject, EFFORT)


# ---------------------------------------------------------------------- sketches


def test_count_sketch_keeps_inner_products_on_average():
    rng = np.random.default_rng(0)
    a, b = (torch.tensor(rng.standard_normal(300)) for _ in range(2))
    found = [float(s([a]) @ s([b])) for s in (CountSketch(64, k) for k in range(400))]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - float(a @ b)) < 4 * error
    assert np.std(found) < 2 * float(a.norm() * b.norm()) / np.sqrt(64)


def test_count_sketch_is_linear_and_reads_parts_as_one():
    sketch, x = CountSketch(16, 3), torch.arange(12.0)
    parts = sketch([x[:5].view(5, 1), x[5:]])
    assert torch.equal(parts, sketch([x]))
    assert torch.allclose(sketch([2 * x]), 2 * parts)


def test_two_sided_sketch_keeps_inner_products_on_average():
    rng = np.random.default_rng(1)
    left, right = (torch.tensor(rng.standard_normal((2, n)), dtype=torch.float32) for n in (9, 7))
    exact = float((left[0] @ left[1]) * (right[0] @ right[1]))
    found = []
    for seed in range(600):
        sketch = TwoSided.draw(9, 7, (8, 8), seed)
        one, two = (sketch.outer(left[k] @ sketch.vocabulary, right[k] @ sketch.hidden)
                    for k in (0, 1))  # fmt: skip
        found.append(float(one @ two))
    assert abs(np.mean(found) - exact) < 4 * np.std(found) / np.sqrt(len(found))


# ---------------------------------------------------------------------- surrogates


def parts(seed: int = 0) -> list:
    rng = np.random.default_rng(seed)
    log_p = np.log(rng.dirichlet(np.ones(5), size=6))
    softmax = TokenSoftmax(
        rng.standard_normal((6, 4, 3)), log_p[:, :4], log_p[:, 4], np.full(6, 1 / 6)
    )
    root = rng.standard_normal((3, 3))
    return [
        softmax,
        GaussNewton(1.0, rng.standard_normal(3), root @ root.T),
        LinearMargins(rng.standard_normal((7, 3)), 0.5),
    ]


@pytest.mark.parametrize("part", parts(), ids=lambda part: type(part).__name__)
def test_gradients_and_hessians_are_those_of_finite_differences(part):
    theta, step = np.array([0.3, -0.2, 0.5]), 1e-5
    moves = step * np.eye(3)
    slope = [(part.value(theta + m) - part.value(theta - m)) / (2 * step) for m in moves]
    bend = [(part.gradient(theta + m) - part.gradient(theta - m)) / (2 * step) for m in moves]
    np.testing.assert_allclose(part.gradient(theta), slope, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(part.hessian(theta), bend, rtol=1e-6, atol=1e-8)


def test_a_surrogate_is_minimised_with_a_certificate():
    problem = Surrogate(parts()[0], parts()[2], 2.0, np.array([0.1, 0.0, -0.1]))
    best = minimise(problem, 0.4, tolerance=1e-8)
    assert best.certificate <= 1e-8
    rng = np.random.default_rng(0)
    for _ in range(50):
        theta = rng.standard_normal(3)
        theta *= 2.0 * rng.random() / np.linalg.norm(theta)
        assert np.array([0.6, 0.4]) @ problem.losses(theta) >= best.lower


def test_a_conflict_free_problem_forgets_nothing_and_a_conflict_does():
    one = np.array([[1.0, 0.0], [0.8, 0.1]])
    agree = Surrogate(LinearMargins(one, 1.0), LinearMargins(one, 1.0), 3.0, np.zeros(2))
    fight = replace(agree, preference=LinearMargins(-one, 1.0))
    assert np.all(forgetting(from_problem(agree)) < 0)
    assert np.all(forgetting(from_problem(fight)) > 0.5)
    # More weight on preferences never raises their loss, nor lowers that of SFT.
    moves = np.diff(front(from_problem(fight)), axis=0)
    assert np.all(moves[:, 0] >= -1e-6)
    assert np.all(moves[:, 1] <= 1e-6)


# ---------------------------------------------------------------------- subjects


def test_a_task_is_a_subject(subject: TaskSubject):
    assert isinstance(subject, Subject)


@pytest.mark.slow
def test_base_losses_are_those_of_the_task(subject: TaskSubject, lab: Lab):
    rows = lab.rows(EFFORT.features)
    zero = blend([(0.0, lab.ends[0])])
    np.testing.assert_allclose(subject.losses(zero, rows), lab.base, rtol=1e-5)
    few = replace(subject.task, test_sft=subject.task.sft.take(rows[0]))
    shift = few.reference(few.initial([0]))
    exact = few.evaluate(few.initial([0]), shift)["sft_loss"][0]
    assert lab.base[0] == pytest.approx(exact, rel=1e-5)


@pytest.mark.slow
def test_sketched_gradients_predict_a_small_step(subject: TaskSubject):
    """Along the gradient of a pair's margin, the log-probability of a demonstration moves so."""
    row, sketch = np.array([0]), CountSketch(2**16, 0)
    shown, compared = (subject.gradients(k, row, sketch)[0] for k in (0, 1))
    weights = {n: w.detach().clone().requires_grad_() for n, w in subject._base.items()}
    pair = subject._log_probs(weights, 1, row)[0]
    slopes = torch.autograd.grad(pair[0] - pair[1], list(weights.values()))
    step = 1e-3 / float(torch.stack([s.norm() for s in slopes]).norm())
    moved = {n: step * s for n, s in zip(weights, slopes, strict=True)}
    count = int(subject.task.sft.mask[0].sum())
    zero = blend([(0.0, moved)])
    change = subject.losses(zero, (row, row))[0] - subject.losses(moved, (row, row))[0]
    assert change * count == pytest.approx(step * float(shown @ compared), rel=0.05, abs=2e-5)


def test_last_layer_features_are_the_gradient_of_the_output_matrix(subject: TaskSubject):
    """Without a sketch (identity on both sides) they are (onehot - p) x h, summed over tokens."""
    vocabulary, width = subject.shape
    exact = TwoSided(torch.eye(vocabulary), torch.eye(width))
    rows = np.array([2])
    found = features.pair_differences(subject.scored(1, rows, exact), exact)[0]
    base = subject.task.base
    head = base.embed_tokens.weight.detach().clone().requires_grad_()
    seen: list = []
    hook = base.norm.register_forward_hook(lambda m, given, out: seen.append(out.detach()))
    laid = subject.task.pairs.ragged(torch.from_numpy(rows))
    base(laid.tokens, starts=laid.starts, after=laid.after, wanted=laid.wanted)
    hook.remove()
    each = (seen[0] @ head.T).log_softmax(-1).gather(1, laid.targets[:, None])[:, 0]
    total = each.new_zeros(2).index_add(0, laid.owners, each)
    (slope,) = torch.autograd.grad(total[0] - total[1], head)
    np.testing.assert_allclose(found, slope.flatten().numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_every_candidate_says_all_numbers(lab: Lab):
    for name, candidate in CANDIDATES.items():
        found = candidate.predict(lab)
        assert found.shape[1] == len(NAMES), name
        assert np.all(np.isfinite(found) & (found >= 0)), name
    assert len(CANDIDATES["frozen"].predict(lab)) == len(RADII)


def test_the_cost_of_the_stack_is_below_a_twentieth():
    """Of rows of equal length, with a pair as long as two demonstrations."""
    uses = {use for name in STACKED for use in CANDIDATES[name].uses}
    assert uses == {"forward", "gradients"}
    for updates, batch in ((100, 8), (1000, 32), (60, 16), (20_000, 64)):
        e = Effort.of(updates, batch)
        row = 1 + 2
        spent = row * (e.features + 3 * e.gradients)
        assert spent <= 0.05 * 3 * row * updates * batch, (updates, batch)
        assert e.share(e.features, e.gradients) == pytest.approx(
            spent / (3 * row * updates * batch)
        )


def test_a_lab_counts_what_it_measures_once(subject: TaskSubject):
    lab = Lab(subject, EFFORT)
    assert lab.cost() == 0
    _ = lab.forward, lab.forward
    rows = lab.rows(EFFORT.features)
    assert lab.spent["forward"] == subject.tokens(0, rows[0]) + subject.tokens(1, rows[1])


# ---------------------------------------------------------------------- calibration


def examples(pairs: int = 8, noise: float = 0.02, seed: int = 0) -> list[Measured]:
    """Truth that one candidate knows up to a factor, and another does not know at all."""
    rng, found = np.random.default_rng(seed), []
    base = np.array([1.0, 0.7])
    level = rng.standard_normal(len(NAMES)) * 0.2
    for pair in range(pairs):
        change = 0.3 * rng.standard_normal() * np.where(OBJECTIVE == 0, 1.0, -1.0)
        start = to_scale(base)[OBJECTIVE]
        target = level + change + noise * rng.standard_normal(len(NAMES))
        good = from_scale(start + change / 2)[None]
        bad = from_scale(start + rng.standard_normal(len(NAMES)))[None]
        variants = {"good": np.vstack([bad, good]), "bad": bad}
        found.append(
            Measured(f"pair {pair}", variants, {"good": base, "bad": base}, base,
                     from_scale(start + target))
        )  # fmt: skip
    return found


def test_a_stack_trusts_the_candidate_that_knows():
    found = fit(examples(), ["good", "bad"])
    assert found.variants == {"good": 1, "bad": 0}
    assert np.all(np.abs(found.slopes[:, 0] - 2.0) < 0.3)
    assert np.all(found.slopes[:, 1] < 0.1)


def test_what_is_fitted_never_saw_the_pair_that_is_left_out():
    for fitted, own, others in left_out(examples(), ["good"]):
        assert {e.group for e in own}.isdisjoint(e.group for e in others)
        assert np.median(np.abs(fitted.values(own[0]) - own[0].target)) < 0.1


def test_intervals_cover_new_pairs_about_as_often_as_they_say():
    inside = []
    for seed in range(4):
        every = examples(24, 0.1, seed)
        known, new = every[:12], every[12:]
        fitted, half = fit(known, ["good"]), half_widths(known, ["good"])
        inside += [np.abs(fitted.values(e) - e.target) <= half for e in new]
    assert 0.85 <= np.mean(inside) <= 0.97


def test_missing_runs_are_left_out_of_the_fit():
    every = examples()
    gone = every[0].truth.copy()
    gone[-1] = np.nan
    some = [replace(every[0], truth=gone), *every[1:]]
    found = fit(some, ["good"])
    assert np.isfinite(found.intercepts).all()
    assert np.isfinite(half_widths(some, ["good"])).all()


# ---------------------------------------------------------------------- what is said


def calibration(width: float) -> Calibration:
    scores = {
        "stack": {
            "median_error": 0.08,
            "by_pair": {"little conflict": 0.3, "much conflict": 0.05},
            "coverage": 0.9,
            "rank": 0.7,
            "cost": {"most": 0.04},
        },
        "constant": {"median_error": 0.2},
        "early": {"median_error": 0.05},
    }
    record = {
        "variants": {"frozen": 2},
        "slopes": [[1.0], [1.0]],
        "intercepts": [0.0] * len(NAMES),
        "half_widths": [width] * len(NAMES),
        "scores": scores,
        "about": {"pairs": 12, "model": "a model", "updates": 100, "batch": 8},
    }
    return from_record(record)


def test_wide_intervals_cannot_tell(lab: Lab):
    text = " ".join(sentences(forecast(lab, calibration(3.0))))
    assert text.count("cannot tell") >= 4
    assert "Goals missed: better than every control" in text
    assert "worst pair was 'little conflict', with an error of 30 %" in text


def test_narrow_intervals_tell(lab: Lab):
    found = forecast(lab, calibration(1e-6))
    assert "cannot tell" not in sentences(found)[0]
    assert found.lam in LAMBDAS
    assert np.all(found.low <= found.losses)
    record = found.record()
    assert record["trust"]["goals"]["better than every control"] is False
    assert from_record(found.calibration.record()).goals == found.calibration.goals


# ---------------------------------------------------------------------- models of transformers


@pytest.fixture(scope="module")
def model_subject():
    from tradeoff.forecast.llm import ModelSubject
    from tradeoff.llm import JointTrainer, TrainConfig
    from tradeoff.schedules import Sequential

    model, tokenizer = tiny.random_model(16, 1)
    sft, pairs = tiny.rows(12)
    settings = TrainConfig(
        steps=4, batch_size=2, max_length=64, chat=False, reference_rows="all", learning_rate=1e-3
    )
    trainer = JointTrainer(
        model, tokenizer, sft=sft, preference=pairs, schedule=Sequential(), config=settings,
        sft_test=sft[:1], preference_test=pairs[:1],
    )  # fmt: skip
    return ModelSubject(trainer)


def test_a_model_of_transformers_is_a_subject_that_short_runs_leave_as_it_was(model_subject):
    assert isinstance(model_subject, Subject)
    lab = Lab(model_subject, EFFORT)
    before = {n: w.detach().clone() for n, w in model_subject._trained.items()}
    rows = lab.rows(EFFORT.features)
    start = model_subject.losses(blend([(0.0, lab.ends[0])]), rows)
    np.testing.assert_allclose(start, lab.base, rtol=1e-4)
    moved = np.stack([model_subject.losses(end, rows) for end in lab.ends])
    assert moved[0, 0] < start[0]
    assert moved[1, 1] < start[1]
    assert all(torch.equal(w, before[n]) for n, w in model_subject._trained.items())


def test_a_model_of_transformers_measures_what_its_twin_does(model_subject):
    """Pairs lie with both responses together; log-probabilities are those of the policy."""
    rows = np.arange(3)
    sketch = TwoSided.draw(*model_subject.shape, (4, 4))
    scored = model_subject.scored(1, rows, sketch)
    total = torch.zeros(6).index_add(0, scored.owners, scored.log_p[:, 0])
    exact = model_subject.trainer.scorer.log_probs(
        [model_subject.trainer.data.preference[i] for i in range(3)]
    )
    np.testing.assert_allclose(total.view(3, 2), exact, rtol=1e-4)
    slopes = model_subject.gradients(1, rows, CountSketch(64))
    assert slopes.shape == (3, 64)
    assert np.all(np.abs(slopes).sum(axis=1) > 0)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model whose template refuses one row of a file that also has a bad and a long one."""
    folder = tmp_path_factory.mktemp("refusing")
    model, tokenizer = tiny.random_model(16, 1)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}"
        "{% endif %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    chats = [
        [{"role": "user", "content": f"Say {i}."}, {"role": "assistant", "content": f"{i}"}]
        for i in range(12)
    ]
    chats[5].insert(0, {"role": "system", "content": "Answer in French."})
    chats[7][-1]["content"] = "seven " * 50
    lines = [json.dumps({"messages": chat}) for chat in [*chats, []]]
    (folder / "sft.jsonl").write_text("\n".join(lines), "utf-8")
    return folder / "model", folder / "sft.jsonl"


def test_a_sample_leaves_out_the_rows_that_training_leaves_out(refusing):
    from tradeoff import experiment
    from tradeoff.forecast.llm import subject

    given = {"model.path": str(refusing[0]), "data.sft": str(refusing[1]), "data.skip_bad": True}
    given |= {"data.preference": "synthetic", "data.limit": 20, "train.max_length": 96}
    settings = experiment.settings(None, given)
    made = subject(settings, experiment.read_rows(settings), replace(EFFORT, features=20))
    # No row is held out either.
    assert made.sizes == (11, 20)
    assert [error.row for error in made.trainer.data.dropped()] == [6]
    found = made.losses(blend([(0.0, made.steps(0, 2, 2, 0))]), (np.arange(3), np.arange(3)))
    assert np.isfinite(found).all()


def test_settings_that_a_forecast_does_not_follow_are_named():
    from tradeoff import experiment
    from tradeoff.forecast.llm import replaced

    assert replaced(experiment.settings(None, {"train.steps": 7})) == []
    other = {"train.loss": "ipo", "train.warmup": 5, "method": "mix+pcgrad"}
    (remark,) = replaced(experiment.settings(None, other))
    for part in ("loss = sigmoid, not ipo", "warmup = 0, not 5", "gradient = none, not PCGrad"):
        assert part in remark
    (remark,) = replaced(experiment.settings(None, {"train.label_smoothing": 0.1}))
    assert remark.endswith("train.label_smoothing = 0.0, not 0.1")


# ---------------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_command_says_which_rows_and_settings_it_leaves_out(refusing, tmp_path, capsys):
    from tradeoff.cli import main

    with pytest.raises(SystemExit) as end:
        main(["forecast", "--model", str(refusing[0]), "--sft", str(refusing[1]), "--skip-bad",
              "--preference", "synthetic", "--rows", "20", "--steps", "40", "--batch-size", "16",
              "--max-length", "96", "--set", "train.chosen_nll=0.5",
              "--out", str(tmp_path)])  # fmt: skip
    assert end.value.code == 0
    record = json.loads((tmp_path / "forecast.json").read_text("utf-8"))
    said = [*record["remarks"], *(f"dropped: {text}" for text in record["dropped"])]
    said += [f"{name}: {count} in the sample" for name, count in record["lost_in_sample"].items()]
    assert "no system turns" in "".join(record["dropped"])
    assert len(record["dropped"]) == 2
    assert {"sft refused": 1, "sft truncated": 1}.items() <= record["lost_in_sample"].items()
    assert sum("chosen_nll = none, not 0.5" in text for text in record["remarks"]) == 1
    shown = capsys.readouterr().out
    for line in said:
        assert line in shown, line


def test_the_calibration_of_the_package_is_that_of_the_stored_run():
    from analysis.fernando2024.forecast.calibrate import stored_run
    from tradeoff.forecast import calibration as package

    known = package.stored()
    assert known is not None
    assert known.record() == stored_run().record()


def test_a_failure_on_another_model_is_said_before_and_after_the_numbers():
    from tradeoff.forecast import calibration as package
    from tradeoff.forecast.sentences import failed, trust

    known = package.stored()
    assert known is not None
    about = known.about["elsewhere"]
    (before,), after = failed(known.about), trust(cast(Any, SimpleNamespace(calibration=known)))[-1]
    for text in (before, after):
        assert about["model"] in text
        assert f"{100 * about['coverage']:.0f} % of the losses" in text
        assert f"{about['widened']['factor']:.1f} times as wide" in text
    for name, (right, of) in about["signs"].items():
        assert f"{right} of {of} {name} losses" in after
    assert failed({**known.about, "elsewhere": None}) == []
    wide = known.elsewhere().half_widths / known.half_widths
    assert wide == pytest.approx(about["widened"]["factor"])
    assert about["widened"]["factor"] > 1
    alone = replace(known, about={**known.about, "elsewhere": None})
    assert alone.elsewhere() is alone


@pytest.mark.slow
def test_the_command_forecasts_and_says_how_far_to_trust_it(tmp_path, capsys):
    from tradeoff.cli import main
    from tradeoff.tiny import random_model

    model, tokenizer = random_model(16, 1)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as end:
        main(["forecast", "--model", str(tmp_path / "model"), "--sft", "synthetic",
              "--preference", "synthetic", "--steps", "20", "--batch-size", "4", "--max-length",
              "64", "--rows", "40", "--json", "--out", str(tmp_path / "out")])  # fmt: skip
    assert end.value.code == 0
    record = json.loads(capsys.readouterr().out)
    assert record["trust"]["goals"]["error"] in (True, False)
    assert any("median error" in sentence for sentence in record["sentences"])
    assert any("short run" in remark for remark in record["remarks"])
    known = stored()
    assert known is not None
    told = pd.DataFrame(record["numbers"])
    half = (to_scale(told["high"]) - to_scale(told["low"])) / 2
    sure = told["low"].to_numpy() > 0
    assert half[sure] == pytest.approx(known.elsewhere().half_widths[sure], rel=1e-4)
    (file,) = record.pop("written")
    assert record == json.loads(Path(file).read_text("utf-8"))


def test_the_command_measures_no_more_rows_than_there_are(tmp_path, capsys, monkeypatch):
    from tradeoff.cli import main

    def stop(*args: object, **kwargs: object) -> None:
        raise InputError("stop", remedy="")

    monkeypatch.setattr("tradeoff.forecast.llm.subject", stop)
    given = ["--sft", "synthetic", "--preference", "synthetic", "--rows", "20"]
    with pytest.raises(SystemExit):
        main(["forecast", "--model", str(tmp_path), *given, "--steps", "5", "--batch-size", "2"])
    assert "4 rows of each set, gradients of 4: about 53 % of one run" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["forecast", "--model", str(tmp_path), *given, "--steps", "900"])
    assert "measuring 20 rows of each set" in capsys.readouterr().out
