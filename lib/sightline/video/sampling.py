"""Which frames of a video are used, decided from times alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sightline.errors import InputError


def frames_at_rate(times_s: np.ndarray, fps: float) -> np.ndarray:
    """Returns the frames a reader takes that wants `fps` frames per second of real time.

    A frame is taken when its time since the first frame has reached a target, which then moves on by 1/fps. The
    target is not re-anchored to the frame taken: below `fps` every frame is taken, and after a stall frames are
    taken one after the other until the target is ahead again (Stream-VLM's feature extraction).

    Args:
        times_s: float64 [frames], seconds.
        fps: Frames per second wanted, above 0.

    Returns:
        int64 [taken], ascending frame indices.

    Raises:
        ValueError: `fps` is not above 0.
    """
    if not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    times = np.asarray(times_s, np.float64)
    taken, target, step = [], 0.0, 1.0 / fps
    for index, time in enumerate((times - times[0]).tolist() if len(times) else ()):
        if time >= target:
            taken.append(index)
            target += step
    return np.asarray(taken, np.int64)


def seconds_from_ns(times_ns: np.ndarray, offset_s: float = 0.0) -> np.ndarray:
    """Returns UNIX nanoseconds as float64 seconds, whole and fractional part added one after the other.

    The order of the additions decides the last bit; it is that of the QEVD reader, where `offset_s` is 28800.
    """
    seconds = np.asarray(times_ns, np.float64) / 1e9
    return np.trunc(seconds) + np.mod(seconds, 1) + offset_s


def read_timestamps(path: str | Path) -> np.ndarray:
    """Reads one number per frame from a `.npy` file, as float64 [frames].

    Raises:
        InputError: Missing, not a numeric one-dimensional array, empty, NaN or infinite.
    """
    mend = "fetch the dataset's timestamps again"
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError("timestamps file not found", file=path, mend=mend) from None
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"not a readable .npy file ({error})", file=path, mend=mend) from None
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iuf":
        raise InputError("expected one number per frame", file=path, mend=mend)
    values = values.astype(np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise InputError("no timestamp, or one that is not finite", file=path, mend=mend)
    return values
