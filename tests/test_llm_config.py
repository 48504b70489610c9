"""Settings: their allowed values, their form in files, and the published ones."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from tradeoff import schedules
from tradeoff.data.rows import PreferenceRow, SftRow
from tradeoff.data.synthetic.write import write_jsonl
from tradeoff.errors import InputError
from tradeoff.experiment import read_rows
from tradeoff.llm.config import (
    DataConfig,
    Experiment,
    Lora,
    TrainConfig,
    read_experiment,
)
from tradeoff.llm.defects import Defects
from tradeoff.llm.toml import to_toml, write_experiment
from tradeoff.llm.xright import PUBLISHED, xright
from tradeoff.schedules import Alright, Maxright, Sequential
from tradeoff.settings import build

WRONG: list[tuple[str, Any]] = [
    ("steps", 0),
    ("batch_size", -1),
    ("preference_batch_size", 0),
    ("preference_learning_rate", 0.0),
    ("rows_per_forward", 0),
    ("learning_rate", 0.0),
    ("learning_rate", float("inf")),
    ("decay", "cosin"),
    ("warmup", -1),
    ("betas", (0.9, 1.0)),
    ("epsilon", 0.0),
    ("weight_decay", -0.1),
    ("clip", 0.0),
    ("loss", "dpo"),
    ("beta", -0.1),
    ("label_smoothing", 0.5),
    ("reference_mode", "adapter_off"),
    ("optima", (0.0, float("nan"))),
    ("recent", 0.0),
    ("max_length", 0),
    ("preference_max_length", 0),
    ("layout", "dense"),
    ("precision", "fp16"),
    ("holdout", 1.0),
    ("evaluate_every", 0),
    ("log_every", 0),
    ("keep", 0),
    ("seed", -1),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_setting_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        build(Experiment, {"train": {name: value}}, file="run.toml")
    assert caught.value.file == "run.toml"
    assert caught.value.field == f"train.{name}"
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["decay", "layout", "precision", "reference_mode"])
def test_a_misspelt_choice_is_refused_without_a_file_too(name: str) -> None:
    # Outside the tests nothing checks annotations, so an unknown word once had no effect.
    check = TrainConfig.__post_init__
    config = TrainConfig()
    object.__setattr__(config, name, "misspelt")
    with pytest.raises(InputError, match=f"{name}.*misspelt"):
        check(config)


def test_settings_that_exclude_each_other_are_refused() -> None:
    for settings, match in (
        ({"label_smoothing": 0.1, "loss": "hinge"}, "label_smoothing"),
        ({"label_smoothing": 0.1, "loss": "ipo"}, "label_smoothing"),
        ({"reference_mode": "adapter_off"}, "reference_mode"),
        ({"reference_mode": "second_model", "reference": "stage"}, "reference_mode"),
        ({"reference_mode": "adapter_off", "lora": Lora(), "reference": "x"}, "reference_mode"),
    ):
        with pytest.raises(InputError, match=match):
            TrainConfig(**settings)
    for loss in ("sigmoid_norm", "robust", "exo_pair"):
        made = TrainConfig(label_smoothing=0.2, loss=loss).preference_loss()
        assert made.label_smoothing == 0.2
    TrainConfig(reference_mode="adapter_off", lora=Lora())
    for wrong in ({"rank": 0}, {"alpha": 0}, {"dropout": 1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Lora(**wrong)


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("[train]\nstep = 3", "train.step", "no such setting"),
        ("[trian]\nsteps = 3", "trian", "no such setting"),
        ("[train]\nsteps = 'many'", "train.steps", "not a whole number"),
        ("[train.lora]\nrank = 0", "train.lora", "out of range"),
        ("[train.defects]\nall = true", "train.defects.all", "no such setting"),
        ("[model]\nattention = 'fast'", "model.attention", "not one of"),
        ("[train", None, "cannot be read"),
    ],
)
def test_a_file_with_a_fault_says_where(
    text: str, field: str | None, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=problem) as caught:
        read_experiment(path)
    assert caught.value.file == str(path)
    assert field is None or str(caught.value.field).startswith(field)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape("none.toml")):
        read_experiment(tmp_path / "none.toml")


def test_a_wrong_schedule_is_found_when_it_is_made() -> None:
    with pytest.raises(InputError, match="lam"):
        Experiment(schedule={"name": "alright", "lam": 1.5}).make_schedule()
    with pytest.raises(InputError, match="lambda"):
        Experiment(schedule={"name": "alright", "lambda": 0.5}).make_schedule()


# ---------------------------------------------------------------------- experiments as files


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment(),
        *(xright(model, "maxright", 0.25, defects="all") for model in PUBLISHED),
        Experiment(
            schedule=Sequential(share=0.3, replay=0.1).to_dict(),
            train=TrainConfig(lora=Lora(), evaluate_rows=9, decay="cosine", reference='a "b" é'),
        ),
        Experiment(schedule=Alright(lam=0.1, probability=0.4).to_dict()),
    ],
)
def test_an_experiment_survives_its_file(experiment: Experiment, tmp_path: Path) -> None:
    found = read_experiment(write_experiment(tmp_path / "run.toml", experiment))
    assert replace(found, schedule={}) == replace(experiment, schedule={})
    assert found.make_schedule() == experiment.make_schedule()


def test_schedules_that_look_at_losses_look_at_few_rows_by_default() -> None:
    for name in ("maxright", "smooth_maxright", "constrained"):
        found = Experiment(schedule={"name": name, "refresh": 7}).make_schedule()
        assert (found.to_dict()["refresh"], found.to_dict()["samples"]) == (7, 64)
    assert "samples" not in Experiment(schedule={"name": "mix"}).make_schedule().to_dict()


def test_what_toml_cannot_say_is_not_left_out() -> None:
    never = Experiment(schedule=Maxright(refresh=None).to_dict())
    with pytest.raises(InputError, match=r"schedule\.refresh"):
        to_toml(never)
    with pytest.raises(InputError, match=r"train\.clip"):
        to_toml(Experiment(train=TrainConfig(clip=None)))


def test_each_set_has_its_own_limit() -> None:
    for limits, expected in (({"limit": 5}, (5, 5)), ({"limit": 5, "preference_limit": 3}, (5, 3))):
        rows = read_rows(Experiment(data=DataConfig(**limits)))
        assert (len(rows["sft"]), len(rows["preference"])) == expected


# ---------------------------------------------------------------------- the published settings


@pytest.mark.parametrize("model", PUBLISHED)
@pytest.mark.parametrize(
    "name", ["sequential", "dpo-sft", "mix", "alright", "maxright", "sft", "dpo"]
)
def test_every_published_method_has_the_same_budget(model: str, name: str) -> None:
    experiment = xright(model, name, 0.25, reference="folder")
    train = experiment.train
    assert train.steps == 6000
    assert train.reference == "folder"
    assert train.defects == Defects()
    for objective, rows in enumerate(PUBLISHED[model].rows):
        # An epoch of either set has the same number of updates.
        updates = rows / train.batch(objective)
        assert updates * PUBLISHED[model].epochs == train.steps
    assert (train.learning_rate, train.decay, train.beta, train.clip) == (5e-5, "constant", 0.1, 1)
    assert train.betas == (0.9, 0.95)
    plan = experiment.make_schedule().plan(train.steps)
    assert len(plan) == 6000


def test_the_reference_follows_the_sequential_order() -> None:
    # f_DPO* depends on the reference, and the scripts use one for each order.
    for name, given, least in (
        ("maxright", {}, 0.0522),
        ("maxright", {"trained_on": "demonstrations"}, 0.0522),
        ("maxright", {"trained_on": "chosen"}, 0.0647),
        ("sequential", {}, 0.0522),
        ("dpo-sft", {}, 0.0647),
        ("dpo-sft", {"trained_on": "demonstrations"}, 0.0522),
    ):
        assert xright("pythia-1b", name, **given).train.optima == (1.4980, least)
    assert xright("llama-3-8b", "dpo-sft").train.optima == (1.02426, 0.04935)
    with pytest.raises(InputError, match=r"trained_on.*chosen.*demonstrations"):
        xright("llama-3-8b", "maxright", trained_on="chosen")


def test_sft_on_chosen_responses_has_its_own_settings() -> None:
    experiment = xright("pythia-1b", "sft-chosen")
    train, plan = experiment.train, experiment.make_schedule().plan(experiment.train.steps)
    assert experiment.data.sft == "chosen"
    assert plan.probability.sum() == 0
    # Six passes over as many chosen responses as there are demonstrations.
    assert train.steps * train.batch_size == 6 * 24_000
    assert (train.batch_size, train.decay, train.warmup) == (12, "cosine", 360)
    assert xright("pythia-1b", "sft").data.sft == "vicgalle/alpaca-gpt4"


@pytest.mark.slow
def test_chosen_responses_can_be_the_demonstrations(tmp_path: Path) -> None:
    pairs = [PreferenceRow(f"Ask {i}", f"yes {i}", f"no {i}") for i in range(6)]
    for name, kept in (("train", pairs[:4]), ("test", pairs[4:])):
        write_jsonl(kept, tmp_path / f"{name}.jsonl")
    data = DataConfig(
        sft="chosen",
        preference=str(tmp_path / "train.jsonl"),
        preference_test=str(tmp_path / "test.jsonl"),
        limit=3,
        preference_limit=2,
    )
    rows = read_rows(Experiment(data=data))
    assert list(rows["sft"]) == [SftRow(f"Ask {i}", f"yes {i}") for i in range(3)]
    assert list(rows["sft_test"]) == [SftRow(f"Ask {i}", f"yes {i}") for i in (4, 5)]
    assert list(rows["preference"]) == pairs[:2]
    assert rows["sft"].source == str(tmp_path / "train.jsonl")
    own = replace(data, sft_test=str(tmp_path / "own.jsonl"))
    write_jsonl([SftRow("Say it: ", "it")], tmp_path / "own.jsonl")
    assert list(read_rows(Experiment(data=own))["sft_test"]) == [SftRow("Say it: ", "it")]
    made = read_rows(Experiment(data=DataConfig(sft="chosen", limit=5)))
    assert [row.completion for row in made["sft"]] == [row.chosen for row in made["preference"]]


def test_published_stages_last_as_many_epochs_as_the_tables_say() -> None:
    for lam, epochs in ((0.25, (3, 1)), (0.5, (2, 2)), (0.75, (1, 3))):
        experiment = xright("llama-3-8b", "sequential", lam)
        plan = experiment.make_schedule().plan(experiment.train.steps)
        preference = int(plan.probability.sum())
        assert (6000 - preference, preference) == (epochs[0] * 1500, epochs[1] * 1500)


def test_the_published_maxright_does_not_weigh_its_gradient() -> None:
    made = xright("pythia-1b", "maxright", 0.75).make_schedule()
    assert isinstance(made, Maxright)
    assert (made.refresh, made.weighted, made.lam) == (10, False, 0.75)


def test_all_defects_are_switched_on_together() -> None:
    train = xright("pythia-1b", "mix", defects="all").train
    assert all(getattr(train.defects, item.name) for item in fields(Defects))
    assert train.recent == 1.0


@pytest.mark.parametrize("wrong", [{"model": "gpt-2"}, {"schedule": "both"}, {"lam": -1.0}])
def test_an_unknown_preset_is_named(wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"model": "pythia-1b", "schedule": "mix", **wrong}
    with pytest.raises(InputError, match=next(iter(wrong))):
        xright(**given)


@pytest.mark.parametrize("name", ["maxright", "constrained"])
def test_losses_are_known_from_some_rows_unless_the_table_says_otherwise(name: str) -> None:
    made: Any = Experiment(schedule={"name": name}).make_schedule()
    assert (made.refresh, made.samples) == (10, 64)
    exact: Any = Experiment(schedule={"name": name, "refresh": 1, "samples": 0}).make_schedule()
    assert (exact.refresh, exact.samples) == (1, 0)


def test_every_schedule_of_the_package_can_be_a_table() -> None:
    for kind in schedules.SCHEDULES.values():
        assert Experiment(schedule=kind().to_dict()).make_schedule() == kind()
