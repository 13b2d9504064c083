"""Profiles: found by their bare names after the set-up, never over a user's own, and without clashing keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sightline.cli import main
from sightline.errors import InputError
from sightline.run.profiles import install_profiles

ROOT = Path(__file__).parents[2]
NAMES = {"gpu", "laptop", "slurm"}
_PARSE = (
    "import json, sys; from snakemake.cli import parse_args; args = parse_args(sys.argv[1:])[1];"
    "print('{', json.dumps({'executor': args.executor, 'jobs': args.jobs, 'retries': args.retries,"
    " 'keep_going': args.keep_going, 'partitions': str(getattr(args, 'slurm_partition_config', None)),"
    " 'rerun': args.rerun_incomplete}), sep='')"
)


def parsed(home: Path, *arguments: str) -> dict[str, object]:
    """Returns what Snakemake makes of a command typed in the checkout by a user with this configuration folder."""
    done = subprocess.run(
        [sys.executable, "-c", _PARSE, *arguments],
        cwd=ROOT,
        env={**os.environ, "XDG_CONFIG_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1][1:])


def test_the_slurm_executor_is_picked_by_the_bare_name(tmp_path: Path) -> None:
    install_profiles(ROOT / "profiles", tmp_path / "snakemake")
    found = parsed(tmp_path, "--profile", "slurm", "results/fitcoach_metrics.json")
    assert found == {
        "executor": "slurm",
        "jobs": 100,
        "retries": 3,
        "keep_going": True,
        "partitions": str(tmp_path / "snakemake/slurm/partitions.yaml"),
        "rerun": True,
    }
    assert parsed(tmp_path, "results/fitcoach_metrics.json")["executor"] != "slurm"


def test_the_bare_name_is_unknown_before_the_set_up(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        parsed(tmp_path, "--profile", "slurm")


def test_all_profiles_are_copied_once(tmp_path: Path) -> None:
    first = install_profiles(ROOT / "profiles", tmp_path / "snakemake")
    assert {path.name for path in (tmp_path / "snakemake").iterdir()} == NAMES
    assert all(line.endswith("(copied)") for line in first)
    assert all(line.endswith("(there)") for line in install_profiles(ROOT / "profiles", tmp_path / "snakemake"))


def test_a_users_own_profile_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "slurm"
    own.mkdir()
    (own / "config.yaml").write_text("jobs: 3\n")
    main(["profiles", "--source", str(ROOT / "profiles"), "--target", str(tmp_path)])
    assert (own / "config.yaml").read_text() == "jobs: 3\n"
    assert [path.name for path in own.iterdir()] == ["config.yaml"]
    assert f"profile slurm: {own} (kept as it is" in capsys.readouterr().out


def test_a_folder_without_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no profiles here"):
        install_profiles(tmp_path, tmp_path / "target")


def test_a_target_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        install_profiles(ROOT / "profiles", tmp_path / "file")


def test_the_slurm_profile_says_what_the_site_has_and_no_more() -> None:
    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    profile = yaml.safe_load(text)
    assert not any("array" in key for key in profile), "job arrays lose outputs in this version of the plugin"
    assert not {"set-resources", "set-threads"} & set(profile), "what a rule needs belongs to the rule"
    assert profile["retries"] >= 3
    assert profile["slurm-status-command"] == "squeue", "under sacct a cancelled job is waited for without end"
