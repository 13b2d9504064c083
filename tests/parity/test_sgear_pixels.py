"""Pictures against the original's transforms."""

from __future__ import annotations

import numpy as np
import pytest
from golden import find
from sightline.systems.sgear.pixels import as_clip, evaluation_input, multi_crop, normalise, resize, resized_shape

FILE = find("sgear", "preproc_schedule", "transforms.npz")
ARRAYS = {} if FILE is None else dict(np.load(FILE, allow_pickle=False))
CROPS = sorted(name for name in ARRAYS if name.startswith("crop"))


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"sgear-resize-{n}") for n, row in enumerate(ARRAYS.get("resize_shapes", []))]
)
def test_sizes(row):
    height, width, target, *expected = (int(value) for value in row)
    assert resized_shape(height, width, target) == tuple(expected)


def _shorter() -> int:
    return min(ARRAYS["resized"].shape[-2:])


@pytest.mark.parametrize("name", [pytest.param("resized", id="sgear-resized")] if "resized" in ARRAYS else [])
def test_resized_picture(name):
    found = resize(as_clip(ARRAYS["clip"]), _shorter()).numpy()
    count = ARRAYS[name].shape[1]  # the first frames alone are kept
    np.testing.assert_allclose(found[:, :count], ARRAYS[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", [pytest.param(name, id=f"sgear-{name}") for name in CROPS])
def test_crops(name):
    expected = ARRAYS[name]
    flips = "flip" in name
    crops = len(expected) // 2 if flips else len(expected)
    size, frames = expected.shape[-1], expected.shape[2]
    clip = normalise(resize(as_clip(ARRAYS["clip"]), _shorter()))
    found = multi_crop(clip, size, crops, flips=flips).numpy()
    np.testing.assert_allclose(found[:, :, :frames], expected, rtol=1e-6, atol=1e-6)
    shown = evaluation_input(ARRAYS["clip"], scale=_shorter(), crop=size, crops=crops, flips=flips)
    shown = shown if shown.ndim == 5 else shown[:, None]
    assert np.array_equal(shown.transpose(1, 2, 0, 3, 4), found)
