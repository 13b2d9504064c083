"""What a job may import: its own environment and the library, nothing that Snakemake brought along."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sightline.run.logs import keep_own_packages
from snakemake.deployment.singularity import get_snakemake_searchpath_mountpoints


@pytest.mark.parametrize("name", ["site-packages", "dist-packages"])
def test_packages_of_other_environments_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    own = tmp_path / "own/lib/python3.11" / name
    foreign = tmp_path / "controller/lib/python3.11" / name
    library, adapters = tmp_path / "checkout/lib", tmp_path / "checkout/workflow_scripts"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "own"))
    monkeypatch.setattr(sys, "path", [str(library), str(own), str(foreign), str(adapters)])
    keep_own_packages()
    assert sys.path == [str(library), str(own), str(adapters)]


def test_an_environment_behind_a_link_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real/lib/site-packages").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "link"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "real/lib/site-packages")])
    keep_own_packages()
    assert sys.path == [str(tmp_path / "real/lib/site-packages")]


def test_what_snakemake_mounts_into_a_container_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = get_snakemake_searchpath_mountpoints()
    assert mounted
    monkeypatch.setattr(sys, "path", ["/checkout/lib", *mounted])
    keep_own_packages()
    assert sys.path == ["/checkout/lib"]
