"""Blocks, shards, journal, merge: results are a function of the samples, whatever happens on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sightline.errors import ConfigError, InputError, ResumableStop, StoreError
from sightline.records.files import key_of_text
from sightline.records.rows import (
    Journal,
    read_lines,
    read_predictions,
    read_samples,
    sample_texts,
    write_lines,
    write_parquet,
)
from sightline.records.types import Prediction, Sample
from sightline.run.lock import HOLDER, LOCKS, note_holder, release_dead_lock
from sightline.run.merge import merge_predictions
from sightline.run.shards import (
    cut_blocks,
    deal_out,
    draw_samples,
    ids_of_shard,
    make_plan,
    run_shard,
    sample_key,
    shard_names,
    shard_number,
)


def sample(number: int, group: str, cost: float = 1.0) -> Sample:
    return Sample(f"s{number:03d}", group, group, [f"media-{number}"], cost, {"number": number})


SAMPLES = [sample(number, f"g{number // 3}", 1 + number % 5) for number in range(20)]


class Echo:
    """Answers with the sample's number; can fail, run out of memory, or count its calls."""

    def __init__(self, *, memory: int = 100, fail_at: str | None = None) -> None:
        self.batch_limit = 32
        self.memory = memory
        self.fail_at = fail_at
        self.calls: list[list[str]] = []

    def predict(self, samples: list[Sample]) -> list[Prediction]:
        self.calls.append([item.id for item in samples])
        if min(self.batch_limit, len(samples)) > self.memory:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        if self.fail_at in self.calls[-1]:
            raise ValueError("the model broke")
        return [Prediction(item.id, "ok", output=item.payload) for item in reversed(samples)]


def run(tmp_path: Path, shards: int, echo: Echo, work: str = "work") -> Path:
    """Runs all shards and merges; returns the merged file."""
    plan = make_plan(SAMPLES, shards, block_size=4, declared_seconds=None)
    write_parquet(tmp_path / "samples.parquet", Sample, SAMPLES)
    files = []
    for name in shard_names(shards):
        rows, _ = run_shard(
            plan=plan, shard=name, samples=SAMPLES, run_key="k" * 32, work=tmp_path / work, load_predictor=lambda: echo
        )
        files.append(tmp_path / f"{name}.jsonl")
        write_lines(files[-1], (row.to_json() for row in rows))
    merge_predictions(tmp_path / "samples.parquet", files, tmp_path / "merged.parquet")
    return tmp_path / "merged.parquet"


def test_merged_bytes_do_not_depend_on_sharding(tmp_path: Path) -> None:
    seen = set()
    for shards in (1, 2, 3, 7, 20):
        folder = tmp_path / str(shards)
        folder.mkdir()
        seen.add(run(folder, shards, Echo()).read_bytes())
    assert len(seen) == 1


def test_another_shard_count_computes_nothing_again(tmp_path: Path) -> None:
    first, second = Echo(), Echo()
    run(tmp_path, 2, first)
    run(tmp_path, 5, second)
    assert sum(map(len, first.calls)) == len(SAMPLES)
    assert second.calls == []


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 8), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_blocks_cover_samples_and_keep_groups_together(sizes: list[int], block: int, shards: int) -> None:
    numbers = iter(range(1000))
    samples = [sample(next(numbers), f"g{index:02d}") for index, size in enumerate(sizes) for _ in range(size)]
    bundles = cut_blocks(samples, block)
    flat = [name for bundle in bundles for one in bundle for name in one]
    assert sorted(flat) == sorted(item.id for item in samples)
    assert all(0 < len(one) <= block for bundle in bundles for one in bundle)
    home = {name: index for index, bundle in enumerate(bundles) for one in bundle for name in one}
    for group in {item.group for item in samples}:
        assert len({home[item.id] for item in samples if item.group == group}) == 1
    plan = make_plan(samples, shards, block_size=block, declared_seconds=None)
    dealt = [name for blocks in plan["shards"].values() for one in blocks for name in one]
    assert sorted(dealt) == sorted(flat)


def test_blocks_do_not_depend_on_the_order_of_samples() -> None:
    shuffled = SAMPLES[:]
    random.Random(1).shuffle(shuffled)
    assert cut_blocks(shuffled, 4) == cut_blocks(SAMPLES, 4)


def test_costs_are_dealt_evenly() -> None:
    costs = [float(1 + index % 7) for index in range(100)]
    loads = [sum(costs[position] for position in hand) for hand in deal_out(costs, 8)]
    assert max(loads) <= 1.1 * sum(costs) / 8


def test_a_card_that_declares_far_too_little_stops_the_run() -> None:
    with pytest.raises(ConfigError, match="seconds_per_item"):
        make_plan(SAMPLES, 2, declared_seconds=1.0)


def test_two_samples_with_one_id_are_refused() -> None:
    with pytest.raises(InputError, match="s001"):
        make_plan([*SAMPLES, sample(1, "other")], 2, declared_seconds=None)


def test_out_of_memory_halves_the_batch_and_keeps_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    tight = Echo(memory=1)
    assert run(tmp_path / "a", 1, tight).read_bytes() == run(tmp_path / "b", 1, Echo()).read_bytes()
    assert tight.batch_limit == 1


def test_a_sample_that_never_fits_fails_alone(tmp_path: Path) -> None:
    rows = read_predictions(run(tmp_path, 1, Echo(memory=0)))
    assert {row.status for row in rows} == {"failed"}
    assert {row.reason for row in rows} == {"out_of_memory"}
    again = read_predictions(run(tmp_path, 1, Echo()))
    assert {row.status for row in again} == {"ok"}, "the next attempt, with more memory, tries again"


def test_a_crash_keeps_finished_blocks(tmp_path: Path) -> None:
    broken = Echo(fail_at="s010")
    with pytest.raises(ValueError, match="broke"):
        run(tmp_path, 1, broken)
    again = Echo()
    run(tmp_path, 1, again)
    assert sum(map(len, again.calls)) < len(SAMPLES)
    done_before = {name for call in broken.calls[:-1] for name in call}
    assert not done_before & {name for call in again.calls for name in call}


def test_damaged_and_torn_lines_are_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = run(tmp_path, 1, Echo()).read_bytes()
    (journal,) = (tmp_path / "work").rglob("*.jsonl")
    lines = journal.read_bytes().splitlines()
    damaged = bytearray(lines[1])
    damaged[40] ^= 1
    journal.write_bytes(b"\n".join([lines[0], bytes(damaged), *lines[2:-1], lines[-1][: len(lines[-1]) // 2]]))
    again = Echo()
    assert run(tmp_path, 1, again).read_bytes() == expected
    assert len(again.calls) == 2
    assert "damaged" in caplog.text


def test_another_run_key_is_never_served(tmp_path: Path) -> None:
    plan = make_plan(SAMPLES, 1, block_size=4, declared_seconds=None)
    counts = []
    for key in ("a" * 32, "b" * 32, "a" * 32):
        _, count = run_shard(
            plan=plan, shard="1-of-1", samples=SAMPLES, run_key=key, work=tmp_path, load_predictor=Echo
        )
        counts.append(count["computed_samples"])
    assert counts == [len(SAMPLES), len(SAMPLES), 0]


def test_sigterm_finishes_the_block_and_says_how_to_go_on(tmp_path: Path) -> None:
    class Stopping(Echo):
        def predict(self, samples: list[Sample]) -> list[Prediction]:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().predict(samples)

    with pytest.raises(ResumableStop, match=r"SIGTERM with 1 of \d+ blocks durable"):
        run(tmp_path, 1, Stopping())
    again = Echo()
    run(tmp_path, 1, again)
    assert sum(map(len, again.calls)) == len(SAMPLES) - 4 or sum(map(len, again.calls)) == len(SAMPLES) - 3


def test_journal_survives_sigkill_at_any_time(tmp_path: Path) -> None:
    code = (
        "import sys; from sightline.records.rows import Journal; from sightline.records.types import Prediction\n"
        "journal = Journal(sys.argv[1], 'w')\n"
        "for number in range(100000):\n"
        "    journal.append(f'b{number}', [Prediction(f's{number}', 'ok', output={'text': 'x' * 500})])\n"
        "    print(number, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    confirmed = 0
    for line in writer.stdout:
        confirmed = int(line)
        if confirmed == 25:
            writer.kill()
            break
    writer.wait()
    writer.stdout.close()
    with Journal(tmp_path, "w") as journal:
        assert all(f"b{number}" in journal for number in range(confirmed + 1))


def test_a_second_job_on_one_shard_waits_and_recomputes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time, json; sys.path.insert(0, sys.argv[2]); from tests.unit import test_run as t\n"
        "class Slow(t.Echo):\n"
        "    def predict(self, samples):\n"
        "        time.sleep(0.15); return super().predict(samples)\n"
        "echo = Slow(); plan = t.make_plan(t.SAMPLES, 1, block_size=4, declared_seconds=None)\n"
        "rows, counts = t.run_shard(plan=plan, shard='1-of-1', samples=t.SAMPLES, run_key='k' * 32,\n"
        "    work=sys.argv[1], load_predictor=lambda: echo)\n"
        "print(json.dumps(counts))\n"
    )
    root = str(Path(__file__).parents[2])
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), root], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    computed = sorted(json.loads(out)["computed_samples"] for out, _ in outputs)
    assert computed == [0, len(SAMPLES)]


def merged(tmp_path: Path, rows: list[list[Prediction]], samples: list[Sample]) -> Path:
    write_parquet(tmp_path / "samples.parquet", Sample, samples)
    files = []
    for index, shard in enumerate(rows):
        files.append(tmp_path / f"{index}.jsonl")
        write_lines(files[-1], (row.to_json() for row in shard))
    merge_predictions(tmp_path / "samples.parquet", files, tmp_path / "merged.parquet")
    return tmp_path / "merged.parquet"


def answered(samples: list[Sample], run_key: str = "r") -> list[Prediction]:
    from sightline.run.shards import prediction_key

    return [Prediction(item.id, "ok", output={"n": 1}, key=prediction_key(run_key, item)) for item in samples]


def test_merge_refuses_missing_extra_conflicting_and_stale(tmp_path: Path) -> None:
    rows = answered(SAMPLES)
    with pytest.raises(StoreError, match="1 samples have no prediction: s019"):
        merged(tmp_path, [rows[:-1]], SAMPLES)
    with pytest.raises(StoreError, match="belong to no sample: s019"):
        merged(tmp_path, [rows], SAMPLES[:-1])
    other = Prediction("s003", "ok", output={"n": 2}, key=rows[3].key)
    with pytest.raises(StoreError, match=r"conflicts with the prediction in .*0\.jsonl"):
        merged(tmp_path, [rows, [other]], SAMPLES)
    with pytest.raises(StoreError, match="2 different settings"):
        merged(tmp_path, [rows[:5], answered(SAMPLES[5:], "q")], SAMPLES)
    changed = [*SAMPLES[:-1], Sample("s019", "g6", "g6", ["media-19"], 1.0, {"number": -1})]
    with pytest.raises(StoreError, match="another version of their sample: s019"):
        merged(tmp_path, [rows], changed)
    assert not (tmp_path / "merged.parquet").exists()


@pytest.mark.parametrize("awkward", ["", 'quo"te', "back\\slash", "line\nend", "bell\x07", "\u2028ü\x7f"])
def test_keys_read_from_the_file_are_the_keys_of_the_samples(tmp_path: Path, awkward: str) -> None:
    payload = {"b": [1.5, "ü\u2028"], "a": {"z": None, "y": 1e-7}}
    samples = [*SAMPLES, Sample("s9", "g", "c", ["m1", "m2"], 0.1, payload), Sample("s91", "g", "c", [], 0.1, {})]
    if awkward:
        samples.append(Sample("s92", awkward, "c", [awkward, ""], 0.1, {}))
    write_parquet(tmp_path / "samples.parquet", Sample, samples)
    texts = sample_texts(tmp_path / "samples.parquet")
    assert {name: key_of_text(text)[:16] for name, text in texts} == {item.id: sample_key(item) for item in samples}


def test_merged_bytes_do_not_depend_on_how_a_row_is_spelled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        replace(row, output={"z": value, "a": [1]})
        for row, value in zip(
            answered(SAMPLES), ["ü\u2028", 1e-5, 1e16, 0.1, -0.0, 10**30, 'qu"ote', None] * 3, strict=False
        )
    ]
    rows[3] = replace(rows[3], status="failed", reason='no "answer"', output={})
    rows[4] = replace(rows[4], seed=7, files={"b": 1, "a": {"output": {}}})
    merged(tmp_path, [rows], SAMPLES)
    found = tmp_path / "merged.parquet"
    once = found.read_bytes()
    write_parquet(tmp_path / "whole.parquet", Prediction, rows)
    assert once == (tmp_path / "whole.parquet").read_bytes()
    assert 's003 failed: no "answer"' in caplog.text
    spelled = [json.dumps(dict(reversed(row.to_json().items())), indent=None, ensure_ascii=True) for row in rows]
    (tmp_path / "foreign.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(spelled).encode())
    merge_predictions(tmp_path / "samples.parquet", [tmp_path / "foreign.jsonl", tmp_path / "0.jsonl"], found)
    assert found.read_bytes() == once
    assert caplog.text.count("identical row") == len(SAMPLES)


def test_merge_of_nothing_and_of_many_row_groups(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    write_parquet(tmp_path / "samples.parquet", Sample, [])
    assert merge_predictions(tmp_path / "samples.parquet", [tmp_path / "none.jsonl"], tmp_path / "merged.parquet") == {
        "samples": 0, "ok": 0, "failed": 0,
    }  # fmt: skip
    assert read_predictions(tmp_path / "merged.parquet") == []
    many = [sample(number, f"g{number}") for number in range(2500)]
    rows = answered(many)
    merged(tmp_path, [rows[1::2], rows[::2]], many)
    write_parquet(tmp_path / "whole.parquet", Prediction, rows)
    assert (tmp_path / "merged.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_merge_collapses_identical_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = answered(SAMPLES)
    once = merged(tmp_path, [rows], SAMPLES).read_bytes()
    assert merged(tmp_path, [rows[:10], rows[8:]], SAMPLES).read_bytes() == once
    assert "identical row for s008" in caplog.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "s000"', "line 1 is not valid JSON"),
        ('{"id": "s000", "status": "ok", "output": NaN}', "NaN is not valid JSON"),
        ('{"id": "s000", "status": "done"}', "status 'done' is unknown"),
        ('{"id": "../x", "status": "ok"}', "not a slug"),
        ('{"id": "s000", "status": "ok", "ouput": {}}', "field ouput"),
        ('{"status": "ok"}', "field id"),
        ("[1]", "expected a JSON object"),
        ('{"id": "s000", "status": "ok", "output": {"text": "\\ud800"}}', "line 1 is not valid JSON"),
        ('{"id": "s000", "status": "ok", "reason": 1}', "field reason"),
    ],
)
def test_malformed_rows_name_file_and_field(tmp_path: Path, line: str, words: str) -> None:
    write_parquet(tmp_path / "samples.parquet", Sample, SAMPLES)
    shard = tmp_path / "shard.jsonl"
    shard.write_text(line + "\n")
    with pytest.raises(InputError) as caught:
        merge_predictions(tmp_path / "samples.parquet", [shard], tmp_path / "merged.parquet")
    assert words in str(caught.value)
    assert "shard.jsonl" in str(caught.value)


def test_json_lines_tolerate_crlf_bom_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert [row for _, row in read_lines(path)] == [{"a": 1}, {"a": 2}]


def test_a_draw_is_seeded_and_sorted() -> None:
    drawn = draw_samples(SAMPLES, 5, seed=3)
    assert drawn == draw_samples(list(reversed(SAMPLES)), 5, seed=3)
    assert [item.id for item in drawn] == sorted(item.id for item in drawn)
    assert drawn != draw_samples(SAMPLES, 5, seed=4)
    assert [item.id for item in drawn] != [item.id for item in SAMPLES[:5]]


def test_shard_names() -> None:
    assert shard_names(3) == ["1-of-3", "2-of-3", "3-of-3"]
    assert shard_number("2-of-3") == (2, 3)
    for wrong in ("0-of-3", "4-of-3", "x", "1-of-3x"):
        with pytest.raises(InputError):
            shard_number(wrong)


def test_lock_of_a_dead_run_is_removed_and_of_a_living_one_kept(tmp_path: Path) -> None:
    lock = tmp_path / LOCKS / "0.input.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert not release_dead_lock(tmp_path), "nobody knows the holder"
    note_holder(tmp_path)
    assert not release_dead_lock(tmp_path), "this process lives"
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    holder = json.loads((tmp_path / HOLDER).read_text())
    (tmp_path / HOLDER).write_text(json.dumps({**holder, "host": "elsewhere", "pid": dead.pid}))
    assert not release_dead_lock(tmp_path), "another host may be alive"
    (tmp_path / HOLDER).write_text(json.dumps({**holder, "pid": dead.pid}))
    assert release_dead_lock(tmp_path)
    assert not lock.exists()


def test_lock_of_a_reused_pid_is_removed(tmp_path: Path) -> None:
    lock = tmp_path / LOCKS / "0.input.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    note_holder(tmp_path)
    holder = json.loads((tmp_path / HOLDER).read_text())
    (tmp_path / HOLDER).write_text(json.dumps({**holder, "start": "1"}))
    assert release_dead_lock(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    from sightline.records.files import whole_file, write_text

    target = tmp_path / "file.txt"
    write_text(target, "old")

    def interrupted() -> None:
        with whole_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_time_of_the_journal_is_in_appends_not_in_rewrites(tmp_path: Path) -> None:
    """Bytes written are the bytes of the rows: the file grows by each line and is never rewritten."""
    with Journal(tmp_path, "w") as journal:
        inode = journal.path.stat().st_ino
        for number in range(20):
            before = journal.path.stat().st_size
            journal.append(f"b{number}", [Prediction("s1", "ok", output={"n": number})])
            assert 0 < journal.path.stat().st_size - before < 200
        assert journal.path.stat().st_ino == inode


def test_a_shard_reads_its_own_samples_and_blocks_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_parquet(tmp_path / "samples.parquet", Sample, SAMPLES)
    plan = make_plan(SAMPLES, 3, block_size=4, declared_seconds=None)
    ids = ids_of_shard(plan, "2-of-3")
    assert read_samples(tmp_path / "samples.parquet", ids) == [item for item in SAMPLES if item.id in ids]
    assert read_samples(tmp_path / "samples.parquet", set()) == []
    assert ids_of_shard(plan, "9-of-9") == set()
    rows = answered(SAMPLES)
    with Journal(tmp_path / "work", "one") as journal:
        for number in range(5):
            journal.append(f"{number:032x}", [rows[number]])
    path = tmp_path / "work" / "one.jsonl"
    path.write_bytes(path.read_bytes().replace(b"s001", b"s00!"))
    with Journal(tmp_path / "work", "two", {f"{2:032x}", "f" * 32}) as journal:
        assert [f"{number:032x}" in journal for number in range(5)] == [False, False, True, False, False]
    assert "damaged" not in caplog.text
    with Journal(tmp_path / "work", "two", {f"{1:032x}"}) as journal:
        assert f"{1:032x}" not in journal
    assert "damaged" in caplog.text
