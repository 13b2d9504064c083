"""A cluster per module, a checkout set up as the README says, and a finished local run to compare with."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from sightline.config.load import merge
from sightline.records.lease import lease

from tests.slurm.slurm_here import Slurm, missing_programs, wait_until
from tests.workflow.conftest import NANO, RUN, Checkout, finished  # noqa: F401 - a fixture

WANTS_GPU = {
    "systems": {
        "fitcoach": {
            "extractors": {"efficientnet3d_demo": {"gpu_memory_gb": 0.1}},
            "variants": {"demo": {"gpu_memory_gb": 0.1}},
        }
    }
}
PARTITIONS = {"cpu": {"max_mem_mb": 64000}, "gpu": {"max_mem_mb": 64000, "max_gpu": 2}}
SITE = {
    "slurm-init-seconds-before-status-checks": 6,  # about what a small job takes; then every 10 s longer
    "latency-wait": 10,
}
_ONE_AT_A_TIME = Path(tempfile.gettempdir(), "slurm-of-tests.lock")  # ports and /etc/slurm are the machine's
_USER_FOLDER = "site/user"
_AFTER_FEATURES = ("runs", "report", "logs", "work/fitcoach", "work/timings", "fitcoach_metrics.json")


class OnCluster(Checkout):
    """A checkout whose owner typed the set-up and edited the copied profile for this site."""

    @classmethod
    def settle(cls, folder: Path, site: dict[str, Any]) -> OnCluster:
        """Writes the small configuration into a checkout's own `config/config.yaml`, and sets up its profiles."""
        cluster = cls(folder)
        path = folder / "config/config.yaml"
        path.write_text(yaml.safe_dump(merge(merge(yaml.safe_load(path.read_text()), NANO), WANTS_GPU)))
        subprocess.run(
            [sys.executable, "-m", "sightline", "profiles"], cwd=folder, env=cluster.environment, check=True, text=True
        )
        cluster.edit_profile({**SITE, **site})
        cluster.edit_partitions(PARTITIONS)
        return cluster

    @property
    def profile(self) -> Path:
        return self.folder / _USER_FOLDER / "snakemake/slurm"

    def edit_profile(self, keys: dict[str, Any]) -> None:
        path = self.profile / "config.yaml"
        content = yaml.safe_load(path.read_text())
        defaults = {**content["default-resources"], **keys.pop("default-resources", {})}
        path.write_text(yaml.safe_dump({**content, **keys, "default-resources": defaults}))

    def edit_partitions(self, partitions: dict[str, Any]) -> None:
        (self.profile / "partitions.yaml").write_text(yaml.safe_dump({"partitions": partitions}))

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "XDG_CONFIG_HOME": str(self.folder / _USER_FOLDER)}

    def command(self, *arguments: str) -> list[str]:
        return ["snakemake", "--profile", "slurm", *arguments]

    def finish(self, run: subprocess.Popen[str], seconds: float = 400) -> str:
        """Waits for a started run to end well and returns what it printed."""
        run.wait(seconds)
        output = (self.folder / "started.log").read_text()
        assert run.returncode == 0, output[-6000:]
        return output

    def first_block(self, run: subprocess.Popen[str]) -> None:
        """Waits until a block is durable; fails as soon as the run has ended."""

        def is_there() -> int:
            assert run.poll() is None, (self.folder / "started.log").read_text()[-3000:]
            return self.lines()

        wait_until(is_there, "the first block", 240, 0.02)

    def lines(self) -> int:
        """Counts the finished blocks."""
        return sum(path.read_bytes().count(b"\n") for path in (self.folder / "results/work/fitcoach").rglob("*.jsonl"))


def numbers(checkout: Checkout) -> dict[str, str]:
    """Returns the digests of what a run is for: they must not depend on where and how often its jobs ran."""
    files = [f"{RUN}/{name}.parquet" for name in ("samples", "predictions", "scores")]
    return checkout.digest(*files, "results/fitcoach_metrics.json")


def adapters(folder: Path, script: str, job: int | None = None) -> list[psutil.Process]:
    """Returns the running processes of one adapter in a checkout, of one SLURM job or of any."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_it = any(word.endswith(script) for word in process.cmdline()) and process.name().startswith("python")
            mine = job is None or process.environ().get("SLURM_JOB_ID") == str(job)
            if is_it and mine and process.cwd() == str(folder):
                found.append(process)
    return found


class DeviceWatch:
    """Notes, while it is open, which node and GPU every running job of an adapter was given."""

    def __init__(self, folder: Path, *scripts: str) -> None:
        self.folder, self.scripts = folder, scripts
        self.seen: list[dict[tuple[str, str], str]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._end.wait(0.1):
            self.seen.append(self._look())

    def _look(self) -> dict[tuple[str, str], str]:
        """Returns (SLURM job, adapter) -> node and GPU, of the jobs that run at this moment."""
        found = {}
        for script in self.scripts:
            for process in adapters(self.folder, script):
                with contextlib.suppress(psutil.Error, KeyError):
                    inside = process.environ()
                    device = f"{inside['SLURMD_NODENAME']}:{inside['CUDA_VISIBLE_DEVICES']}"
                    found[inside["SLURM_JOB_ID"], script] = device
        return found

    def __enter__(self) -> DeviceWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture(scope="session", autouse=True)
def _machine() -> None:
    """These tests never skip: where they cannot run, they fail and say why."""
    assert os.getuid() == 0, "tests/slurm starts daemons and makes devices: run `make test-slurm` as root"
    assert not missing_programs(False), f"not installed: {missing_programs(False)}; run `make test-slurm`"


@pytest.fixture(scope="module")
def slurm(request: pytest.FixtureRequest) -> Iterator[Slurm]:
    """A cluster of the module's own, with accounting where the module says `ACCOUNTING = True`."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    cluster = Slurm(folder, accounting=getattr(request.module, "ACCOUNTING", False))
    with lease(_ONE_AT_A_TIME):
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _on(slurm: Slurm, checkout: Checkout, *dropped: str) -> Iterator[OnCluster]:
    for name in dropped:
        path = checkout.folder / "results" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    slurm.forget_jobs()
    try:
        yield OnCluster.settle(checkout.folder, slurm.site)
    finally:
        slurm.cancel_all()
        for process in psutil.process_iter():  # what escaped: here nothing but parents tie a job together
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(checkout.folder):
                    process.kill()
        shutil.rmtree(checkout.folder, ignore_errors=True)


@pytest.fixture
def fresh(slurm: Slurm, tmp_path: Path) -> Iterator[OnCluster]:
    """A checkout in which nothing was made yet."""
    yield from _on(slurm, Checkout.fresh(tmp_path / "checkout"))


@pytest.fixture
def acquired(finished: Checkout, slurm: Slurm, tmp_path: Path) -> Iterator[OnCluster]:  # noqa: F811
    """Data and weights are there, features are not."""
    yield from _on(slurm, finished.copy(tmp_path / "checkout"), "features", "work/features", *_AFTER_FEATURES)


@pytest.fixture
def extracted(finished: Checkout, slurm: Slurm, tmp_path: Path) -> Iterator[OnCluster]:  # noqa: F811
    """Features are there, predictions are not."""
    yield from _on(slurm, finished.copy(tmp_path / "checkout"), *_AFTER_FEATURES)
