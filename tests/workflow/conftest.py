"""A checkout in a temporary folder with a two-workout configuration, run once and copied for each test."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sightline.assets.wordnet import build_wordnet

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "rules", "workflow_scripts", "lib", "config", "envs", "profiles")
RUN = "results/runs/fitcoach/demo_test/demo"
NANO = {
    "runs": [{"system": "fitcoach", "datasets": ["demo_test"], "variants": ["demo"]}],
    "datasets": {"demo_test": {"videos": 2, "items": 6, "video_seconds": 75}},
    "assets": {"fitcoach_demo": {"generator": {"test_workouts": 2, "train_workouts": 1}}},
    "systems": {
        "fitcoach": {
            "extractors": {"efficientnet3d_demo": {"shard_minutes": 0.25}},
            # Untrained: what most tests look at does not depend on what is said.
            "variants": {
                "demo": {
                    "trained_by": None,
                    "to_beat": None,
                    "seconds_per_item": 5,
                    "shard_minutes": 0.25,
                    "block_size": 1,
                }
            },
            "bootstrap": {"replicates": 50},
        }
    },
}


class Checkout:
    """A copy of the workflow that Snakemake runs in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def fresh(cls, folder: Path) -> Checkout:
        folder.mkdir(parents=True)
        for name in PARTS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, folder / name)
        build_wordnet(target=folder / "results/assets/wordnet/corpora/wordnet")
        checkout = cls(folder)
        checkout.configure(NANO)
        return checkout

    def copy(self, folder: Path) -> Checkout:
        """Returns an independent copy with all results; times are kept, so nothing looks outdated."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Checkout(folder)

    def configure(self, content: dict[str, Any]) -> None:
        (self.folder / "nano.yaml").write_text(yaml.safe_dump(content))

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SNAKEMAKE"))}
        return {**inherited, "PATH": f"{Path(sys.executable).parent}:{inherited['PATH']}", "OMP_NUM_THREADS": "1"}

    def command(self, *arguments: str) -> list[str]:
        return ["snakemake", "--configfile", "nano.yaml", "--cores", "2", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts Snakemake in a process group of its own."""
        with open(self.folder / "started.log", "a") as log:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def snakemake(self, *arguments: str, ok: bool = True, **environment: str) -> str:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
        )
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, output[-6000:]
        return output

    def planned(self, *arguments: str) -> dict[str, int]:
        """Returns rule -> number of jobs of a dry-run; empty when there is nothing to do."""
        output = self.snakemake("-n", *arguments)
        if "Nothing to be done" in output:
            return {}
        block = output.split("Job stats:")[1].split("total")[0]
        return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", block, re.M)}

    def counts(self, rule: str) -> dict[str, int]:
        """Returns the counts of all jobs of a rule, added up, from their timing records."""
        total: dict[str, int] = {}
        for path in (self.folder / "results/work/timings").glob(f"{rule}~*.json"):
            for name, value in json.loads(path.read_text())["counts"].items():
                total[name] = total.get(name, 0) + value
        return total

    def forget_timings(self) -> None:
        shutil.rmtree(self.folder / "results/work/timings", ignore_errors=True)

    def digest(self, *names: str) -> dict[str, str]:
        return {name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in names}

    def results(self) -> dict[str, str]:
        """Returns the digests of what must be byte-identical whatever happened on the way."""
        return self.digest(
            f"{RUN}/samples.parquet",
            f"{RUN}/predictions.parquet",
            f"{RUN}/scores.parquet",
            f"{RUN}/views.parquet",
            "results/fitcoach_metrics.json",
            "results/report/comparison.html",
            "results/report/samples.html",
        )

    def feature_digests(self) -> dict[str, str]:
        index = json.loads((self.folder / "results/features/demo_test/efficientnet3d_demo/index.json").read_text())
        return {key: item["digest"] for key, item in index["items"].items()}


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Polls every few milliseconds until `condition` gives something true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.003)
    raise AssertionError(f"nothing happened within {seconds} s")


def kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILLs Snakemake and every job it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A run that ended undisturbed. Tests must not change it; they copy it."""
    checkout = Checkout.fresh(tmp_path_factory.mktemp("finished") / "checkout")
    checkout.snakemake()
    return checkout


@pytest.fixture
def again(finished: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A copy of the finished run."""
    yield finished.copy(tmp_path / "checkout")
    shutil.rmtree(tmp_path / "checkout", ignore_errors=True)


@pytest.fixture
def acquired(finished: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A copy in which data and weights are there and nothing was computed from them."""
    checkout = finished.copy(tmp_path / "checkout")
    for name in ("features", "runs", "report", "work", "logs", "benchmarks"):
        shutil.rmtree(checkout.folder / "results" / name, ignore_errors=True)
    (checkout.folder / "results/fitcoach_metrics.json").unlink()
    yield checkout
    shutil.rmtree(tmp_path / "checkout", ignore_errors=True)
