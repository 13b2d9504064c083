"""Which device a job runs on, and what running out of memory looks like."""

from __future__ import annotations

import logging

from sightline.errors import DeviceError

log = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an exception means that the device ran out of memory."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )


def choose_device(gpus: int, *, demo_weights: bool) -> str:
    """Returns `cuda` or `cpu` for a job that was given `gpus` GPUs.

    Demo weights fall back to the CPU, with a note; any other weights stop before loading.

    Raises:
        DeviceError: A GPU was promised and none is usable.
    """
    if gpus < 1:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if demo_weights:
        log.info("no usable CUDA device; the demo model runs on the CPU")
        return "cpu"
    raise DeviceError(
        "this job was given a GPU but CUDA is not usable here",
        mend="run on a machine with a GPU, or pass --resources gpu=0 to run on the CPU",
    )


def fix_threads(threads: int) -> None:
    """Fixes the number of intra-op threads of torch: results must not depend on the machine's core count."""
    import torch

    torch.set_num_threads(threads)
