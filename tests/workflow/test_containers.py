"""With `--sdm apptainer` a job is started in the container of its stack. No container is built or run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stacks.reach import rules_with_scripts
from tests.workflow.conftest import Checkout

pytestmark = pytest.mark.workflow
# Writes down which image it was asked to run, and fails.
APPTAINER = """#!/bin/sh
if [ "$1" = --version ]; then echo "apptainer version 1.3.4"; exit 0; fi
for word in "$@"; do case "$word" in *.sif) echo "$word" >> {seen} ;; esac; done
exit 1
"""


def test_a_job_asks_for_the_container_of_its_stack(tmp_path: Path) -> None:
    checkout = Checkout.fresh(tmp_path / "checkout")
    tools, seen = tmp_path / "tools", tmp_path / "seen"
    tools.mkdir()
    (tools / "apptainer").write_text(APPTAINER.format(seen=seen))
    (tools / "apptainer").chmod(0o755)
    path = f"{tools}:{checkout.environment['PATH']}"
    output = checkout.snakemake("--sdm", "apptainer", "--retries", "0", ok=False, PATH=path)
    assert seen.is_file(), output[-3000:]
    stack = rules_with_scripts()["fitcoach_demo"][1]
    assert stack is not None
    assert set(seen.read_text().split()) == {str(checkout.folder / "containers" / f"{stack.stem}.sif")}
