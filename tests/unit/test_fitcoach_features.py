"""From videos to stored features: the CNN's state, the pixels, the keys, and what happens to bad videos."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from sightline.errors import CheckpointError, NonFiniteError, ResumableStop, VideoError
from sightline.features.opening import open_store
from sightline.records.files import sha256_file
from sightline.systems.fitcoach import extract
from sightline.systems.fitcoach.features import (
    FEATURE_SHAPE,
    ExtractorSettings,
    VideoToExtract,
    extract_group_compat,
    extract_shard,
    extract_video,
    feature_key,
    preprocess,
    qevd_seconds,
)
from sightline.systems.fitcoach.model.cnn import ActionClassifier, load_classifier, load_cnn
from sightline.video.sampling import frames_at_rate

WEIGHTS, VERSION = "w" * 64, 1


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in ActionClassifier(7).state_dict().items()}
    return {
        name: torch.randn(shape, generator=generator) * (2 / max(1, shape[1:].numel())) ** 0.5 * (len(shape) > 1)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def cnn(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "cnn.checkpoint"
    torch.save(state, path)
    return load_cnn(path)


def write_video(path: Path, frames: int, seed: int, size: tuple[int, int] = (48, 64)) -> Path:
    """Writes a lossless video of a drifting random texture."""
    base = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width = size
        stream.pix_fmt = "bgr0"
        for index in range(frames):
            picture = np.roll(base, (index, 2 * index), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode())
    return path


def stamps(frames: int) -> np.ndarray:
    return 1.7e18 + np.arange(frames) / 30 * 1e9


# -------------------------------------------------------------------------------------------------- CNN
@torch.inference_mode()
def test_chunks_of_any_multiple_of_four_give_what_one_call_gives(cnn):
    frames = torch.rand((32, 3, 64, 48), generator=torch.Generator().manual_seed(1))
    whole, _ = cnn(frames)
    for sizes in ([4] * 8, [16, 16], [4, 20, 8]):
        state, parts = None, []
        for part in frames.split(sizes):
            features, state = cnn(part, state)
            parts.append(features)
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-3, rtol=0)
    fresh = torch.cat([cnn(part)[0] for part in frames.split(16)])
    assert (fresh - whole).abs().max() > 0.05  # what forgetting the state would do
    assert whole.shape == (8, 1280, 2, 2)
    assert 0 <= whole.min() < whole.max() <= 6


@torch.inference_mode()
def test_state_is_explicit_so_videos_may_be_interleaved(cnn):
    generator = torch.Generator().manual_seed(2)
    videos = [torch.rand((12, 3, 32, 32), generator=generator) for _ in range(2)]
    alone = []
    for video in videos:
        state, parts = None, []
        for four in video.split(4):
            features, state = cnn(four, state)
            parts.append(features)
        alone.append(torch.cat(parts))
    states, mixed = [None, None], [[], []]
    for step in range(3):
        for k, video in enumerate(videos):
            features, states[k] = cnn(video[4 * step : 4 * step + 4], states[k])
            mixed[k].append(features)
    for k in range(2):
        assert torch.equal(torch.cat(mixed[k]), alone[k])
    forgetful, _ = cnn(videos[0][8:])
    assert not torch.equal(forgetful, alone[0][2:])


def test_the_number_of_frames_must_be_a_multiple_of_four(cnn):
    for count in (0, 3, 5):
        with pytest.raises(ValueError, match="4k"):
            cnn(torch.zeros((count, 3, 32, 32)))


@pytest.mark.parametrize("form", ["bare", "wrapped", "module", "half", "by_position", "backbone_only"])
def test_every_form_of_checkpoint_loads(state, tmp_path, form):
    content = dict(state)
    if form == "module":
        content = {f"module.{name}": value for name, value in state.items()}
    elif form == "by_position":
        content = {f"backbone.{k}": value for k, value in enumerate(state.values())}
    elif form == "backbone_only":
        content = {name: value for name, value in state.items() if name.startswith("0.cnn.")}
    elif form == "half":
        content = {name: value.half() for name, value in state.items()}
    elif form == "wrapped":
        content = {"state_dict": content, "epoch": 3}
    path = tmp_path / "efficientnet4Lite_1.8.3.checkpoint"
    torch.save(content, path)
    loaded = load_cnn(path).state_dict()
    assert len(loaded) == sum(name.startswith("0.cnn.") for name in state)
    for name, value in loaded.items():
        expected = state[f"0.{name}"]
        assert torch.equal(value, expected.half().float() if form == "half" else expected)
    if form == "by_position":
        _, report = load_classifier(path)
        assert report.notes == ["184 tensors were matched by their place in the file, not by name"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [("missing", "0.cnn.3.conv.2.weight"), ("shape", "0.cnn.3.conv.2.weight"), ("nan", "0.cnn.3.conv.2.weight")],
)
def test_weights_that_do_not_fit_are_refused(state, tmp_path, damage, words):
    content, name = dict(state), "0.cnn.3.conv.2.weight"
    if damage == "missing":
        del content[name]
    elif damage == "shape":
        content[name] = content[name][:-1]
    else:
        content[name] = content[name] * float("nan")
    path = tmp_path / "cnn.checkpoint"
    torch.save(content, path)
    with pytest.raises((CheckpointError, NonFiniteError), match=words) as caught:
        load_cnn(path)
    assert path.name in str(caught.value)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError):
        load_cnn(path)


# ------------------------------------------------------------------------------------------- extraction
def test_the_hardware_is_given_bytes_and_divides_them_exactly(cnn, tmp_path, monkeypatch):
    seen = []
    original = type(cnn).forward
    monkeypatch.setattr(type(cnn), "forward", lambda *a: seen.append(a[1].clone()) or original(*a))
    path = write_video(tmp_path / "200.mkv", 9, seed=3)
    settings = ExtractorSettings(fps=1000.0, priming_copies=0)
    extract_video(path, qevd_seconds(stamps(9)), settings, cnn)
    base = np.random.default_rng(3).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    expected = preprocess(np.roll(base, (5, 10), (0, 1)), False).astype(np.float32) / np.float32(255)
    assert len(seen) == 2
    assert torch.equal(seen[1][1], torch.from_numpy(expected))


def test_steps_times_and_reset(cnn, tmp_path):
    settings = ExtractorSettings()
    path, times = write_video(tmp_path / "300.mkv", 40, seed=1), qevd_seconds(stamps(40))
    first = extract_video(path, times, settings, cnn)
    used = len(frames_at_rate(times, 16.0))
    assert first.used_frames == used == 21  # of 40 frames at 30 per second
    assert first.features.shape == (used // 4, *FEATURE_SHAPE)
    assert first.features.dtype == np.float32
    assert first.timestamps[0] == times[6]  # used frames 0 2 4 6
    again = extract_video(path, times, settings, cnn)
    assert again.features.tobytes() == first.features.tobytes()
    turned = extract_video(path, times, settings, cnn, rotate=True)
    assert not np.array_equal(turned.features, first.features)
    wide = extract_video(path, times, replace(settings, chunk_frames=16), cnn)
    np.testing.assert_allclose(wide.features, first.features, atol=1e-3)
    np.testing.assert_array_equal(wide.timestamps, first.timestamps)


def test_the_published_run_depends_on_the_order_and_ours_does_not(cnn, tmp_path):
    settings = ExtractorSettings()
    videos = [(write_video(tmp_path / f"{300 + k}.mkv", 41, seed=k), qevd_seconds(stamps(41))) for k in range(2)]
    alone = [extract_video(*video, settings, cnn) for video in videos]
    leaking = extract_group_compat(videos, settings, cnn)
    assert leaking[0].features.tobytes() == alone[0].features.tobytes()
    assert leaking[1].timestamps[0] != alone[1].timestamps[0]  # 2 frames of the first video were left over
    assert not np.array_equal(leaking[1].features[0], alone[1].features[0])


def test_video_and_times_must_belong_together(cnn, tmp_path):
    path = write_video(tmp_path / "300.mkv", 20, seed=1)
    for count in (19, 21):
        with pytest.raises(VideoError, match=rf"300.mkv: 20 frames decoded, {count} expected"):
            extract_video(path, qevd_seconds(stamps(count)), ExtractorSettings(), cnn)
    short = write_video(tmp_path / "301.mkv", 5, seed=1)
    with pytest.raises(VideoError, match="3 frames used, at least 4 needed"):
        extract_video(short, qevd_seconds(stamps(5)), ExtractorSettings(), cnn)
    assert not [thread for thread in threading.enumerate() if thread.name == "decode"]


def test_the_decoder_stops_when_the_cnn_fails(cnn, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("device lost")

    monkeypatch.setattr(type(cnn), "forward", fail)
    monkeypatch.setattr(extract, "_QUEUED_PICTURES", 2)
    path = write_video(tmp_path / "300.mkv", 200, seed=1)
    with pytest.raises(RuntimeError, match="device lost"):
        extract_video(path, qevd_seconds(stamps(200)), ExtractorSettings(), cnn)
    assert not [thread for thread in threading.enumerate() if thread.name == "decode"]


def test_a_feature_that_is_not_finite_names_video_and_step(cnn, tmp_path, monkeypatch):
    original, calls = type(cnn).forward, []

    def poisoned(self, frames, state=None):
        features, state = original(self, frames, state)
        calls.append(1)
        return (features * float("nan") if len(calls) == 5 else features), state

    monkeypatch.setattr(type(cnn), "forward", poisoned)
    path = write_video(tmp_path / "300.mkv", 30, seed=1)
    with pytest.raises(NonFiniteError, match=r"item 300: NaN or infinity in feature step 1"):
        extract_video(path, qevd_seconds(stamps(30)), ExtractorSettings(), cnn)


def test_settings_are_checked():
    for wrong in ({"chunk_frames": 6}, {"chunk_frames": 0}, {"storage_dtype": "bfloat16"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ExtractorSettings(**wrong)


def test_whatever_decides_the_bytes_changes_the_key():
    settings = ExtractorSettings()
    plain = feature_key("id", "v", "t", settings, WEIGHTS, VERSION, rotate=False)
    others = [
        feature_key("other", "v", "t", settings, WEIGHTS, VERSION, rotate=False),
        feature_key("id", "x", "t", settings, WEIGHTS, VERSION, rotate=False),
        feature_key("id", "v", "x", settings, WEIGHTS, VERSION, rotate=False),
        feature_key("id", "v", "t", settings, "x", VERSION, rotate=False),
        feature_key("id", "v", "t", settings, WEIGHTS, VERSION + 1, rotate=False),
        feature_key("id", "v", "t", settings, WEIGHTS, VERSION, rotate=True),
    ]
    changes = {"fps": 8.0, "storage_dtype": "float16", "rotate_upto_id": 9, "priming_copies": 0,
               "chunk_frames": 8, "apply_display_rotation": False, "allow_high_bit_depth": True,
               "cpu_threads": 2}  # fmt: skip
    assert set(changes) == set(settings.to_json())
    for name, value in changes.items():
        changed = replace(settings, **{name: value})
        others.append(feature_key("id", "v", "t", changed, WEIGHTS, VERSION, rotate=False))
    assert len({plain, *others}) == 1 + len(others)
    same = replace(settings, decoder_threads=2)
    assert feature_key("id", "v", "t", same, WEIGHTS, VERSION, rotate=False) == plain


# ------------------------------------------------------------------------------------------------ shard
def shard(tmp_path: Path, frames: int = 24) -> list[VideoToExtract]:
    videos = []
    for k, name in enumerate(("0007", "0200", "0201")):
        path = write_video(tmp_path / f"{name}.mkv", frames, seed=k)
        times = tmp_path / f"{name}_timestamps.npy"
        np.save(times, stamps(frames))
        videos.append(VideoToExtract(name, path, sha256_file(path), times, sha256_file(times)))
    return videos


def run_shard(videos, store, cnn, settings=None, **more):
    settings = settings or ExtractorSettings()
    return extract_shard(videos, store, cnn, settings, weights_sha256=WEIGHTS, stage_version=VERSION, **more)


def test_a_shard_skips_what_is_stored_and_goes_on_past_bad_videos(cnn, tmp_path):
    videos = shard(tmp_path)
    bad = replace(videos[1], timestamps_path=tmp_path / "short.npy")
    np.save(bad.timestamps_path, stamps(20))
    seen = []
    with open_store(tmp_path / "store.lmdb", "lmdb", "a") as store:
        rows = run_shard([videos[0], bad, videos[2]], store, cnn, progress=lambda *at: seen.append(at))
        assert [(row["video_id"], row["status"], row["steps"]) for row in rows] == [
            ("0007", "ok", 3), ("0200", "failed", 0), ("0201", "ok", 3)
        ]  # fmt: skip
        assert "24 frames decoded, 20 expected" in rows[1]["reason"]
        assert str(tmp_path) not in rows[1]["reason"]
        assert seen == [(1, 3), (2, 3), (3, 3)]
        assert store.keys() == sorted([rows[0]["key"], rows[2]["key"]])
        found = store.read(rows[2]["key"])
        direct = extract_video(videos[2].path, qevd_seconds(stamps(24)), ExtractorSettings(), cnn)
        np.testing.assert_array_equal(found["features"], direct.features)
        np.testing.assert_array_equal(found["timestamps"], direct.timestamps)
        assert store.info(rows[0]["key"]).meta["rotated"] is True
        assert [row["computed"] for row in rows] == [True, False, True]
        again = [{**row, "computed": False} for row in rows[::2]]
        assert run_shard(videos[::2], store, None) == again  # no CNN was needed


def test_a_stop_keeps_what_is_finished(cnn, tmp_path):
    videos, asked = shard(tmp_path), []
    with open_store(tmp_path / "store", "hdf5", "a") as store:
        with pytest.raises(ResumableStop, match="after 1 of 3"):
            run_shard(videos, store, cnn, should_stop=lambda: asked.append(1) or len(asked) == 2)
        assert len(store.keys()) == 1
        rows = run_shard(videos, store, cnn)
        assert sorted(row["key"] for row in rows) == store.keys()


def test_a_damaged_item_is_computed_again(cnn, tmp_path):
    videos = shard(tmp_path)[:1]
    with open_store(tmp_path / "store.lmdb", "lmdb", "a") as store:
        key = run_shard(videos, store, cnn)[0]["key"]
        digest = store.info(key).digest
    path = tmp_path / "store.lmdb"
    data = bytearray(path.read_bytes())
    with open_store(path, "lmdb", "r") as store:
        raw = store.read(key)["features"][1].tobytes()[:64]
    start = data.find(raw)
    assert start > 0
    data[start + 5] ^= 1
    path.write_bytes(data)
    with open_store(path, "lmdb", "a") as store:
        assert run_shard(videos, store, cnn)[0]["status"] == "ok"
        assert store.verify(key).digest == digest


def test_half_precision_keeps_the_direction_of_features(cnn, tmp_path):
    videos = shard(tmp_path)[1:2]
    with open_store(tmp_path / "store.lmdb", "lmdb", "a") as store:
        full = run_shard(videos, store, cnn)[0]["key"]
        half = run_shard(videos, store, cnn, ExtractorSettings(storage_dtype="float16"))[0]["key"]
        one, two = (store.read(key)["features"] for key in (full, half))
    assert (one.dtype, two.dtype) == (np.float32, np.float16)
    one, two = (array.astype(np.float64).reshape(len(array), -1) for array in (one, two))
    cosine = (one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
    assert cosine.min() > 1 - 1e-6


def test_a_video_without_a_timestamps_file_uses_its_own_clock(cnn, tmp_path):
    path = write_video(tmp_path / "mine.mkv", 24, seed=1)
    with open_store(tmp_path / "store.lmdb", "lmdb", "a") as store:
        row = run_shard([VideoToExtract("mine", path, sha256_file(path))], store, cnn)[0]
        assert store.read(row["key"])["timestamps"][0] == pytest.approx(6 / 30, abs=1e-3)
