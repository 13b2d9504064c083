"""Bad input of S-GEAR's datasets, and what golden data does not reach: one clear error each."""

from __future__ import annotations

import pickle

import lmdb
import numpy as np
import pandas
import pytest
from sightline.errors import InputError, StoreError
from sightline.features.items import DamagedError
from sightline.systems.sgear.annotations import Segment, find_video, read_annotations, seconds_of
from sightline.systems.sgear.classes import all_pairs, make_table, read_action_table, read_ids, read_names
from sightline.systems.sgear.feature_lmdb import CRC_FILE, FeatureReader, feature_key, write_sidecar
from sightline.systems.sgear.labels import PastLabels
from sightline.systems.sgear.pickled import read_pickled_table
from sightline.systems.sgear.samples import build_samples, read_dataset
from sightline.systems.sgear.windows import WindowSettings, feature_window

TABLE = make_table(["take cup", "put cup"], [(0, 0, 0), (1, 1, 0)], ["take", "put"], ["cup"])
ACTIONS = "id,verb,noun,action\n0,0,0,take cup\n1,1,0,put cup\n"


# ------------------------------------------------------------------------------------------------- tables
def test_a_header_in_rulstms_csv_is_named(tmp_path):
    path = tmp_path / "training.csv"
    path.write_text("uid,video_id,start_frame,end_frame,verb,noun,action\n0,P01_01,60,90,0,0,0\n")
    with pytest.raises(InputError, match=r"line 1.*whole number.*delete the header line"):
        read_annotations(path, "ek100", TABLE)


@pytest.mark.parametrize("form", ["ek100", "ek55"])
def test_an_action_table_without_its_header_is_refused(tmp_path, form):
    path = tmp_path / "actions.csv"
    path.write_text("0,0,0,take cup\n")
    with pytest.raises(InputError, match="must name the columns"):
        read_action_table(path, form, verbs=["take"], nouns=["cup"])


def test_a_header_in_egteas_table_is_named(tmp_path):
    path = tmp_path / "actions.csv"
    path.write_text("id, verb_noun, name\n0, 0_0, Take_cup\n")
    with pytest.raises(InputError, match=r"line 1.*delete the header line"):
        read_action_table(path, "egtea")


def test_actions_out_of_order_are_refused(tmp_path):
    path = tmp_path / "actions.csv"
    path.write_text("id,verb,noun,action\n1,1,0,put cup\n0,0,0,take cup\n")
    with pytest.raises(InputError, match="class order"):
        read_action_table(path, "ek100", verbs=["take", "put"], nouns=["cup"])
    table = read_action_table(path, "ek100", verbs=["take", "put"], nouns=["cup"], strict=False)
    assert table.actions[0] == "put cup"
    assert table.action_of(0, 0) == 0


def test_ids_without_names_must_be_contiguous():
    with pytest.raises(InputError, match="verb ids have gaps"):
        make_table(["a", "b"], [(0, 0, 0), (1, 2, 1)], [], [])
    with pytest.raises(InputError, match="verb 7 lies outside"):
        make_table(["a"], [(0, 7, 0)], ["take"], ["cup"])


def test_without_a_table_every_pair_is_an_action():
    table = all_pairs(["take", "put"], ["cup", "pan", "lid"])
    assert table.action_of(1, 2) == 5
    assert table.M_verb.sum(axis=1).tolist() == [1.0] * 6


def test_class_names_need_their_column(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("id,name\n0,take\n")
    with pytest.raises(InputError, match="no column 'key'"):
        read_names(path, "ek100")


def test_rows_are_checked(tmp_path):
    path = tmp_path / "training.csv"
    for text, problem in (
        ("0,P01_01,60,90,0,0\n", "6 fields"),
        ("0,P01_01,60,90,0,0,0\n0,P01_01,70,90,0,0,0\n", "two rows of one uid"),
        ("0,P01_01,90,60,0,0,0\n", "ends before it begins"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=problem):
            read_annotations(path, "ek100", TABLE)
    path.write_text("7,P01_01,60,90\n")  # the test split has no classes
    (row,) = read_annotations(path, "ek100", TABLE)
    assert (row.action, row.verb, row.action_start) == (-1, -1, 2.0)


@pytest.mark.parametrize("stamp", ["1:2", "00:61:00.0", "00:00:00.1234567", "a:b:c", "00:-1:00"])
def test_bad_time_stamps(stamp):
    with pytest.raises(ValueError, match=r"time|unpack"):
        seconds_of(stamp)


def test_the_first_root_that_has_a_video_wins(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "P01").mkdir(parents=True)
    (tmp_path / "two" / "P01" / "P01_01.MP4").touch()
    found = find_video("P01/P01_01.MP4", [tmp_path / "one", tmp_path / "two"])
    assert found == (tmp_path / "two" / "P01" / "P01_01.MP4", True)
    last = find_video("P01/P01_02.MP4", [tmp_path / "one", tmp_path / "two"])
    assert last == (tmp_path / "two" / "P01" / "P01_02.MP4", False)


# ------------------------------------------------------------------------------------------------ pickles
_OLD_NAMES = {
    "_Frame": "pandas.core.frame\nDataFrame",
    "_Manager": "pandas.core.internals.managers\nBlockManager",
    "_new_index": "pandas.core.indexes.base\n_new_Index",
    "_Index": "pandas.core.indexes.base\nIndex",
}


class _Frame:
    pass


class _Manager:
    def __getstate__(self):
        return self.kept


class _Axis:
    def __init__(self, data, name=None):
        self.parts = {"data": np.array(data, object), "name": name}

    def __reduce__(self):
        return _new_index, (_Index, self.parts)


def _old_pickle(path, columns):
    """Writes the layout of pandas before 1.3: a manager whose state holds axes and blocks."""
    (head, index), *rest = columns.items()
    values = np.array([list(column) for _, column in rest], object)
    frame, manager = _Frame(), _Manager()
    blocks = [{"values": values, "mgr_locs": slice(0, len(values), 1)}]
    axes = [_Axis([name for name, _ in rest]), _Axis(index, head)]
    manager.kept = ([], [], [], {"0.14.1": {"axes": axes, "blocks": blocks}})
    frame.__dict__.update(_data=manager, _typ="dataframe")
    content = pickle.dumps(frame, protocol=2)
    for name, old in _OLD_NAMES.items():
        content = content.replace(f"{__name__}\n{name}\n".encode(), f"{old}\n".encode())
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


class _Index:
    pass


def _new_index(kind, parts):
    raise AssertionError("the reader must not call this")


def test_pickles_of_old_pandas_are_read(tmp_path):
    path = tmp_path / "old.pkl"
    columns = {"uid": [3, 5], "video_id": ["P01_01", "P02_01"], "verb_class": [1, 2]}
    _old_pickle(path, columns)
    assert read_pickled_table(path) == [
        {"uid": 3, "video_id": "P01_01", "verb_class": 1},
        {"uid": 5, "video_id": "P02_01", "verb_class": 2},
    ]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_of_this_pandas_are_read(tmp_path, protocol):
    frame = pandas.DataFrame({"a": [1, 2], "b": [0.5, None], "c": ["x", None], "d": [[1], []]}, index=[7, 9])
    path = tmp_path / "new.pkl"
    path.write_bytes(pickle.dumps(frame, protocol=protocol))
    first, second = read_pickled_table(path)
    assert first == {"index": 7, "a": 1, "b": 0.5, "c": "x", "d": [1]}
    assert (second["a"], second["c"], second["d"]) == (2, None, [])
    assert np.isnan(second["b"])


class _Hostile:
    def __reduce__(self):
        return print, ("executed",)


class _Huge:
    def __reduce__(self):
        return bytearray, (1 << 60,)


@pytest.mark.parametrize("content", [_Hostile(), [1, 2], {"a": _Hostile()}, pandas.Series([1]), _Huge()])
def test_what_is_no_table_is_refused_and_not_run(tmp_path, content, capsys):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match="not readable as a pickled table"):
        read_pickled_table(path)
    assert "executed" not in capsys.readouterr().out


def test_a_cut_pickle_is_refused(tmp_path):
    path = tmp_path / "cut.pkl"
    path.write_bytes(pickle.dumps(pandas.DataFrame({"a": [1]}))[:-40])
    with pytest.raises(InputError, match="not readable"):
        read_pickled_table(path)


# -------------------------------------------------------------------------------------------------- LMDBs
def _write(folder, frames, dim=4, video="P01_01"):
    folder.mkdir(exist_ok=True)
    with (
        lmdb.open(str(folder / "data.mdb"), subdir=False, map_size=1 << 26, lock=False) as env,
        env.begin(write=True) as transaction,
    ):
        for frame in frames:
            transaction.put(feature_key(video, frame), np.full(dim, frame, "<f4").tobytes())
    return folder


WINDOWS = WindowSettings(num_frames=4, frame_rate=1.0)


def _window(end, video="P01_01"):
    return feature_window(video, end - 4.0, end, WINDOWS)


def test_nine_frames_back_then_zeros(tmp_path):
    window = _window(5.0)
    assert window.frames.tolist() == [60, 90, 120, 150]
    folder = _write(tmp_path / "rgb", [60, 81, 110, 141])
    with FeatureReader([folder]) as reader:
        features, missing = reader.read([window])
        assert features[0, :, 0].tolist() == [60, 81, 0, 141]
        assert missing.tolist() == [[False, False, True, False]]
        assert reader.read([])[0].shape == (0, 0, 4)
        nothing = _window(5.0, "P09_09")
        assert reader.read([nothing])[1].all()
        assert reader.is_empty(nothing)


def test_a_window_with_frames_beside_its_slots_is_not_empty(tmp_path):
    folder = _write(tmp_path / "rgb", [100])  # read by the original, which takes all frames of a window
    with FeatureReader([folder]) as reader:
        _, missing = reader.read([_window(5.0)])
        assert missing.all()
        assert not reader.is_empty(_window(5.0))


def test_several_files_are_joined_on_the_channels(tmp_path):
    one, two = _write(tmp_path / "rgb", range(1, 200)), _write(tmp_path / "flow", [90, 120, 150], dim=2)
    with FeatureReader([one, two]) as reader:
        features, missing = reader.read([_window(5.0)])
        assert features.shape == (1, 4, 6)
        assert features[0, 0].tolist() == [60, 60, 60, 60, 0, 0]
        assert missing[0].tolist() == [True, False, False, False]
    with pytest.raises(StoreError, match="features of 6 channels, expected 1024"):
        FeatureReader([one, two], dim=1024)


def test_a_truncated_file_is_refused_before_it_is_opened(tmp_path):
    folder = _write(tmp_path / "rgb", range(1, 4000), dim=64)
    path = folder / "data.mdb"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedError, match="truncated"):
        FeatureReader([folder])


@pytest.mark.parametrize("content", [None, b"", b"no LMDB" * 2000])
def test_what_is_no_feature_file_is_refused(tmp_path, content):
    folder = tmp_path / "rgb"
    folder.mkdir()
    if content is not None:
        (folder / "data.mdb").write_bytes(content)
    with pytest.raises(StoreError):
        FeatureReader([folder])


def test_values_of_another_length_are_named(tmp_path):
    folder = _write(tmp_path / "rgb", range(1, 200))
    with lmdb.open(str(folder / "data.mdb"), subdir=False, map_size=1 << 26) as env, env.begin(write=True) as t:
        t.put(feature_key("P01_01", 120), b"123")
    with FeatureReader([folder]) as reader, pytest.raises(StoreError, match=r"P01_01_frame_0000000120.jpg"):
        reader.read([_window(5.0)])


def test_the_sidecar_finds_a_changed_value(tmp_path):
    folder = _write(tmp_path / "rgb", range(1, 200))
    assert write_sidecar(folder) == 199
    with FeatureReader([folder]) as reader:
        assert not reader.read([_window(5.0)])[1].any()
    with lmdb.open(str(folder / "data.mdb"), subdir=False, map_size=1 << 26) as env, env.begin(write=True) as t:
        t.put(feature_key("P01_01", 120), np.full(4, 7, "<f4").tobytes())
    with FeatureReader([folder]) as reader, pytest.raises(DamagedError, match="checksum differs"):
        reader.read([_window(5.0)])
    with FeatureReader([folder], verify=False) as reader:
        assert reader.read([_window(5.0)])[0][0, 2, 0] == 7
    assert (folder / CRC_FILE).is_file()


# ------------------------------------------------------------------------------------------------ samples
def _dataset(tmp_path):
    (tmp_path / "actions.csv").write_text(ACTIONS)
    (tmp_path / "EPIC_100_verb_classes.csv").write_text("id,key\n0,take\n1,put\n")
    (tmp_path / "EPIC_100_noun_classes.csv").write_text("id,key\n0,cup\n")
    rows = [f"P01_01_{n},P01_01,{60 * n},{60 * n + 30},{n % 2},0,{n % 2}" for n in range(4)]
    (tmp_path / "validation.csv").write_text("".join(f"{row}\n" for row in rows))
    (tmp_path / "validation_tail_actions_ids.csv").write_text("P01_01_1\nP01_01_3\n")
    return read_dataset(tmp_path, "ek100", "validation")


def test_samples_say_what_was_left_out(tmp_path):
    dataset = _dataset(tmp_path)
    past = PastLabels(dataset.segments)
    found = build_samples(
        dataset, tau_a=1.0, tau_o=4.0, seconds_per_item=0.1, cluster="participant", past=past, windows=WINDOWS
    )
    assert [sample.id for sample in found.samples] == ["P01_01_1", "P01_01_2", "P01_01_3"]
    assert [row.item for row in found.dropped] == ["P01_01_0"]
    assert {sample.cluster for sample in found.samples} == {"P01"}
    assert [sample.payload["subsets"] for sample in found.samples] == [["tail_action"], [], ["tail_action"]]
    assert [sample.payload["row"] for sample in found.samples] == [0, 1, 2]
    assert len(found.samples[0].payload["past_labels"]) == WINDOWS.num_frames


def test_a_missing_file_and_an_unknown_split_are_named(tmp_path):
    with pytest.raises(InputError, match=r"EPIC_100_verb_classes.csv"):
        read_dataset(tmp_path, "ek100", "train")
    _dataset(tmp_path)
    with pytest.raises(InputError, match="split 'holdout' is unknown"):
        read_dataset(tmp_path, "ek100", "holdout")
    with pytest.raises(InputError, match="none of EPIC_100_train"):
        read_dataset(tmp_path, "ek100", "train")
    assert read_ids(tmp_path / "validation_tail_actions_ids.csv") == {"P01_01_1", "P01_01_3"}


def test_overlapping_actions_have_two_rules():
    rows = [
        Segment(str(n), str(n), "v", "", start, end, n, 0, 0)
        for n, (start, end) in enumerate([(0.0, 20.0), (8.0, 10.0)])
    ]
    times = np.array([9.0], np.float32)
    assert PastLabels(rows).at("v", times).tolist() == [0]  # |9 - 20/2| < |9 - 2/2|
    assert PastLabels(rows, overlap="nearest").at("v", times).tolist() == [1]  # |9 - 9| < |9 - 10|


# --------------------------------------------------------------------------------------- other datasets
def test_ek55_splits_one_file_by_lists_of_videos(tmp_path):
    (tmp_path / "actions.csv").write_text("id,action,verb,noun\n0, take_cup,0,0\n1, put_cup,1,0\n")
    (tmp_path / "EPIC_verb_classes.csv").write_text("verb_id,class_key\n0,take\n1,put\n")
    (tmp_path / "EPIC_noun_classes.csv").write_text("noun_id,class_key\n0,cup\n")
    (tmp_path / "EPIC_many_shot_verbs.csv").write_text("verb_class,verb\n1,put\n")
    (tmp_path / "EPIC_many_shot_nouns.csv").write_text("noun_class,noun\n")
    (tmp_path / "training_videos.csv").write_text("P01_01\n")
    (tmp_path / "validation_videos.csv").write_text("P02_01\n")
    frame = pandas.DataFrame(
        {
            "participant_id": ["P01", "P02"], "video_id": ["P01_01", "P02_01"],
            "start_timestamp": ["00:00:04.5", "00:01:00.25"], "stop_timestamp": ["00:00:05.0", "00:01:02.0"],
            "verb_class": [0, 1], "noun_class": [0, 0],
        },
        index=pandas.Index([11, 12], name="uid"),
    )  # fmt: skip
    (tmp_path / "EPIC_train_action_labels.pkl").write_bytes(pickle.dumps(frame))
    train, validation = (read_dataset(tmp_path, "ek55", split) for split in ("train", "validation"))
    assert [row.uid for row in train.segments] == ["11"]
    (sample,) = build_samples(validation, tau_a=1.0, tau_o=5.0, seconds_per_item=1.0).samples
    assert sample.id == "12"
    assert sample.payload["action"] == 1
    assert sample.payload["end"] == 59.25
    assert sample.payload["subsets"] == ["many_shot_action", "many_shot_verb"]


def test_egtea_takes_its_first_split_by_default(tmp_path):
    (tmp_path / "actions.csv").write_text("0, 0_0, Take_cup\n1, 1_1, Put/Place_lid\n")
    for number in (1, 2):
        (tmp_path / f"training{number}.csv").write_text(f"{number}, P0{number}-R01-Pizza, 0090, 0120, 01, 01, 0001\n")
    dataset = read_dataset(tmp_path, "egtea", "train")
    (row,) = dataset.segments
    assert (row.video_id, row.participant_id, row.action_start) == ("P01-R01-Pizza", "P01-R01-Pizza", 3.0)
    assert read_dataset(tmp_path, "egtea", "train2").segments[0].uid == "2"
    assert dataset.table.M_verb.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_salads_are_read_fold_by_fold(tmp_path):
    for name in ("splits", "groundTruth"):
        (tmp_path / name).mkdir()
    (tmp_path / "mapping.txt").write_text("0 cut_tomato\n1 action_end\n")
    (tmp_path / "splits" / "train.split2.bundle").write_text("#bundle\nrgb-01-1.txt\n")
    (tmp_path / "groundTruth" / "rgb-01-1.txt").write_text("cut_tomato\n" * 60 + "action_end\n" * 30)
    dataset = read_dataset(tmp_path, "salads", "train2", fps={"rgb-01-1": 30.0})
    assert [(row.uid, row.action_start, row.action_end, row.action) for row in dataset.segments] == [
        ("rgb-01-1_0", 0.0, 2.0, 0), ("rgb-01-1_1", 2.0, 3.0, 1),
    ]  # fmt: skip
    assert dataset.segments[0].participant_id == "01"
    found = build_samples(dataset, tau_a=1.0, tau_o=20.0, seconds_per_item=1.0)
    assert [sample.id for sample in found.samples] == ["rgb-01-1_1"]
    with pytest.raises(InputError, match="rate of the video is unknown"):
        read_dataset(tmp_path, "salads", "train2", fps={})
    (tmp_path / "groundTruth" / "rgb-01-1.txt").write_text("fry_egg\n")
    with pytest.raises(InputError, match="label 'fry_egg' is not in the mapping"):
        read_dataset(tmp_path, "salads", "train2")
    (tmp_path / "splits" / "train.split2.bundle").write_text("rgb-01-1.txt\n")
    with pytest.raises(InputError, match="first line must begin with '#'"):
        read_dataset(tmp_path, "salads", "train2")
