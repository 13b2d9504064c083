"""Features of one's own videos: genuine keys, resumption, clips, bad input."""

from __future__ import annotations

import lmdb
import numpy as np
import pytest
import torch
from sightline.errors import CheckpointError, InputError, ResumableStop, StoreError
from sightline.systems.sgear.extract import (
    ExtractSettings,
    encode_video,
    extract_features,
    frame_numbers,
    open_backbone,
    source_frames,
)
from sightline.systems.sgear.feature_lmdb import FeatureReader
from sightline.systems.sgear.windows import WindowSettings, feature_window
from sightline.video.render import write_mp4
from transformers import ViTConfig, ViTImageProcessor, ViTModel

VIDEOS = {"P01_01": "P01/P01_01.MP4", "P01_02": "P01/P01_02.MP4", "P02_01": "P02/P02_01.MP4"}
FPS = 25


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    for number, relative in enumerate(VIDEOS.values()):
        path = folders[number % 2] / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = [np.full((32, 48, 3), 40 * number + 2 * frame, np.uint8) for frame in range(50)]
        write_mp4(path, grey, FPS)
    return folders


def _brightness(clips):
    """Mean brightness of the first and the last picture of each clip."""
    means = clips.mean(axis=(2, 3, 4))
    return np.stack([means[:, 0], means[:, -1]], axis=1).astype(np.float32)


def test_numbers_and_sources():
    assert frame_numbers(1.0, 10).tolist() == [1, 11, 21]
    assert frame_numbers(0.01, 5).tolist() == [1]
    times = 3.0 + np.arange(50) / FPS  # a video need not begin at 0
    assert source_frames(np.array([-5, 1, 2, 31, 61, 999]), times).tolist() == [0, 0, 0, 25, 49, 49]


def test_features_are_read_like_rulstms(roots, tmp_path):
    counts = extract_features(VIDEOS, roots, tmp_path, _brightness, "key", ExtractSettings(every=5, batch=3))
    assert counts == {"videos": 3, "computed": 3, "features": 36}
    window = feature_window("P01_02", 0.0, 2.0, WindowSettings(num_frames=2, frame_rate=1.0))
    with FeatureReader([tmp_path]) as reader:
        features, missing = reader.read([window])
    assert not missing.any()
    # Frames 30 and 60 are not there; 26 and 56 are: (n - 1)/30 s into the video, at 25 frames a second.
    expected = [40 + 2 * int((n - 1) / 30 * FPS + 1e-6) for n in (26, 56)]
    np.testing.assert_allclose(features[0, :, 0], expected, atol=3)


def test_a_clip_ends_with_the_frame_of_its_key(roots):
    settings = ExtractSettings(every=10, clip_frames=3, clip_step=6, batch=2)
    numbers, features = encode_video(roots[0] / VIDEOS["P01_01"], _brightness, settings)
    assert numbers.tolist() == [1, 11, 21, 31, 41, 51]
    for number, (first, last) in zip(numbers, features, strict=True):
        for value, at in ((first, max(number - 12, 1)), (last, number)):
            assert value == pytest.approx(2 * int((at - 1) / 30 * FPS + 1e-6), abs=3)


def test_a_stopped_extraction_goes_on(roots, tmp_path):
    calls = []

    def encode(clips):
        calls.append(len(clips))
        return _brightness(clips)

    stops = iter([False, True])
    with pytest.raises(ResumableStop, match="after 1 of 3 videos"):
        extract_features(VIDEOS, roots, tmp_path, encode, "key", should_stop=lambda: next(stops))
    before = len(calls)
    assert extract_features(VIDEOS, roots, tmp_path, encode, "key")["computed"] == 2
    assert len(calls) == 3 * before
    assert extract_features(VIDEOS, roots, tmp_path, encode, "key")["computed"] == 0
    with pytest.raises(StoreError, match="another backbone"):
        extract_features(VIDEOS, roots, tmp_path, encode, "other")
    whole = tmp_path / "whole"
    extract_features(VIDEOS, roots, whole, _brightness, "key")
    assert _content(tmp_path) == _content(whole)


def _content(folder):
    with (
        lmdb.open(str(folder / "data.mdb"), subdir=False, readonly=True, lock=False) as env,
        env.begin() as transaction,
    ):
        return {bytes(key): bytes(value) for key, value in transaction.cursor()}


def test_bad_input(roots, tmp_path):
    with pytest.raises(InputError, match="1 of 2 videos are in none of 2 roots"):
        extract_features({"P01_01": VIDEOS["P01_01"], "x": "P09/x.MP4"}, roots, tmp_path, _brightness, "key")
    with pytest.raises(InputError, match="every 11 frames"):
        ExtractSettings(every=11)
    with pytest.raises(CheckpointError, match="no such backbone"):
        open_backbone("google/vit-base-patch16-224")
    with pytest.raises(CheckpointError, match="not usable as a backbone"):
        open_backbone(tmp_path)


def test_a_transformers_backbone(roots, tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=16
    )
    ViTModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    keys = set()
    for pool in ("first", "mean", "pooler"):
        encode, key = open_backbone(tmp_path, pool=pool)
        _, features = encode_video(roots[0] / VIDEOS["P01_01"], encode, ExtractSettings(every=10))
        assert features.shape == (6, 32)
        assert features.dtype == np.float32
        assert np.abs(features[0] - features[-1]).max() > 1e-4
        keys.add(key)
    assert len(keys) == 3
