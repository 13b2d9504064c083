"""Parity of the 3D CNN and of feature extraction with the golden runs in `fitcoach/a_cnn`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from fill import fill_state_dict
from golden import find, load_json
from sightline.systems.fitcoach.features import (
    ExtractorSettings,
    extract_group_compat,
    extract_video,
    is_rotated,
    preprocess,
    qevd_seconds,
)
from sightline.systems.fitcoach.model.cnn import load_classifier, load_cnn

CHUNKS = (4, 16)


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(find("fitcoach", "a_cnn", name), allow_pickle=False) as stored:
        return dict(stored)


def cases(name: str) -> list:
    rows = load_json("fitcoach", "a_cnn", name) or []
    return [pytest.param(row, id=f"fitcoach-{name.removesuffix('.json')}-{k}") for k, row in enumerate(rows)]


def groups() -> list:
    rows = load_json("fitcoach", "a_cnn", "extract_video_cases.json") or []
    by_group: dict[int, list] = {}
    for row in rows:
        by_group.setdefault(row["group"], []).append(row)
    return [
        pytest.param(sorted(videos, key=lambda row: row["video"]), id=f"fitcoach-extract-group{group}")
        for group, videos in by_group.items()
    ]


def sample(values: np.ndarray, count: int) -> np.ndarray:
    flat = values.reshape(-1)
    return flat[(np.arange(count) * (flat.size - 1)) // (count - 1)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    listed = load_json("fitcoach", "a_cnn", "state_dict_keys_efficientnet.json")
    filled = fill_state_dict({name: tuple(shape) for name, shape, _ in listed})
    path = tmp_path_factory.mktemp("cnn") / "efficientnet4Lite_1.8.3.checkpoint"
    torch.save({name: torch.from_numpy(values) for name, values in filled.items()}, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", cases("state_dict_keys_efficientnet.json")[:1])
def test_the_genuine_names_are_the_models(name, checkpoint):
    listed = load_json("fitcoach", "a_cnn", "state_dict_keys_efficientnet.json")
    model, report = load_classifier(checkpoint)
    found = sorted([key, list(value.shape), "float32"] for key, value in model.state_dict().items())
    assert found == listed
    assert not report.missing
    assert not report.left_over
    assert not report.notes


@torch.inference_mode()
def run_stages(model, case: dict):
    """Runs the case in calls of four frames; yields (step, block outputs, pre-ReLU6, features, logits)."""
    rng = np.random.Generator(np.random.PCG64(case["seed"]))
    frames = torch.from_numpy(rng.random(case["shape"], dtype=np.float32) * np.float32(case["input_scale"]))
    blocks: dict[int, np.ndarray] = {}
    hooks = [
        block.register_forward_hook(
            lambda _m, _i, out, k=k: blocks.__setitem__(k, (out[0] if isinstance(out, tuple) else out).numpy())
        )
        for k, block in enumerate(model.backbone.cnn)
    ]
    before = []
    last = len(model.backbone.cnn) - 1
    hooks.append(model.backbone.cnn[last][0].register_forward_hook(lambda _m, _i, out: before.append(out.clone())))
    state = None
    for step, four in enumerate(frames.split(len(frames) // case["steps"])):
        features, state = model.backbone(four, state)
        yield step, dict(blocks), before[-1].numpy(), features.numpy(), model.logits(features).numpy()
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("case", cases("cnn_cases.json"))
def test_every_stage_of_the_streaming_cnn(case, checkpoint):
    stored, prefix = arrays("cnn_stages.npz"), f"c{case['case']}_"
    model, _ = load_classifier(checkpoint)
    saved, logits, before = [], [], []
    compared = 0
    for step, blocks, pre, features, scores in run_stages(model, case):
        for k, values in blocks.items():
            name = f"{prefix}step{step}_block{k:02d}_"
            expected = stored[name + "sample"]
            np.testing.assert_array_equal(stored[name + "shape"], values.shape)
            np.testing.assert_allclose(sample(values, len(expected)), expected, atol=1e-4, rtol=0)
            np.testing.assert_allclose([values.mean(), values.std(ddof=1)], stored[name + "mean_std"], atol=1e-4)
            compared += 1
        saved.append(features)
        logits.append(scores)
        before.append(pre)
    assert compared == sum(key.startswith(prefix) and key.endswith("_sample") and "block" in key for key in stored)
    every = case["saved_subsampled_channels_every"]
    found = np.concatenate(saved)
    assert list(found.shape) == case["saved_shape"]
    np.testing.assert_allclose(found[:, ::every], stored[prefix + "saved_features"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(found, np.clip(np.concatenate(before), 0, 6), atol=0)
    expected = stored[prefix + "pre_relu6_sample"].reshape(case["steps"], -1)
    samples = np.stack([sample(pre, expected.shape[1]) for pre in before])
    np.testing.assert_allclose(samples, expected, atol=1e-4, rtol=0)
    flat = np.concatenate(logits)[:, ::16]
    np.testing.assert_allclose(flat, stored[prefix + "logits"].reshape(flat.shape), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", cases("preprocess_cases.json"))
def test_the_pixels_the_cnn_gets(case):
    rng = np.random.Generator(np.random.PCG64(case["seed"]))
    frame = rng.integers(0, 256, (case["frame_h"], case["frame_w"], 3), np.uint8)
    rotate = is_rotated(str(case["video_id"]), ExtractorSettings())
    assert rotate == case["rotated"]
    picture = preprocess(frame, rotate)
    np.testing.assert_array_equal(picture[:, ::2, ::2], arrays("preprocess.npz")[f"p{case['case']}_out_u8"])
    assert [1, *picture.shape] == case["out_shape"]
    means = (picture / np.float32(255)).mean(axis=(1, 2))
    np.testing.assert_allclose(means, case["channel_means"], atol=1e-5)


def write_lossless(path: Path, frames: list[np.ndarray]) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(stream.encode())


def write_group(folder: Path, videos: list[dict]) -> list[tuple[Path, np.ndarray]]:
    written = []
    for row in videos:
        rng = np.random.Generator(np.random.PCG64(row["seed"]))
        base = rng.integers(0, 256, (row["h"], row["w"], 3), np.uint8).astype(np.int64)
        frames = [((base + 7 * t) % 256).astype(np.uint8) for t in range(row["n_frames"])]
        path = folder / f"{row['video_id']}.mkv"
        if path.exists():  # the same id twice in a group
            path = folder / f"v{row['video']}" / path.name
            path.parent.mkdir()
        write_lossless(path, frames)
        stamps = arrays("extract_video.npz")[f"g{row['group']}v{row['video']}_frame_timestamps_ns"]
        written.append((path, qevd_seconds(stamps)))
    return written


def check_features(found, row: dict) -> None:
    stored, name = arrays("extract_video.npz"), f"g{row['group']}v{row['video']}_"
    assert list(found.features.shape) == row["features_shape"]
    np.testing.assert_array_equal(found.timestamps, stored[name + "feature_timestamps_s"])
    every = found.features.shape[1] // stored[name + "features_ch64"].shape[1]
    np.testing.assert_allclose(found.features[:, ::every], stored[name + "features_ch64"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("videos", groups())
def test_extraction_of_a_group_in_order(videos, chunk, checkpoint, tmp_path):
    settings = ExtractorSettings(chunk_frames=chunk)
    found = extract_group_compat(write_group(tmp_path, videos), settings, load_cnn(checkpoint))
    assert len(found) == len(videos)
    for features, row in zip(found, videos, strict=True):
        check_features(features, row)


@pytest.mark.parametrize("videos", groups())
def test_the_first_video_of_a_group_is_what_extraction_alone_gives(videos, checkpoint, tmp_path):
    written = write_group(tmp_path, videos)
    cnn, settings = load_cnn(checkpoint), ExtractorSettings()
    check_features(extract_video(*written[0], settings, cnn), videos[0])
    for path, times in written[1:]:  # reset: what the video gives does not depend on the ones before it
        alone = extract_video(path, times, settings, cnn)
        assert alone.features.tobytes() == extract_video(path, times, settings, cnn).features.tobytes()
