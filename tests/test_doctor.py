"""The doctor distinguishes a working machine from a broken one, and says what to do."""

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from tradeoff import cli, convex, doctor, files
from tradeoff.doctor import Finding


@pytest.fixture(scope="module")
def findings():
    return doctor.examine()


def test_this_machine_is_healthy_and_each_remedy_belongs_to_something_missing(findings):
    assert doctor.healthy(findings)
    named = {finding.name: finding for finding in findings}
    assert named["numpy"].value == metadata.version("numpy")
    assert named["matmul float32 on cpu"].ok
    assert named["numba"].value == "compiles"
    assert all(f.ok is not True or not f.remedy for f in findings)
    assert {f.part for f in findings} == {"versions", "extras", "threads", "cpu", "gpu", "folders"}


def test_a_gpu_counts_only_where_all_its_checks_pass():
    seen = Finding("gpu", "cuda:0", "a device")
    right, wrong = Finding("gpu", "matmul", "right", True), Finding("gpu", "matmul", "no", False)
    assert not doctor.gpu_works((seen,))
    assert doctor.gpu_works((seen, right))
    assert not doctor.gpu_works((seen, right, wrong))
    assert doctor.healthy((seen,))
    assert not doctor.healthy((seen,), gpu=True)
    assert not doctor.healthy((seen, right, wrong))


def test_a_device_that_fails_is_reported_with_a_remedy(monkeypatch):
    assert doctor.matmul("gpu", "cpu", torch.bfloat16).ok
    assert doctor.attention("cpu").ok

    def fail(*_, **__):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(torch, "ones", fail)
    for found in (doctor.matmul("gpu", "cpu", torch.float32), doctor.attention("cpu")):
        assert found.ok is False
        assert found.value == "no kernel image"
        assert found.remedy


def test_a_cuda_device_is_described(monkeypatch):
    kind = type("Kind", (), {"name": "Test GPU", "major": 9, "minor": 0})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: kind)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**30, 2**31))
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *a, device, **k: ones(*a, **k))
    found = tuple(doctor.cuda())
    assert any(f.value == "Test GPU, 1.0 of 2.0 GiB free, sm_90" for f in found)
    assert sum(f.ok is True for f in found) == 3
    assert doctor.gpu_works(found)


def test_wanting_packages_are_named(monkeypatch):
    assert doctor._problem(Requirement("numpy")) == ""
    assert "is needed" in doctor._problem(Requirement("numpy>=999"))
    assert doctor._problem(Requirement("no-such-package-anywhere")) == "absent"
    monkeypatch.setattr(doctor, "_problem", lambda r: "absent")
    extras = {f.name: f for f in doctor.extras()}
    assert "scikit-learn" in extras["text"].value
    assert extras["text"].remedy == "pip install -e '.[text]'"
    assert all(f.ok is None for f in extras.values())
    versions = {f.name: f for f in doctor.versions()}
    assert versions["numpy"].ok is False
    assert versions["numpy"].remedy.startswith("pip install 'numpy>=")


def test_folders_are_tried_and_left_as_they_were(tmp_path, monkeypatch):
    assert doctor.writable("a", tmp_path / "not" / "there", "x").ok
    assert list(tmp_path.iterdir()) == []

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    found = doctor.writable("a", tmp_path, "Set X.")
    assert found.ok is False
    assert found.value.endswith("Permission denied")
    assert found.remedy == "Set X."


def test_the_folder_of_compiled_kernels_is_that_of_the_package(monkeypatch):
    """In a wheel the dossiers are in another folder than beside the package."""
    monkeypatch.setattr(doctor, "ROOT", Path("elsewhere"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    found = {finding.name: finding for finding in doctor.folders()}["compiled kernels"]
    assert found.value == str(Path(convex.__file__).parent / "__pycache__")


def test_folders_that_may_not_be_looked_into_are_findings(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.Path, "exists", refuse)
    assert doctor.writable("a", tmp_path / "not" / "there", "Set X.").ok


def test_without_a_home_the_folder_is_to_be_named(monkeypatch):
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setattr(doctor.os.path, "expanduser", lambda path: path)
    found = {finding.name: finding for finding in doctor.folders()}["Hugging Face"]
    assert found.ok is False
    assert found.remedy == "Set HF_HOME."


@pytest.mark.parametrize(
    ("arguments", "ok", "status"), [([], True, 0), (["--gpu"], True, 1), ([], False, 1)]
)
def test_the_command_answers_by_its_exit_status(capsys, monkeypatch, arguments, ok, status):
    found = (Finding("cpu", "[matmul]", "right", ok, "" if ok else "Buy a new one."),)
    monkeypatch.setattr(doctor, "examine", lambda: found)
    with pytest.raises(SystemExit) as left:
        cli.main(["doctor", *arguments, "--json"])
    assert (left.value.code or 0) == status
    record = json.loads(capsys.readouterr().out)
    assert (record["ok"], record["gpu"]) == (ok, False)
    with pytest.raises(SystemExit):
        cli.main(["doctor", *arguments])
    shown = capsys.readouterr().out
    assert "[matmul]" in shown
    assert ("Buy a new one." in shown) is not ok
