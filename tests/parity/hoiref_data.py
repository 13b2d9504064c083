"""Golden HOI-QA: the files in their genuine places, and the pictures of the golden runs as files."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from golden import find, load_json
from PIL import Image

SYSTEM = "hoiref"


def arrays(*parts: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a golden file; an absent one has none."""
    path = find(SYSTEM, *parts)
    if path is None:
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


@cache
def frame_folder() -> Path:
    """Writes the golden pictures losslessly under their own relative paths, once."""
    folder = Path(tempfile.mkdtemp(prefix="sightline-hoiref-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, pixels in arrays("dataset", "images.npz").items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shown = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        Image.fromarray(shown).save(target, format="PNG")
    return folder


def dataset_file(name: str) -> Path:
    """Returns the path of a file of the golden dataset, which must be there."""
    path = find(SYSTEM, "dataset", name)
    assert path is not None
    return path


def expected_items() -> dict[str, list[dict[str, Any]]]:
    """Returns the items of the original's datasets by set."""
    return load_json(SYSTEM, "dataset", "expected.json") or {}
