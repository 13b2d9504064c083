"""Frame indices, tile grids and pixels against the original's."""

from __future__ import annotations

import numpy as np
import pytest
from golden import find, load_json, load_jsonl
from sightline.systems.videosavi.frames import normalise, tile_frames
from sightline.systems.videosavi.segments import FrameProfile, segment_indices
from sightline.video.tiles import choose_grid, grid_candidates

SYSTEM = "videosavi"
INDICES = load_jsonl(SYSTEM, "preprocess", "frame_indices.jsonl")
TILINGS = load_jsonl(SYSTEM, "preprocess", "tiling.jsonl")
ORDERS = load_json(SYSTEM, "preprocess", "tiling_candidate_order.json") or {}
PIXELS = load_json(SYSTEM, "preprocess", "pixel_values_meta.json") or []
SUMMARIES = load_json(SYSTEM, "preprocess", "pixel_values_448_summary.json") or []
LARGEST = max((case["max_num"] for case in TILINGS), default=0)


def numbered(cases: list, what: str) -> list:
    return [pytest.param(case, id=f"{SYSTEM}-{what}{number}") for number, case in enumerate(cases)]


def drawn(case: dict) -> np.ndarray:
    """Returns the sampled frames of a golden video, uint8 [segments, height, width, 3]."""
    y, x = np.mgrid[: case["height"], : case["width"]]
    indices = segment_indices(case["n_frames"], case["fps"], case["num_segments"])
    seed = case["seed"]
    return np.stack([
        np.stack([
            3 * x + 5 * y + 11 * i + 7 * seed,
            x * y // 7 + 17 * i + 13 * seed,
            (x // 8 + y // 8) * 40 + 29 * i + 3 * seed,
        ], axis=-1) % 256 for i in indices
    ]).astype(np.uint8)  # fmt: skip


def tiled(case: dict):
    profile = FrameProfile("golden", case["num_segments"], case["max_num"], case["input_size"])
    found = tile_frames(drawn(case), profile)
    assert found.tiles_per_frame == case["num_patches_list"]
    assert list(found.tiles.shape) == case["shape"]
    return found.tiles


@pytest.mark.parametrize("name", [f"{SYSTEM}-indices"] if INDICES else [])
def test_frame_indices(name):
    for case in INDICES:
        bound = None if case["bound"] is None else tuple(case["bound"])
        found = segment_indices(case["n_frames"], case["fps"], case["num_segments"], bound, case["first_idx"])
        assert found == case["indices"], case


@pytest.mark.parametrize("limit", [pytest.param(limit, id=f"{SYSTEM}-{limit}") for limit in ORDERS])
def test_candidates_stand_in_the_recorded_order(limit):
    assert [list(grid) for grid in grid_candidates(1, int(limit))] == ORDERS[limit]


@pytest.mark.parametrize("limit", [pytest.param(n, id=f"{SYSTEM}-{n}") for n in range(1, LARGEST + 1)])
def test_grids(limit):
    for case in TILINGS:
        if case["max_num"] != limit:
            continue
        found = choose_grid(
            case["width"], case["height"], max_tiles=limit, min_tiles=case["min_num"], size=case["image_size"]
        )
        assert [found.columns, found.rows] == case["ratio"], case
        assert list(found.target_size) == case["target_size"]
        assert [list(box) for box in found.boxes()] == case["boxes"]
        assert (found.thumbnail, found.tiles) == (case["thumbnail"], case["num_tiles"])


@pytest.mark.parametrize("case", [pytest.param(case, id=f"{SYSTEM}-{case['key']}") for case in PIXELS])
def test_pixels(case):
    tiles = tiled(case)
    with np.load(find(SYSTEM, "preprocess", "pixel_values.npz"), allow_pickle=False) as arrays:
        wanted = arrays[f"{case['key']}__uint8_chw"]
        difference = np.abs(tiles.astype(int) - wanted)
        assert difference.max() <= 1  # other builds of Pillow
        assert (difference > 0).mean() <= 1e-3
        if f"{case['key']}__normalized" in arrays:
            same = difference == 0
            assert np.array_equal(normalise(tiles).numpy()[same], arrays[f"{case['key']}__normalized"][same])


@pytest.mark.parametrize("case", numbered(SUMMARIES, "full"))
def test_full_size(case):
    values = normalise(tiled(case)).numpy()
    flat = values.transpose(1, 0, 2, 3).reshape(3, -1).astype(np.float64)
    assert np.allclose(flat.mean(1), case["mean"], atol=1e-5)
    assert np.allclose(flat.std(1, ddof=1), case["std"], atol=1e-5)
    assert np.allclose(values.reshape(len(values), -1).mean(1, dtype=np.float64), case["per_tile_mean"], atol=1e-5)
    assert np.allclose(values[0, 0, 0, :8], case["sample_0_0_0"], atol=1e-6)
    assert np.allclose(values[-1, 2, -1, -8:], case["sample_last"], atol=1e-6)
