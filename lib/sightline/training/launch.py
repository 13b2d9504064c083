"""Several processes for one training, as `torchrun` would start them on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sightline.errors import ResumableStop, SightlineError
from sightline.llm.main_script import main_script_left_alone


def run_processes(count: int, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Calls `function(**arguments)` in this process, or in `count` processes that find each other.

    Each of several processes has its own interpreter, so that arguments must be picklable and the function
    importable, and not from this process's main script, which is not run again. SIGTERM and SIGUSR1 to this
    process reach all of them, as SIGTERM.

    Args:
        count: Number of processes, one per GPU on a machine with GPUs.
        function: What to call.
        arguments: By keyword.

    Returns:
        What the function returned; that of the first process if there are several.

    Raises:
        ResumableStop: This process was told to stop.
        SightlineError: A process failed; the log above has its own message.
    """
    if count == 1:
        return function(**arguments)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="training",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        start_method="spawn",
    )
    previous = signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with main_script_left_alone():
            return elastic_launch(config, _call)(function, dict(arguments))[0]
    except SignalException as error:
        raise ResumableStop(
            f"stopped by {error.sigval.name}", mend="run the same command again; it goes on from there"
        ) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        message = failure.message if isinstance(failure.message, str) else failure.message.get("message", "")
        raise SightlineError(
            f"process {rank} of {count} failed: {message}", mend="the lines above say why; then run it again"
        ) from None
    finally:
        signal.signal(signal.SIGUSR1, previous)


@record
def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    return function(**arguments)
