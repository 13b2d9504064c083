"""What sgear puts into `Sample.payload` and `Prediction.output`."""

from __future__ import annotations

from dataclasses import dataclass, field

from sightline.errors import InputError
from sightline.records.types import Record


class _Row(Record):
    """A record inside a record: fields are checked as for any record, but there is no id of its own."""

    __slots__ = ()

    def check(self, *, file: str | None = None) -> None:
        """Types are all there is to check."""


@dataclass(frozen=True, slots=True)
class SgearPayload(_Row):
    """One action to be anticipated.

    Attributes:
        uid: Row key of the dataset, counted before any row is dropped (EK100 pickles) or as the file says.
        narration_id: Key a submission uses; equal to `uid` where the dataset has no other.
        video_id: Video without suffix.
        participant_id: Who wears the camera.
        start: Seconds in the video where observation begins; may be negative.
        end: Seconds where it ends, `action_start - tau_a`.
        action_start: Seconds where the action begins.
        action_end: Seconds where it ends.
        action: Class of the action; -1 when unknown.
        verb: Class of its verb; -1 when unknown.
        noun: Class of its noun; -1 when unknown.
        row: Index in the table of kept rows; the `idx` of the original's result files.
        past_labels: Class per frame slot [T], -1 where nothing was going on; empty when nobody asked.
        subsets: Evaluation lists the row is in: `unseen`, `tail_verb`, `tail_noun`, `tail_action`.
    """

    uid: str
    narration_id: str
    video_id: str
    participant_id: str
    start: float
    end: float
    action_start: float
    action_end: float
    action: int
    verb: int
    noun: int
    row: int
    past_labels: list[int] = field(default_factory=list)
    subsets: list[str] = field(default_factory=list)

    def check(self, *, file: str | None = None) -> None:
        """Refuses a window that ends before it begins.

        Raises:
            InputError: As said.
        """
        if self.end < self.start:
            raise InputError("the window ends before it begins", file=file, item=self.uid, field="end")


@dataclass(frozen=True, slots=True)
class Anticipation(_Row):
    """What is kept of one prediction beside its logits.

    The logits themselves (float32 [A], raw) stand in the feature store under `Prediction.files["logits"]`.

    Attributes:
        top: The five best classes, best first.
        top_logits: Their raw logits.
        missing_frames: Slots that were filled with zeros because the store had no vector.
        horizons: Further anticipation times in seconds, as text, to the five best classes; -1 where the window has
            no frame.
    """

    top: list[int]
    top_logits: list[float]
    missing_frames: int = 0
    horizons: dict[str, list[int]] = field(default_factory=dict)
