"""Annotation files of every dataset against the tables the original makes of them."""

from __future__ import annotations

import csv
import pickle

import pandas
import pytest
from golden import load_json
from sightline.systems.sgear.annotations import (
    anticipate,
    class_counts,
    keep_videos,
    read_annotations,
    read_videos,
    video_path,
    write_annotations,
)
from sightline.systems.sgear.classes import CLASS_FILES, read_action_table, read_many_shot, read_names

CASES = load_json("sgear", "data", "annotations.json") or {}


def _cases():
    return [
        pytest.param(name, form, id=f"sgear-{name}-{form}")
        for name, case in CASES.items()
        for form in (("pkl", "parquet", "csv") if "records" in case else ("csv",))
    ]


def _dataset(files) -> str:
    for name, wanted in CLASS_FILES.items():
        if wanted[0] in files:
            return name
    return "egtea"


def _write(folder, case):
    files = case.get("files") or CASES[case["files_same_as"]]["files"]
    for name, text in files.items():
        (folder / name).write_text(text)
    return files


def _annotations_file(folder, files, case, form):
    if "records" not in case:
        support = {*(name for names in CLASS_FILES.values() for name in names), "actions.csv"}
        (name,) = (n for n in files if n.endswith(".csv") and n not in support and "many_shot" not in n)
        return folder / name
    head = next(iter(case["records"][0]))
    frame = pandas.DataFrame(case["records"]).set_index(head)
    path = folder / "EPIC.pkl"
    path.write_bytes(pickle.dumps(frame))
    if form == "parquet":
        write_annotations(path, folder / "EPIC.parquet")
    if form == "csv":
        with open(folder / "EPIC.csv", "w", newline="") as stream:
            writer = csv.DictWriter(stream, list(case["records"][0]))
            writer.writeheader()
            writer.writerows(case["records"])
    return path.with_suffix(f".{form}")


@pytest.mark.parametrize(("name", "form"), _cases())
def test_tables_equal_the_original(name, form, tmp_path):
    case = CASES[name]
    files = _write(tmp_path, case)
    dataset, expected = _dataset(files), case["expect"]
    names = [read_names(tmp_path / file, dataset) for file in CLASS_FILES.get(dataset, ())] or [(), ()]
    table = read_action_table(tmp_path / "actions.csv", dataset, verbs=names[0], nouns=names[1], strict=False)
    segments = read_annotations(_annotations_file(tmp_path, files, case, form), dataset, table)
    listed = next((n for n in files if f"only_keep_videos={n}" in case.get("kwargs", "")), None)
    if listed:
        segments = keep_videos(segments, read_videos(tmp_path / listed))
    rows = anticipate(segments, tau_a=1.0, tau_o=5.0, drop_style="correct")
    values = {
        "uid": lambda r: r.uid, "video_id": lambda r: r.video_id, "participant_id": lambda r: r.participant_id,
        "verb_class": lambda r: r.verb, "noun_class": lambda r: r.noun, "action_class": lambda r: r.action,
        "start": lambda r: r.observed.start, "end": lambda r: r.observed.end, "orig_start": lambda r: r.action_start,
        "orig_end": lambda r: r.action_end, "future_0_start": lambda r: r.observed.future_start,
        "future_0_end": lambda r: r.observed.future_end,
    }  # fmt: skip
    assert [[values[column](row) for column in expected["columns"]] for row in rows.kept] == expected["rows"]
    assert [row.uid for row in rows.discarded] == expected["discarded_uids"]
    assert [video_path(row, dataset) for row in rows.kept] == expected["video_path"]
    counts = class_counts(rows.kept, table)
    assert {str(label): count for label, count in counts.items()} == expected["classes_counts"]["action"]
    _check_classes(table, names, dataset, expected, tmp_path)


def _check_classes(table, names, dataset, expected, folder):
    for part, found in zip(("verb_classes", "noun_classes"), names, strict=True):
        assert {name: number for number, name in enumerate(found)} == expected[part]
    assert table.action_ids == expected["action_classes"]
    assert [[v, n, a] for (v, n), a in table.pairs.items()] == expected["verb_noun_to_action"]
    assert table.M_verb.tolist() == expected["class_mappings"]["verb_action"]
    assert table.M_noun.tolist() == expected["class_mappings"]["noun_action"]
    for action, (verb, noun) in enumerate(zip(table.verb_of_action, table.noun_of_action, strict=True)):
        assert table.action_of(int(verb), int(noun)) == action
        assert (table.part_of(action, "verb"), table.part_of(action, "noun")) == (verb, noun)
    many = expected["manyshot"]
    if "verb" not in many:
        assert many["action"] == table.action_ids  # datasets without lists: every class
        return
    listed = read_many_shot(folder, table)
    assert sorted(listed.verbs) == sorted(many["verb"].values())
    assert sorted(listed.nouns) == sorted(many["noun"].values())
    assert {table.actions[action]: action for action in listed.actions} == many["action"]
    assert dataset == "ek55"
