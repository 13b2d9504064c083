"""Fusion, scores, submissions and prototypes of S-GEAR on plain values."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from sightline.errors import CheckpointError, InputError, NonFiniteError
from sightline.metrics.aggregate import Column, point_estimate
from sightline.records.types import Prediction, Sample
from sightline.systems.sgear.classes import make_table
from sightline.systems.sgear.fuse import (
    RunScores,
    average_duplicates,
    fuse,
    held_out,
    marginalise,
    search_weights,
)
from sightline.systems.sgear.logits import arrays_of, scores_of
from sightline.systems.sgear.pixels import training_input
from sightline.systems.sgear.prototypes import (
    Prototypes,
    average_embeddings,
    bootstrapped,
    cosine_table,
    import_embeddings,
    import_legacy,
    language_prototypes,
    open_encoder,
    with_visual,
)
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.score import metric_specs, score
from sightline.systems.sgear.submission import Sls, answers, check_document, document, write_zip
from sightline.systems.sgear.texts import texts_of_classes

ACTIONS = 120
TABLE = make_table(
    [f"v{n // 12} n{n % 12}" for n in range(ACTIONS)],
    [(n, n // 12, n % 12) for n in range(ACTIONS)],
    [f"v{n}" for n in range(10)],
    [f"n{n}" for n in range(12)],
)


def _sample(number, action, subsets=()):
    payload = SgearPayload(
        f"{number}", f"P01_{number}", "P01", "P01", 0.0, 1.0, 2.0, 3.0, action,
        TABLE.part_of(action, "verb"), TABLE.part_of(action, "noun"), number, subsets=list(subsets),
    )  # fmt: skip
    return Sample(f"P01_{number}", "P01", "P01", [], 1.0, payload.to_json())


def _logits(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, ACTIONS)).astype(np.float32)


class _Store:
    def __init__(self, blocks):
        self.blocks = blocks

    def read(self, key):
        return self.blocks[key]


def _run(count, *, lost=(), failed=()):
    logits = _logits(count)
    samples = [_sample(n, n % ACTIONS, ["tail_action"] if n % 2 else []) for n in range(count)]
    predictions = [
        Prediction(sample.id, "failed", "no_features")
        if n in failed
        else Prediction(sample.id, "ok", files={} if n in lost else {"logits": {"key": "block", "row": n}})
        for n, sample in enumerate(samples)
    ]
    return samples, predictions, _Store({"block": {"logits": logits}}), logits


# ------------------------------------------------------------------------------------------------- logits
def test_missing_logits_are_an_error_with_a_count():
    samples, predictions, store, _ = _run(6, lost=[1, 4])
    with pytest.raises(InputError, match=r"2 of 6 rows have no logits \(first: P01_1, P01_4\)"):
        scores_of(predictions, store, TABLE)
    with pytest.raises(InputError, match="1 of 7 rows have no logits"):
        scores_of(_run(6)[1], store, TABLE, expected=[*(one.id for one in samples), "P01_9"])
    with pytest.raises(InputError, match="3 of 5 rows have no logits"):
        average_duplicates(np.array([0, 3, 3]), _logits(3), 5)


def test_failed_rows_are_left_out_only_when_asked():
    _, predictions, store, _ = _run(6, failed=[2])
    with pytest.raises(InputError, match="1 of 6"):
        scores_of(predictions, store, TABLE)
    assert len(scores_of(predictions, store, TABLE, allow_failed=True).uids) == 5


def test_nan_logits_are_an_error_with_a_count():
    logits = _logits(4)
    logits[[0, 2], 5] = np.nan
    with pytest.raises(NonFiniteError, match="2 of 4 rows"):
        marginalise(list("abcd"), logits, TABLE)
    with pytest.raises(NonFiniteError, match="2 of 4 rows"):
        average_duplicates(np.arange(4), logits, 4)


def test_a_fusion_keeps_its_own_verbs_and_nouns():
    _, predictions, store, logits = _run(4)
    single = scores_of(predictions, store, TABLE)
    fused = fuse([single, single], [2.0, 0.5])
    stored = scores_of(predictions, _Store({"block": arrays_of(fused)}), TABLE)
    for name, scores in fused.spaces.items():
        np.testing.assert_allclose(stored.spaces[name], scores, rtol=1e-6)
    np.testing.assert_allclose(stored.spaces["action"], 2.5 * logits, rtol=1e-6)
    np.testing.assert_allclose(stored.spaces["verb"].sum(axis=1), 2.5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- fusion
def test_runs_must_cover_the_same_rows():
    one, two = (marginalise(uids, _logits(2), TABLE) for uids in (["a", "b"], ["b", "c"]))
    with pytest.raises(InputError, match=r"run 1 of 2 lacks 1 of 3 rows \(first: c\)"):
        fuse([one, two], [1.0, 1.0])
    partial = fuse([one, two], [1.0, 3.0], partial=True)
    assert partial.uids == ("b", "c", "a")
    np.testing.assert_allclose(partial.spaces["action"][2], one.spaces["action"][0])
    with pytest.raises(InputError, match="2 runs and 1 weights"):
        fuse([one, two], [1.0])
    with pytest.raises(InputError, match="occurs twice"):
        RunScores(("a", "a"), {})


def test_the_search_finds_the_run_that_knows():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, ACTIONS, 60)
    uids = [str(n) for n in range(60)]
    noise = generator.standard_normal((60, ACTIONS))
    knows = noise + 4.0 * np.eye(ACTIONS)[labels]
    runs = [marginalise(uids, generator.standard_normal((60, ACTIONS)), TABLE), marginalise(uids, knows, TABLE)]
    right = dict(zip(uids, labels.tolist(), strict=True))
    found = search_weights(runs, right, grid=(0.0, 1.0, 3.0))
    assert found.weights[1] > found.weights[0]
    assert found.tried == 9
    coordinate = search_weights(runs * 6, right, grid=(0.0, 1.0, 3.0))
    assert coordinate.value >= search_weights(runs[:1], right).value
    with pytest.raises(InputError, match="no labelled row"):
        search_weights(runs, {})


def test_whole_clusters_are_held_out():
    clusters = [f"P{n % 40:02d}" for n in range(400)]
    chosen = held_out(clusters, 0.25)
    assert 0 < chosen.sum() < 200
    for name in set(clusters):
        assert len({bool(c) for c, cluster in zip(chosen, clusters, strict=True) if cluster == name}) == 1


# ------------------------------------------------------------------------------------------------- scores
def test_every_metric_has_a_row_per_sample_or_a_reason():
    samples, predictions, store, _ = _run(12, failed=[3])
    samples[5] = _sample(5, -1)
    scores = scores_of(predictions, store, TABLE, allow_failed=True)
    rows, absent = score(samples, predictions, scores)
    by_metric: dict[str, list] = {}
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row)
    assert {len(found) for found in by_metric.values()} == {12}
    specs = {spec.name: spec for spec in metric_specs()}
    assert {name for spec in specs.values() for name in spec.inputs} >= by_metric.keys()
    assert all(set(spec.inputs) <= by_metric.keys() or name in absent for name, spec in specs.items())
    assert by_metric["action_top5"][3].status == "error"
    assert by_metric["action_top5"][5].status == "unscored"
    assert [row.status for row in by_metric["action_top5_tail"][:4]] == ["unscored", "scored", "unscored", "error"]
    assert absent["action_recall5_unseen"] == "no row belongs to it"


def test_a_gain_needs_all_rows_of_the_other_run():
    samples, predictions, store, _ = _run(8)
    scores = scores_of(predictions, store, TABLE)
    rows, absent = score(samples, predictions, scores, reference=scores)
    assert "action_recall5_gain" not in absent
    spec = next(spec for spec in metric_specs() if spec.name == "action_recall5_gain")
    columns = [
        Column.of([r.value for r in found], [r.denominator for r in found], [r.group for r in found])
        for found in ([row for row in rows if row.metric == name] for name in spec.inputs)
    ]
    assert point_estimate(spec, columns) == 0.0
    _, absent = score(samples, predictions, scores, reference=scores.take(np.arange(5)))
    assert "lacks 3 rows" in absent["action_recall5_gain"]


def test_predictions_and_samples_must_match():
    samples, predictions, store, _ = _run(4)
    scores = scores_of(predictions, store, TABLE)
    with pytest.raises(InputError, match="1 of 4 samples have no prediction"):
        score(samples, predictions[1:], scores)
    with pytest.raises(InputError, match="2 of 4 rows have no logits"):
        score(samples, predictions, scores.take(np.arange(2)))


def test_a_dataset_without_verbs_has_no_verb_metrics():
    table = replace(TABLE, verbs=(), nouns=(), pairs={})
    samples, predictions, store, _ = _run(4)
    _, absent = score(samples, predictions, scores_of(predictions, store, table))
    assert absent["verb_recall5"] == "this dataset has no verbs"


# --------------------------------------------------------------------------------------------- submission
def test_a_submission_holds_every_row_and_is_the_same_bytes(tmp_path):
    samples, predictions, store, _ = _run(3)
    scores = scores_of(predictions, store, TABLE)
    content = document(answers(scores, TABLE, {}, ["P09_0"]), form="ek100", sls=Sls(1, 3, 4))
    keys = [*(sample.id for sample in samples), "P09_0"]
    check_document(content, form="ek100", verbs=10, nouns=12, keys=keys)
    for name in ("one.zip", "two.zip"):
        write_zip(tmp_path / name, {"test.json": content})
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["test.json"]
        assert json.loads(archive.read("test.json")) == content
    ek55 = document(answers(scores, TABLE, {}), form="ek55")
    assert set(ek55) == {"version", "challenge", "results"}
    check_document(ek55, form="ek55", verbs=10, nouns=12)


def test_broken_submissions_are_refused():
    _, predictions, store, _ = _run(3)
    scores = scores_of(predictions, store, TABLE)
    content = document(answers(scores, TABLE, {}), form="ek100")
    check = {"form": "ek100", "verbs": 10, "nouns": 12}
    with pytest.raises(InputError, match="1 rows are missing and 0 unknown"):
        check_document(content, keys=[*content["results"], "P77_1"], **check)
    with pytest.raises(InputError, match="level from 1 to 5"):
        check_document({**content, "sls_pt": 0}, **check)
    with pytest.raises(InputError, match="expected version"):
        check_document({**content, "version": "0.3"}, **check)
    with pytest.raises(InputError, match="classes 0 to 10"):
        check_document(content, form="ek100", verbs=11, nouns=12)
    with pytest.raises(InputError, match="scored as well"):
        answers(scores, TABLE, {}, [scores.uids[0]])


# --------------------------------------------------------------------------------------------- prototypes
def _encode(texts):
    rows = [np.random.default_rng(list(text.encode())).standard_normal(8) for text in texts]
    return np.stack(rows).astype(np.float32)


def _prototypes():
    texts = texts_of_classes(TABLE, "ek100")
    return language_prototypes(TABLE.actions, texts, _encode, "test encoder")


def test_prototypes_survive_saving(tmp_path):
    made = bootstrapped(_prototypes(), 16)
    made.save(tmp_path / "p.safetensors")
    found = Prototypes.load(tmp_path / "p.safetensors", classes=TABLE.actions)
    assert (found.classes, found.encoder, found.texts) == (made.classes, "test encoder", made.texts)
    for name in ("similarities", "embeddings", "visual"):
        assert np.array_equal(getattr(found, name), getattr(made, name))
    assert found.visual.shape == (ACTIONS, 16)
    assert json.loads((tmp_path / "p.json").read_text())["encoder"] == "test encoder"
    with pytest.raises(CheckpointError, match="class order differs"):
        Prototypes.load(tmp_path / "p.safetensors", classes=TABLE.actions[::-1])
    with pytest.raises(CheckpointError, match="120 classes, expected 2"):
        Prototypes.load(tmp_path / "p.safetensors", classes=["a", "b"])
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(CheckpointError, match="no prototypes in this file"):
        Prototypes.load(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="NaN"):
        replace(made, visual=np.full((ACTIONS, 2), np.nan, np.float32)).save(tmp_path / "nan.safetensors")


def test_classes_without_exemplars_follow_language():
    vectors = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
    labels = np.array([0, 0, 1, -1])
    similarities = np.array([[1, 0, 0.75], [0, 1, 0.25], [0.75, 0.25, 1]])
    found = average_embeddings(labels, vectors, 3, similarities=similarities)
    assert found.table.tolist() == [[2.0, 0.0], [0.0, 2.0], [1.5, 0.5]]
    assert (found.counts.tolist(), found.without) == ([2, 1, 0], [2])
    plain = average_embeddings(labels, vectors, 3, fallback="mean")
    assert plain.table[2].tolist() == [1.0, 1.0]
    assert average_embeddings(labels, vectors, 3, per_class=1).table[0].tolist() == [1.0, 0.0]
    notes = with_visual(_prototypes(), average_embeddings(np.arange(ACTIONS), np.ones((ACTIONS, 4)), ACTIONS),
                        split="train", fallback="language").notes  # fmt: skip
    assert notes["classes_without_exemplars"] == []
    with pytest.raises(InputError, match="no class has an embedding"):
        average_embeddings(np.array([-1]), np.ones((1, 2)), 3)
    with pytest.raises(InputError, match="NaN"):
        average_embeddings(np.array([0]), np.full((1, 2), np.nan), 3)


def test_legacy_rows_are_put_into_class_order(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    order = [2, 0, 1]
    torch.save({label: torch.from_numpy(vectors[label]) for label in order}, tmp_path / "e.pth")
    table = cosine_table(vectors)
    torch.save({label: torch.from_numpy(table[label, order])[None] for label in order}, tmp_path / "s.pth")
    found = import_legacy("abc", encoder="?", encodings=tmp_path / "e.pth", similarities=tmp_path / "s.pth")
    assert np.array_equal(found.embeddings, vectors)
    assert np.array_equal(found.similarities, table)
    without = import_legacy("abc", encoder="?", encodings=tmp_path / "e.pth")
    assert np.array_equal(without.similarities, table)
    with pytest.raises(CheckpointError, match="3 classes, expected ids 0 to 3"):
        import_legacy("abcd", encoder="?", encodings=tmp_path / "e.pth")
    torch.save({0: [[1.0, 2.0]], 1: []}, tmp_path / "stored.pth")
    stored = import_embeddings(tmp_path / "stored.pth")
    assert stored[0].tolist() == [[1.0, 2.0]]
    assert len(stored[1]) == 0
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="no stored embeddings"):
        import_embeddings(tmp_path / "bad.pth")


def test_an_encoder_is_a_folder_not_a_name():
    with pytest.raises(CheckpointError, match="no such encoder"):
        open_encoder("sentence-transformers/all-mpnet-base-v2")


# ----------------------------------------------------------------------------------------------- pictures
def test_training_pictures_are_drawn_from_the_generator():
    frames = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    one, again, other = (
        training_input(frames, np.random.default_rng(seed), scale=(36, 44), crop=32) for seed in (1, 1, 2)
    )
    assert one.shape == (3, 3, 32, 32)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.abs(one).max() <= 1.0
    levels = (one.astype(np.float64) * 0.5 + 0.5) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)  # values went through bytes
    with pytest.raises(InputError, match="crop of 48"):
        training_input(frames, np.random.default_rng(0), scale=(36, 44), crop=48)
