"""One writer at a time, also where a file system keeps locks to one machine."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from sightline.errors import StoreError
from sightline.records import lease as module
from sightline.records.lease import lease

LONG_AGO_S = 2 * module._SILENT_S


def held_elsewhere(path: Path, silent_s: float = 0) -> None:
    """Writes what a holder on another machine leaves, whose flock this machine does not see."""
    path.write_text("node7 pid 12")
    touched = time.time() - silent_s
    os.utime(path, (touched, touched))


def test_a_second_holder_waits_and_is_told_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "shard.lock"
    with (
        lease(path),
        pytest.raises(StoreError, match=f"{socket.gethostname()} pid {os.getpid()}"),
        lease(path, timeout_s=0),
    ):
        pass
    with lease(path, timeout_s=0):
        pass


def test_a_holder_on_another_machine_that_lives_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "shard.lock"
    held_elsewhere(path)
    with pytest.raises(StoreError, match="node7 pid 12"), lease(path, timeout_s=0.05):
        pass
    assert path.read_text() == "node7 pid 12", "the living holder's name was overwritten"


def test_a_holder_on_another_machine_that_fell_silent_is_succeeded(tmp_path: Path) -> None:
    path = tmp_path / "shard.lock"
    held_elsewhere(path, LONG_AGO_S)
    with lease(path, timeout_s=0):
        assert path.read_text().startswith(socket.gethostname())
    assert [entry.name for entry in tmp_path.iterdir()] == ["shard.lock"], "something was left behind"


def test_a_holder_that_was_killed_here_is_succeeded_at_once(tmp_path: Path) -> None:
    path = tmp_path / "shard.lock"
    path.write_text(f"{socket.gethostname()} pid 1")
    with lease(path, timeout_s=0):
        pass


def test_another_machine_need_not_wait_after_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shard.lock"
    with lease(path):
        pass
    monkeypatch.setattr(socket, "gethostname", lambda: "node8")
    with lease(path, timeout_s=0):
        pass


def test_a_failure_releases_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shard.lock"
    with pytest.raises(RuntimeError), lease(path):
        raise RuntimeError
    monkeypatch.setattr(socket, "gethostname", lambda: "node8")
    with lease(path, timeout_s=0):
        pass


def test_the_holder_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT_S", 0.02)
    path = tmp_path / "shard.lock"
    with lease(path):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 2
