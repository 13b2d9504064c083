"""What a user is told when something is wrong: the problem, where it is, and the mend."""

from __future__ import annotations

from pathlib import Path


class SightlineError(Exception):
    """A problem a user can act on, printed without a traceback.

    Args:
        problem: One sentence that says what is wrong.
        file: File the problem was found in.
        item: Sample, video, tensor or other item inside the file.
        field: Field, column or configuration key.
        mend: What the user should do.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        item: str | None = None,
        field: str | None = None,
        mend: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.item = item
        self.field = field
        self.mend = mend
        super().__init__(self.render())

    def render(self) -> str:
        """Returns the message as one paragraph: where, what, and how to mend it."""
        where = ", ".join(
            part
            for part in (
                self.file,
                self.item and f"item {self.item}",
                self.field and f"field {self.field}",
            )
            if part
        )
        text = f"{where}: {self.problem}" if where else self.problem
        return f"{text} -> {self.mend}" if self.mend else text


class InputError(SightlineError):
    """A dataset file, record or user input is malformed."""


class ConfigError(SightlineError):
    """The configuration is wrong; `problems` holds every finding, so that all are shown at once."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        head = "1 problem in the configuration" if count == 1 else f"{count} problems in the configuration"
        super().__init__("\n".join([f"{head}:", *(f"  - {problem}" for problem in self.problems)]))


class AssetError(SightlineError):
    """A download, an archive or a checksum failed."""


class CheckpointError(SightlineError):
    """Weights do not fit the model that was asked for."""


class VideoError(SightlineError):
    """A video cannot be used as it is."""


class StoreError(SightlineError):
    """A feature store or a record file is damaged, stale or incomplete."""


class NonFiniteError(SightlineError):
    """NaN or infinity where numbers were expected."""


class DeviceError(SightlineError):
    """The device that the job was given cannot run it."""


class ClusterError(SightlineError):
    """The cluster does not have what a profile asks for, or does not answer."""


class BackendError(SightlineError):
    """A language model, or the server it runs on, did not answer."""


class ResumableStop(SightlineError):
    """The job was asked to stop; finished rows are durable and the next attempt goes on from there."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h
