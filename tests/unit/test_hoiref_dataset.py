"""HOI-QA's files, questions, boxes and pictures on bad and odd input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sightline.errors import ConfigError, InputError
from sightline.systems.hoiref.annotations import (
    FrameRoots,
    parse_box,
    read_conversations,
    read_interactions,
    read_referrals,
    shared_images,
    video_of,
)
from sightline.systems.hoiref.boxes import (
    FORMATS,
    KINDS,
    box_format,
    kind_of_answer,
    parse_boxes,
    parse_many,
    spell_box,
)
from sightline.systems.hoiref.builder import (
    conversations_of,
    interaction_rows,
    read_visor,
    referral_rows,
    training_rows,
)
from sightline.systems.hoiref.frames import Numbering, check_shape, locate_frames
from sightline.systems.hoiref.pixels import load_rgb
from sightline.systems.hoiref.questions import CONNECT, HoiQaQuirks, identify_question, join_conversation
from sightline.systems.hoiref.samples import build_samples, interaction_question, read_test_split, sample_id

VISOR = {
    "video_annotations": [
        {
            "image": {"name": "P01_01_frame_0000000012.jpg", "video": "P01_01"},
            "annotations": [
                {"id": "a", "name": "Left hand", "segments": [[[10, 20], [30, 60]]], "in_contact_object": "c"},
                {"id": "b", "name": "right hand", "segments": [[[90, 20], [99, 60]]],
                 "in_contact_object": "hand-not-in-contact"},
                {"id": "c", "name": "Chopping board", "segments": [[[5, 6], [7, 8]], [[50, 60], [70, 80]]]},
                {"id": "d", "name": "no polygon", "segments": []},
            ],
        }
    ]
}  # fmt: skip


def write(path, value):
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, "x"], [1, 2, 3, None], "1 2 3 4", [1, 2, 3, True], None])
def test_a_box_that_is_none_is_named(tmp_path, box):
    path = write(tmp_path / "epic-test.json", {"k": {"image_path": "v/f.jpg", "noun": "cup", "bbox": box}})
    with pytest.raises(InputError, match=r"epic-test\.json, item k, field bbox"):
        read_referrals(path)


def test_numbers_in_quotes_and_odd_boxes_are_kept():
    assert parse_box(["1", "2.5", 300, -4], {}) == [1.0, 2.5, 300.0, -4.0]


def test_ids_must_be_text(tmp_path):
    path = write(tmp_path / "x.json", [{"id": 3, "image_path": "v/f.jpg", "question": "q", "answer": "a"}])
    with pytest.raises(InputError, match="field id"):
        read_interactions(path)


@pytest.mark.parametrize("turns", [[], [{"value": "q"}], [{"value": "q"}, {"value": "a"}, {"value": "q2"}], "text"])
def test_conversations_without_answers(tmp_path, turns):
    path = write(tmp_path / "t.json", [{"id": 1, "image": "v/f", "conversations": turns}])
    with pytest.raises(InputError, match="conversations"):
        read_conversations(path, "epic")


def test_a_folder_without_test_files(tmp_path):
    with pytest.raises(InputError, match="no test file"):
        read_test_split(tmp_path)


def test_frame_roots_move_the_longest_beginning(tmp_path):
    roots = FrameRoots(tmp_path, {"EPIC_Kitchens": tmp_path / "a", "EPIC_Kitchens/frames": tmp_path / "b"})
    assert roots.resolve("EPIC_Kitchens/frames/P01/f.jpg") == tmp_path / "b/P01/f.jpg"
    assert roots.resolve("Ego4D/x.jpg") == tmp_path / "Ego4D/x.jpg"


def test_missing_and_corrupt_pictures(tmp_path):
    with pytest.raises(InputError, match="missing"):
        load_rgb(tmp_path / "none.jpg")
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    with pytest.raises(InputError, match="cannot be read"):
        load_rgb(tmp_path / "torn.jpg")


def test_samples_are_grouped_by_picture_and_clustered_by_video(tmp_path):
    row = {"image_path": "frames/P01_01/f1.jpg", "noun": "cup", "bbox": [1, 2, 3, 4]}
    write(tmp_path / "epic-test.json", {"weird key/1": row, "plain": row})
    asked = {"id": "h", "image_path": "frames/P01_01/f1.jpg", "question": "[refer] Where?", "answer": "{<1><2><3><4>}"}
    write(tmp_path / "epic-visor-test.json", [asked, asked])
    found = build_samples(read_test_split(tmp_path))
    assert len({sample.id for sample in found.samples}) == 5
    assert {sample.group for sample in found.samples} == {"frames/P01_01/f1.jpg"}
    assert {sample.cluster for sample in found.samples} == {"P01_01"}
    assert [dropped.reason[:12] for dropped in found.dropped] == ["kept, but no", "the id is do"]
    assert sample_id("epic", "weird key/1", "ref") != sample_id("epic", "weird key_1", "ref")
    assert video_of("f.jpg") == "f"


def test_odd_boxes_are_kept_and_named(tmp_path):
    boxes = {"reversed": [9, 9, 1, 1], "outside": [2000, 0, 2100, 9], "good": [1, 2, 3, 4], "over": [-9, 0, 2000, 9]}
    rows = {key: {"image_path": "v/f1.jpg", "noun": "cup", "bbox": box} for key, box in boxes.items()}
    found = build_samples(read_test_split(write(tmp_path / "epic-test.json", rows).parent))
    assert len(found.samples) == 2 * len(boxes)
    assert [dropped.item for dropped in found.dropped] == ["reversed", "outside"]


def test_frames_are_located_or_named():
    images = [f"EPIC/frames/P01_01/frame_{number:010d}.jpg" for number in (1, 12, 90023)]
    images += ["Ego4D/frames/uid/frame_0000000005.jpg", "Ego4D/frames/other/frame_0000000005.jpg", "x/odd.jpg"]
    counts = {"P01_01": 100, "full-video": 10}
    found, misfits = locate_frames(images, counts, Numbering(1, {"uid": "full-video"}))
    assert list(found.values()) == [("P01_01", 0), ("P01_01", 11), ("full-video", 4)]
    assert [one.reason for one in misfits] == [
        "frame 90022 of a video of 100 frames", "no video other", "not the name of a frame",
    ]  # fmt: skip
    assert locate_frames(images[:1], counts, Numbering(0))[0][images[0]] == ("P01_01", 1)


@pytest.mark.parametrize(
    ("part", "size", "fits"),
    [
        ("epic", (456, 256), True),
        ("ego4d", (1440, 1080), True),
        ("ego4d", (1920, 1080), False),
        ("visor", (64, 48), False),
    ],
)
def test_shapes_are_compared_with_the_annotations(part, size, fits):
    assert (check_shape("v/f.jpg", part, *size) is None) == fits


def test_sane_switches():
    quirks = HoiQaQuirks(box_rounding="round", long_turns="turns", newline="space", max_characters=60)
    assert identify_question([-9, 0, 1919, 1100], (1920, 1080), quirks) == "{<0><0><100><100>}"
    turns = ["<image>\none\ntwo", "first", "x" * 50, "second"]
    assert join_conversation(1, turns, quirks).questions == "<Img><ImageHere></Img> one two "
    assert join_conversation(1, turns, quirks).answers == "first"
    assert CONNECT in join_conversation(1, turns).questions


def test_shared_images(tmp_path):
    path = write(
        tmp_path / "t.json",
        [{"id": 1, "image": "P01/f1", "conversations": [{"value": "q"}, {"value": "a"}]}],
    )
    table = {"k": {"image_path": "EPIC_Kitchens/frames/P01/f1.jpg", "noun": "cup", "bbox": [1, 2, 3, 4]}}
    test = read_referrals(write(tmp_path / "e.json", table))
    assert shared_images(read_conversations(path, "epic"), {"epic": test}) == {"epic": 1}


@given(st.text(alphabet="{<>}0123456789-. ab,", max_size=40))
def test_every_answer_has_one_kind(text):
    kind = kind_of_answer(text)
    assert kind in KINDS
    assert bool(parse_boxes(text)) == (kind in ("ok", "reversed", "outside"))


@given(st.lists(st.text(alphabet="{<>}0123456789-.\x00\n a", max_size=40) | st.just("{<1><2><3.5><-4>}x"), max_size=6))
def test_many_texts_are_parsed_as_one_by_one(texts):
    boxes, owner = parse_many(texts)
    found = [[] for _ in texts]
    for box, place in zip(boxes.tolist(), owner.tolist(), strict=True):
        found[place].append(box)
    assert found == [parse_boxes(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{<1><2><3><4>}", "ok"),
        (" ", "empty"),
        ("left hand", "no_box"),
        ("{<1><2><3>}", "wrong_count"),
        ("{<1><2><3><4><5>}", "wrong_count"),
        ("{<a><2><3><4>}", "not_numeric"),
        ("{<1.><2><3><4>}", "not_numeric"),
        ("{<1><2><3><4>", "not_closed"),
        ("<1><2><3><4>", "not_closed"),
        ("{<1> <2> <3> <4>}", "not_closed"),
        ("{<3><2><1><4>}", "reversed"),
        ("{<1><2><3><104>}", "outside"),
    ],
)
def test_kinds_of_answers(text, kind):
    assert kind_of_answer(text) == kind


BOX = [480.0, 270.0, 960.0, 810.0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("percent", "<p>cup</p> {<25><25><50><75>}"),
        ("list_100", "the cup is at [25, 25, 50, 75]"),
        ("list_1000", "<ref>cup</ref><box>(250,250),(500,750)</box>"),
        ("pixels", "[480, 270.0, 960, 810]"),
        ("xywh_pixels", "(480, 270, 480, 540)"),
        ("json_pixels", '```json\n[{"bbox_2d": [480, 270, 960, 810], "label": "cup"}]\n```'),
        ("json_1000", '{"box": [250, 250, 500, 750]} and [text'),
    ],
)
def test_formats(name, text):
    assert FORMATS[name].read(text, (1920, 1080)) == [BOX]
    assert FORMATS[name].read("nothing [1, 2] here", (1920, 1080)) == []
    assert FORMATS[name].hint


def test_an_unknown_format():
    with pytest.raises(ConfigError, match="use one of"):
        box_format("polar")


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4))
def test_spelled_boxes_are_parsed_again(box):
    (found,) = parse_boxes(spell_box(box, (1000, 1000)))
    assert found == [float(int(value / 1000 * 100)) for value in box]


def test_builder(tmp_path):
    scenes = read_visor(write(tmp_path / "v.json", VISOR))
    (scene,) = scenes
    assert scene.image == "EPIC_Kitchens/frames/P01_01/frame_0000000012.jpg"
    assert [entity.name for entity in scene.entities] == ["left hand", "right hand", "chopping board"]
    assert scene.entities[2].box == [5, 6, 70, 80]
    assert dict(conversations_of(scene))["[vqa] What is the person holding in their left hand?"] == "chopping board"

    write(tmp_path / "epic-kitchens-train.json", training_rows(scenes, layout="epic"))
    records = read_conversations(tmp_path / "epic-kitchens-train.json", "epic")
    assert {record.image for record in records} == {scene.image}
    write(tmp_path / "epic-test.json", referral_rows(scenes))
    write(tmp_path / "epic-visor-test.json", interaction_rows(scenes))
    found = build_samples(read_test_split(tmp_path))
    assert not found.dropped
    assert {sample.group for sample in found.samples} == {scene.image}
    assert any("hands" in interaction_question(one).tagged for one in read_test_split(tmp_path)["visor"])


def test_builder_names_what_is_malformed(tmp_path):
    broken = json.loads(json.dumps(VISOR))
    broken["video_annotations"][0]["annotations"][0]["segments"] = [[1, 2]]
    with pytest.raises(InputError, match="polygon"):
        read_visor(write(tmp_path / "v.json", broken))
    assert np.isfinite(read_visor(write(tmp_path / "w.json", VISOR))[0].entities[0].box).all()
