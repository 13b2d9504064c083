"""What a model on raw frames is shown: the window's pictures, cut alike, drawn from the generator a training keeps."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from sightline.errors import VideoError
from sightline.systems.sgear.pictures import (
    PixelSettings,
    VideoFacts,
    VideoFolder,
    picture_inputs,
    window_of,
)
from sightline.systems.sgear.predict import PredictSettings, SgearPredictor
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.train import TrainSettings, train
from sightline.systems.sgear.windows import WindowSettings
from sightline.training.loop import LoopSettings

from tests.unit.sgear_tiny import FRAMES, random_model, sample, vit_config

WINDOWS = WindowSettings(num_frames=FRAMES, frame_rate=1.0)
PIXELS = PixelSettings(scale=10, scale_train=(10, 12), crop=8, crops=3)
FACTS = {"P01_1": VideoFacts(10.0, np.arange(400) / 10)}


def payload(number: int) -> SgearPayload:
    return SgearPayload.from_json(sample(number).payload)


def drawn(video: str, places: list[int]) -> list[np.ndarray]:
    return [np.random.default_rng(place).integers(0, 255, (12, 20, 3), np.uint8) for place in places]


def test_the_window_decides_which_pictures_are_read():
    window = window_of(payload(3), FACTS, WINDOWS)
    assert window.frames.tolist() == [70, 80, 90, 100]
    assert window_of(payload(3), {}, WINDOWS) is None
    assert window_of(payload(300), FACTS, WINDOWS) is None


def test_evaluation_cuts_three_crops_and_a_video_without_pictures_is_empty():
    read = picture_inputs(drawn, FACTS, WINDOWS, PIXELS)
    found = read([payload(3), payload(300)])
    assert found.values.shape == (2, FRAMES, 3, 3, 8, 8)
    assert found.empty.tolist() == [False, True]
    assert found.missing.tolist() == [[False] * FRAMES, [True] * FRAMES]
    answers = SgearPredictor(random_model(vit_config()), read, PredictSettings()).predict([sample(3), sample(300)])
    assert [one.reason for one in answers] == ["", "no_features"]


def test_training_draws_from_the_global_generator():
    read = picture_inputs(drawn, FACTS, WINDOWS, PIXELS, train=True)
    np.random.seed(3)
    state = np.random.get_state()
    one, other = read([payload(3)]).values, read([payload(3)]).values
    assert one.shape == (1, FRAMES, 3, 8, 8)
    assert not np.array_equal(one, other)
    np.random.set_state(state)
    assert np.array_equal(read([payload(3)]).values, one)


def test_a_model_on_frames_learns_end_to_end():
    model = random_model(vit_config())
    before = model.backbone.model.patch_embed.proj.weight.detach().clone()
    settings = TrainSettings(loop=LoopSettings(epochs=2, batch_size=2, learning_rate=1e-3))
    read = picture_inputs(drawn, FACTS, WINDOWS, PIXELS, train=True)
    curve = train([sample(number) for number in range(2, 8)], read, model, settings).curve
    assert len(curve) == 6
    assert not np.array_equal(model.backbone.model.patch_embed.proj.weight.detach(), before)


def test_videos_are_found_and_decoded_in_rgb(tmp_path: Path):
    path = tmp_path / "second" / "P01" / "P01_1.MP4"
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(12):
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[..., 0] = 250
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    kept, plain = (VideoFolder([tmp_path, tmp_path / "second"], megabytes) for megabytes in (1, 0))
    facts = kept.get("P01_1")
    assert facts.fps == 10
    np.testing.assert_allclose(facts.times, np.arange(12) / 10)
    plain.get("P01_1")
    found = kept("P01_1", [1, 5, 5])
    assert len(found) == 3
    path.unlink()
    again = kept("P01_1", [5])  # from memory
    np.testing.assert_array_equal(again[0], found[1])
    with pytest.raises(VideoError):
        plain("P01_1", [5])
    assert kept.get("P09_9") is None
    red, green, blue = found[2].reshape(-1, 3).mean(axis=0)
    assert red > 200
    assert max(green, blue) < 40
