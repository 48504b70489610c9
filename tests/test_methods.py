"""Methods: the catalogue, JSON round trips, names of the user's own methods, and costs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from tradeoff import parts, study
from tradeoff.convex.instances import random_log_linear
from tradeoff.convex.simulate import trajectories
from tradeoff.errors import InputError
from tradeoff.methods import METHODS, Method, find, names, restored
from tradeoff.methods.anchors import Ewc
from tradeoff.methods.gradients import CaGrad, Mgda, PcGrad, WeightedSum
from tradeoff.methods.losses import Dft, Dpo, Nll, Nominal, Rpo, SimPo
from tradeoff.methods.method import KNOWN
from tradeoff.networks.policies import PolicyConfig, policy_data
from tradeoff.networks.tasks import PolicyTask
from tradeoff.networks.train import grid, train
from tradeoff.schedules import Alright, Maxright, Mix, Rounds, Rule, Schedule, Sequential, Stages

EVERY = [(kind, name) for kind, known in KNOWN.items() for name in known]


@dataclass(frozen=True, kw_only=True)
class Ramp(Schedule):
    """A schedule of the user's own."""

    name: ClassVar[str] = "ramp"
    top: float = 1.0

    def plan(self, steps: int):
        return self._plan(steps, Rule.DRAW, probability=np.linspace(0, self.top, steps))


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_part_comes_back_from_json(kind, name):
    part = KNOWN[kind][name]()
    stored = json.loads(json.dumps(part.to_dict()))
    assert stored["name"] == name == part.name
    assert part.kind == kind
    assert parts.restore(stored, KNOWN[kind], kind) == part
    assert part.label
    assert part.at(0.3) == part.at(0.3)
    assert {part.unsupported(scale) is None for scale in parts.SCALES} <= {True, False}


@pytest.mark.parametrize("name", names())
def test_every_name_is_a_method_that_comes_back_from_json(name):
    for lam in (0.25, 0.75):
        method = find(name, lam)
        assert method.lam == lam
        assert Method.from_dict(json.loads(json.dumps(method.to_dict()))) == method
        assert restored(json.loads(json.dumps(method.to_dict()))) == method
        assert len(method.plan(16)) == 16
        assert method.at(0.5).at(lam) == method


@pytest.mark.parametrize("name", METHODS)
def test_the_key_of_a_method_is_its_name_in_the_catalogue(name):
    assert METHODS[name].key == find(name, 0.3).key == name
    assert find(f"{name}+simpo").key == f"{name}+simpo"


@pytest.mark.parametrize("shown", ["key", "label"])
def test_every_method_of_the_catalogue_has_a_key_and_a_label_of_its_own(shown):
    named = Counter(getattr(find(name), shown) for name in names())
    assert {text: count for text, count in named.items() if count > 1} == {}
    assert find("mix+mgda_unit").key == "mix+mgda-scaled=length"
    assert Rpo(beta=0.5).key == "rpo-beta=0.5" != Rpo(alpha=0.5).key
    assert Rpo(beta=1 / 3).key != Rpo(beta=0.333333).key
    assert find("mgda_unit", 0.2).key == find("mgda_unit", 0.7).key


def test_a_method_is_a_schedule_and_what_it_changes():
    plain = Method(Mix(lam=0.3))
    assert plain.plain
    assert plain.changed() == {}
    assert plain == Method(Mix(lam=0.3), sft=Nll(), preference=Nominal(), gradient=WeightedSum())
    assert plain.to_dict() == {"schedule": {"name": "mix", "lam": 0.3}}
    other = Method(Mix(), gradient=CaGrad(c=0.2), preference=SimPo())
    assert other.changed() == {"preference": SimPo(), "gradient": CaGrad(c=0.2)}
    assert other.label == "Mix, SimPO, CAGrad"
    assert Method(Mix(), name="ours", gradient=PcGrad()).label == "ours"
    assert not other.plain_losses
    assert Method(Mix(), gradient=PcGrad()).plain_losses
    assert restored(Mix(lam=0.3)) == restored({"name": "mix", "lam": 0.3}) == plain
    assert restored(other) is other


def test_names_are_joined_to_one_method():
    assert find("mix+pcgrad") == find("pcgrad") == Method(Mix(), gradient=PcGrad())
    assert find("alright + simpo+dft", 0.2) == Method(
        Alright(lam=0.2), sft=Dft(), preference=SimPo()
    )
    assert find("sft-dpo", 0.2) == Method(Sequential(lam=0.2))
    assert find("dpo-sft").schedule.first == "preference"
    assert set(METHODS) <= set(names())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "unknown method"),
        ("mix+alright", "two parts fill the slot 'schedule'"),
        ("pcgrad+mgda", "two parts fill the slot 'gradient'"),
        ("json:dumps", "without arguments"),
        ("json:nothing", "nothing"),
        ("no_such_module:Name", "no module 'no_such_module'"),
    ],
)
def test_bad_names_are_one_clear_error(name, words):
    with pytest.raises(InputError, match=words):
        find(name)


@pytest.mark.parametrize(
    ("description", "field"),
    [
        ({"name": "mine"}, "schedule.name"),
        ({"schedule": {"name": "mix"}, "speed": {}}, "speed"),
        ({"schedule": {"name": "mix", "lam": 2}}, "schedule.lam"),
        ({"schedule": {"name": "mix"}, "gradient": {"name": "simpo"}}, "gradient.name"),
        ({"schedule": {"name": "mix"}, "gradient": {"name": "json:dumps"}}, "gradient.name"),
        (
            {"schedule": {"name": "mix"}, "preference": {"name": "simpo", "speed": 1}},
            "preference.speed",
        ),
    ],
)
def test_bad_descriptions_name_the_field(description, field):
    with pytest.raises(InputError) as caught:
        restored(description)
    assert caught.value.field == field


# ---------------------------------------------------------------------- the user's own


def test_what_is_not_of_this_package_is_stored_by_where_it_is():
    ramp = Ramp(lam=0.2, top=0.9)
    stored = json.loads(json.dumps(ramp.to_dict()))
    assert stored == {"name": f"{__name__}:Ramp", "lam": 0.2, "top": 0.9}
    assert parts.restore(stored, KNOWN["schedule"], "schedule") == ramp
    assert find(f"{__name__}:Ramp+pcgrad", lam=0.4).schedule == Ramp(lam=0.4)


MODULE = """
from dataclasses import dataclass
from typing import ClassVar

from tradeoff.methods import Method
from tradeoff.methods.gradients import CaGrad, GradientRule
from tradeoff.schedules import Mix


@dataclass(frozen=True, kw_only=True)
class Halves(GradientRule):
    name: ClassVar[str] = "halves"
    share: float = 0.5

    def factors(self, seen, state):
        return seen.weights * self.share, state


ours = Method(Mix(), name="ours", gradient=CaGrad(c=0.1))
half = Method(Mix(), gradient=Halves(share=0.25))


def made():
    return Method(Mix(lam=0.9))


wrong = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current folder, which Python does not find by itself."""
    (tmp_path / "my_methods.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield "my_methods"
    sys.modules.pop("my_methods", None)


def test_a_method_of_a_module_in_the_current_folder(module):
    ours = find(f"{module}:ours", lam=0.2)
    assert ours == Method(Mix(lam=0.2), name="ours", gradient=CaGrad(c=0.1))
    half = find(f"{module}:half")
    stored = json.loads(json.dumps(half.to_dict()))
    assert stored["gradient"] == {"name": "my_methods:Halves", "share": 0.25}
    assert restored(stored) == half
    assert find(f"{module}:made").lam == 0.9
    with pytest.raises(InputError, match="this is no method, but a int"):
        find(f"{module}:wrong")


def test_a_module_that_fails_says_how(tmp_path, monkeypatch):
    (tmp_path / "broken_methods.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="ZeroDivisionError"):
        find("broken_methods:x")


def test_installed_packages_name_methods(tmp_path, monkeypatch):
    (tmp_path / "plugin_methods.py").write_text(MODULE, encoding="utf-8")
    folder = tmp_path / "plugin-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[tradeoff.methods]\nfrom-plugin = plugin_methods:ours\nhalves = plugin_methods:Halves\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert find("from-plugin").label == "ours"
    assert find("mix+halves").gradient.share == 0.5
    assert (
        restored({"schedule": {"name": "mix"}, "gradient": {"name": "halves"}}).label
        == "Mix, halves"
    )


def test_studies_store_methods_by_their_description():
    (found,) = study.grid(method=find("mix+cagrad", 0.3), seed=0)
    assert restored(json.loads(json.dumps(found["method"]))) == find("mix+cagrad", 0.3)


# ---------------------------------------------------------------------- what a method costs


@pytest.mark.parametrize("pair", [1.0, 2.5])
@pytest.mark.parametrize("lam", [0.1, 0.5, 0.8])
def test_updates_are_what_the_plan_costs(pair, lam):
    units = 1000
    expected = {"sft-dpo": 1 - lam + lam * pair, "mix": 1 + pair, "alright": 1 - lam + lam * pair}
    for name, each in expected.items():
        method = find(name, lam)
        count = method.updates(units, pair=pair)
        assert count == pytest.approx(units / each, abs=1)
        spent = method.plan(count).cost(1.0, pair).sum()
        assert spent == pytest.approx(units, abs=2 * each + 1)
    warm = Method(Stages(schedules=(Alright(lam=0.0), Mix()), shares=(0.5, 0.5)))
    assert warm.updates(units, pair=pair) == pytest.approx(units / (0.5 + 0.5 * (1 + pair)), abs=1)
    assert find("maxright", lam).updates(units, looks=1.0) == units // 2


def test_gradients_of_single_rows_count():
    """EWC computes 7 squared gradients of demonstrations before the second stage."""
    ewc = Method(Sequential(share=0.5), anchor=Ewc(count=7))
    plain = Method(Sequential(share=0.5))
    assert plain.updates(100) == 100
    assert ewc.updates(100) == 93
    assert ewc.updates(100, batch=7) == 99
    settings = {"steps": 4, "step_size": 0.1, "replicas": 2, "checkpoints": [2, 4]}
    counts = trajectories(random_log_linear(0), [ewc, plain], engine="numpy", **settings).counts
    np.testing.assert_array_equal(counts[0, 0], [[2, 0], [9, 2]])
    np.testing.assert_array_equal(counts[1, 0], [[2, 0], [2, 2]])
    task = PolicyTask(policy_data(0, prompts=8, demonstrations=12, pairs=12), PolicyConfig(width=4))
    runs = grid([ewc, plain], [0])
    table = train(task, runs, steps=4, learning_rate=0.1, batch_size=3).table
    ends = table[table.step == 4]
    assert ends.sft_updates.tolist() == [5, 2]
    assert ends.preference_updates.tolist() == [2, 2]


def test_what_cannot_run_says_why():
    with pytest.raises(InputError, match="never follows both"):
        Method(Alright(), gradient=Mgda()).plan(10)
    with pytest.raises(InputError, match="not those trained"):
        Method(Maxright(), preference=Dpo()).plan(10)
    assert Method(Rounds()).unsupported("llm") is None
    assert "sees one pair" in find("aot").unsupported("convex")
    with pytest.raises(InputError, match="sees one pair"):
        find("aot").check("convex")
    with pytest.raises(InputError, match="no such scale"):
        find("mix").unsupported("moon")
