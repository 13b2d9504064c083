"""The pixels the CNN gets are those of the original's order of work."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from sightline.systems.fitcoach.features import ExtractorSettings, is_rotated, preprocess


def plain_preprocess(frame: np.ndarray, rotate: bool) -> np.ndarray:
    """The original's order of work: turn, pad, swap channels, crop, scale."""
    if rotate:
        frame = np.rot90(frame, -1)
        height, width = frame.shape[:2]
        square = np.zeros((max(height, width),) * 2 + (3,), np.uint8)
        top, left = (len(square) - height) // 2, (len(square) - width) // 2
        square[top : top + height, left : left + width] = frame
        frame = square
    frame = np.ascontiguousarray(frame[:, :, ::-1])
    height, width = frame.shape[:2]
    if height / width > 1.4:
        kept = int(width * 1.4)
        start = int((height - kept) / 2)
        frame = frame[start : start + kept]
    elif height / width < 1.4:
        kept = int(height / 1.4)
        start = int((width - kept) / 2)
        frame = frame[:, start : start + kept]
    return cv2.resize(frame, (160, 224)).transpose(2, 0, 1)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("size", [(360, 640), (640, 360), (224, 160), (101, 77), (77, 101), (14, 10), (9, 31)])
def test_pixels_are_those_of_the_plain_order_of_work(size, rotate):
    frame = np.random.default_rng(size[0]).integers(0, 256, (*size, 3)).astype(np.uint8)
    found = preprocess(frame, rotate)
    with_alpha = np.concatenate([frame, np.full((*size, 1), 255, np.uint8)], axis=2)
    np.testing.assert_array_equal(preprocess(with_alpha, rotate), found)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, plain_preprocess(frame, rotate))


def test_which_videos_are_turned():
    settings = ExtractorSettings()
    assert [is_rotated(name, settings) for name in ("0006", "145", "146", "squat", "²", "")] == [
        True, True, False, False, False, False
    ]  # fmt: skip
    assert not is_rotated("0006", replace(settings, rotate_upto_id=None))
