"""GPUs are held by lease: never twice, freed however the holder ends, and only those that may be used."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sightline.errors import DeviceError
from sightline.run.gpus import gpu_lease, lease_folder, machine_gpus, visible_gpus
from sightline.run.logs import stage

HOLDER = Path(__file__).with_name("gpu_holder.py")


class Holder:
    """A process that holds GPUs until it is told to let go."""

    def __init__(self, count: int, folder: Path, gpus: str, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "SLURM_"))}
        self.process = subprocess.Popen(
            [sys.executable, HOLDER, str(count), folder, gpus],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**clean, **environment},
            text=True,
            bufsize=1,
        )

    def says(self, within_s: float = 30) -> dict | None:
        """Returns its next line, or None if it says nothing in that time."""
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], within_s)
        return json.loads(self.process.stdout.readline()) if ready else None

    def let_go(self) -> dict | None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        return self.says()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    started: list[Holder] = []
    yield started
    for holder in started:
        holder.kill()


def next_to_speak(holders: list[Holder]) -> Holder:
    ready, _, _ = select.select([holder.process.stdout for holder in holders], [], [], 30)
    return next(holder for holder in holders if holder.process.stdout in ready)


def test_processes_never_share_a_device_and_take_turns(tmp_path: Path, holders: list[Holder]) -> None:
    holders += [Holder(1, tmp_path, "0,1") for _ in range(4)]
    waiting = list(holders)
    while waiting:
        pair = []
        for _ in range(2):
            pair.append(next_to_speak(waiting))
            waiting.remove(pair[-1])
        said = [holder.says() for holder in pair]
        assert sorted(answer["seen"] for answer in said if answer) == ["0", "1"]
        assert all(holder.says(0.5) is None for holder in waiting), "a third job took a device"
        for holder in pair:
            assert holder.let_go() == {"seen": None}, "the environment was not put back"


def test_a_killed_holder_frees_its_device(tmp_path: Path, holders: list[Holder]) -> None:
    first = Holder(1, tmp_path, "0")
    holders.append(first)
    assert first.says() == {"held": ["0"], "seen": "0"}
    second = Holder(1, tmp_path, "0")
    holders.append(second)
    assert second.says(1.0) is None
    first.kill()
    assert second.says(10) == {"held": ["0"], "seen": "0"}


def test_jobs_that_want_several_get_all_or_wait(tmp_path: Path, holders: list[Holder]) -> None:
    holders += [Holder(2, tmp_path, "0,1,2") for _ in range(2)]
    first = next_to_speak(holders)
    (second,) = [holder for holder in holders if holder is not first]
    assert first.says() == {"held": ["0", "1"], "seen": "0,1"}
    assert second.says(1.0) is None
    single = Holder(1, tmp_path, "0,1,2")
    holders.append(single)
    assert single.says() == {"held": ["2"], "seen": "2"}, "a waiting job holds nothing"
    first.let_go()
    assert second.says() == {"held": ["0", "1"], "seen": "0,1"}


def test_what_is_visible_goes_before_what_the_machine_has(tmp_path: Path, holders: list[Holder]) -> None:
    holder = Holder(1, tmp_path, "0,1,2,3", CUDA_VISIBLE_DEVICES="3,GPU-8f6e")
    holders.append(holder)
    assert holder.says() == {"held": ["3"], "seen": "3"}
    other = Holder(1, tmp_path, "0,1,2,3", CUDA_VISIBLE_DEVICES="3,GPU-8f6e")
    holders.append(other)
    assert other.says() == {"held": ["GPU-8f6e"], "seen": "GPU-8f6e"}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("0,1", ["0", "1"]),
        (" 2 , MIG-GPU-1/2/3", ["2", "MIG-GPU-1/2/3"]),
        ("1,-1,0", ["1"]),
        ("", []),
        ("NoDevFiles", []),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(value: str, found: list[str]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": value}) == found
    assert visible_gpus({}) is None


def test_a_job_without_gpus_sees_none(tmp_path: Path) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "0,1"}
    with gpu_lease(0, environment, folder=tmp_path) as held:
        assert held == []
        assert environment == {"CUDA_VISIBLE_DEVICES": ""}
    assert environment == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert list(tmp_path.iterdir()) == []


def test_the_order_of_nvidia_smi_is_that_of_the_bus(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    with gpu_lease(1, environment, gpus=["0", "1"], folder=tmp_path):
        assert environment == {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert environment == {}


def test_more_than_there_are_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"asks for 2 GPUs and 1 can be used here \(0\)"):  # noqa: SIM117
        with gpu_lease(2, {}, gpus=["0"], folder=tmp_path):
            pass


def test_without_any_gpu_nothing_is_changed(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    with gpu_lease(1, environment, gpus=[], folder=tmp_path) as held:
        assert (held, environment) == ([], {})


def test_what_slurm_gave_is_shared_out_within_its_job_only(tmp_path: Path) -> None:
    """Two jobs that were given `0` may mean two devices: where SLURM hides the others, numbers start again."""
    given = {"SLURM_JOB_ID": "71", "CUDA_VISIBLE_DEVICES": "0"}
    with gpu_lease(1, {}, gpus=["0"], folder=lease_folder({}, tmp_path)):
        environment = dict(given)
        with gpu_lease(1, environment, gpus=["5"], folder=lease_folder(given, tmp_path)) as held:
            assert held == ["0"]
            assert environment == given
            another = {**given, "SLURM_JOB_ID": "72"}
            with gpu_lease(1, another, folder=lease_folder(another, tmp_path)) as held:
                assert held == ["0"]
    assert lease_folder({"SLURM_JOB_ID": "71"}, tmp_path).name == "machine", "SLURM that manages no GPUs gave none"


def test_a_lock_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"sightline-gpus-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceError, match="not a folder of yours"):
        lease_folder({}, tmp_path)


def test_the_gpus_of_this_machine_are_asked_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_gpus() == []
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    program.chmod(0o755)
    assert machine_gpus() == ["0", "1"]
    program.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert machine_gpus() == []


def test_a_stage_records_the_devices_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    job = SimpleNamespace(rule="predict", wildcards=["1-of-2"], log=["predict.log"], resources={"gpu": 1})
    with stage(job):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert json.loads(Path("results/work/timings/predict~1-of-2.json").read_text())["gpus"] == ["1"]
    assert "GPU 1 is held by this job" in Path("predict.log").read_text()
    job.resources = {}
    with stage(job):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
