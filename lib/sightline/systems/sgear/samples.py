"""A dataset in its genuine files becomes samples: one per action to be anticipated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sightline.errors import InputError
from sightline.records.types import Sample, is_slug
from sightline.systems.sgear.annotations import (
    Anticipations,
    Segment,
    anticipate,
    keep_videos,
    read_annotations,
    read_videos,
)
from sightline.systems.sgear.classes import (
    CLASS_FILES,
    MANY_SHOT_FILES,
    SUBSET_FILES,
    ClassTable,
    Form,
    ManyShot,
    all_pairs,
    read_action_table,
    read_ids,
    read_many_shot,
    read_names,
)
from sightline.systems.sgear.labels import PastLabels
from sightline.systems.sgear.records import SgearPayload
from sightline.systems.sgear.salads import Times, read_fold
from sightline.systems.sgear.windows import WindowSettings, feature_window

Cluster = Literal["video", "participant"]
ACTION_TABLE = "actions.csv"
MAPPING = "mapping.txt"
_EPIC_SUFFIXES = (".parquet", ".pkl", ".csv")
_FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "ek100": {
        "train": ("EPIC_100_train", "training"),
        "validation": ("EPIC_100_validation", "validation"),
        "test": ("EPIC_100_test_timestamps", "test"),
    },
    "ek55": {
        "train": ("training", "EPIC_train_action_labels"),
        "validation": ("validation", "EPIC_train_action_labels"),
        "test_s1": ("EPIC_test_s1_timestamps", "test_seen"),
        "test_s2": ("EPIC_test_s2_timestamps", "test_unseen"),
    },
    "egtea": {
        **{f"train{n}": (f"training{n}",) for n in (1, 2, 3)},
        **{f"validation{n}": (f"validation{n}",) for n in (1, 2, 3)},
    },
}
_SHORT = {"training": "train", "val": "validation"}
_VIDEO_LISTS = {"train": "training_videos.csv", "validation": "validation_videos.csv"}


@dataclass(frozen=True)
class Dataset:
    """Annotations of one split.

    Attributes:
        form: Which dataset.
        table: Its classes.
        segments: Its actions in file order.
        subsets: Evaluation list to narration ids.
        many_shot: EK55's many-shot classes.
        source: File the actions were read from.
    """

    form: Form
    table: ClassTable
    segments: list[Segment]
    subsets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    many_shot: ManyShot | None = None
    source: Path | None = None


@dataclass(frozen=True)
class Dropped:
    """A row that gives no sample, or something to be read with care, and why."""

    video_id: str
    item: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Returns the row as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class SampleSet:
    """Samples of a split, and what was left out on the way."""

    samples: list[Sample]
    dropped: list[Dropped]


def find_file(folder: str | Path, *names: str) -> Path | None:
    """Returns the first of `names` that lies in a folder or below it, the least deep one; None if there is none."""
    folder = Path(folder)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    for name in names:
        below = sorted(folder.rglob(name), key=lambda path: (len(path.parts), path.as_posix()))
        if below:
            return below[0]
    return None


def _require(folder: str | Path, *names: str) -> Path:
    found = find_file(folder, *names)
    if found is None:
        raise InputError(
            f"none of {', '.join(names)} is here",
            file=folder,
            mend="put EPIC's and RULSTM's annotations into one folder",
        )
    return found


def read_classes(folder: str | Path, form: Form) -> ClassTable:
    """Reads the classes of a dataset from its folder of annotations.

    Without an action table every verb and noun make an action.

    Raises:
        InputError: A file is missing or malformed.
    """
    if form == "salads":
        return read_action_table(_require(folder, MAPPING), form)
    verbs: tuple[str, ...] = ()
    nouns: tuple[str, ...] = ()
    if form in CLASS_FILES:
        verbs, nouns = (read_names(_require(folder, name), form) for name in CLASS_FILES[form])
    table = find_file(folder, ACTION_TABLE)
    if table is None and verbs:
        return all_pairs(verbs, nouns)
    return read_action_table(table or _require(folder, ACTION_TABLE), form, verbs=verbs, nouns=nouns)


def read_dataset(
    folder: str | Path,
    form: Form,
    split: str,
    *,
    fps: float | Mapping[str, float] = 30.0,
    times: Times = "float64",
) -> Dataset:
    """Reads one split.

    Args:
        folder: Folder of EPIC's and RULSTM's (or 50 Salads') files, as they are named there.
        form: Dataset.
        split: `train`, `validation`, `test` (EK100); `test_s1`, `test_s2` (EK55); `train1` to `validation3` (EGTEA);
            `train1` to `test5` (50 Salads).
        fps: Rate of 50 Salads' videos, one for all or each video's own.
        times: Precision of 50 Salads' times; `float16` is the original's.

    Raises:
        InputError: A file is missing or malformed, or the split is unknown.
    """
    table = read_classes(folder, form)
    if form == "salads":
        return _read_salads(Path(folder), table, split, fps, times)
    split = _SHORT.get(split, split)
    if form == "egtea" and split in ("train", "validation"):
        split += "1"
    if split not in _FILES[form]:
        raise InputError(f"split {split!r} is unknown", field="split", mend=f"use one of {', '.join(_FILES[form])}")
    names = [stem + end for stem in _FILES[form][split] for end in _EPIC_SUFFIXES]
    source = _require(folder, *names)
    segments = read_annotations(source, form, table)
    listed = _VIDEO_LISTS.get(split)
    if form == "ek55" and listed and source.stem.startswith("EPIC_train"):  # one file holds both splits
        segments = keep_videos(segments, read_videos(_require(folder, listed)))
    lists = {name: find_file(folder, file) for name, file in SUBSET_FILES.items()} if split == "validation" else {}
    subsets = {name: read_ids(path) for name, path in lists.items() if path is not None} if form == "ek100" else {}
    many = find_file(folder, MANY_SHOT_FILES["verb"]) if form == "ek55" else None
    return Dataset(form, table, segments, subsets, read_many_shot(many.parent, table) if many else None, source)


def _read_salads(
    folder: Path, table: ClassTable, split: str, fps: float | Mapping[str, float], times: Times
) -> Dataset:
    kind, fold = split.rstrip("0123456789"), split[len(split.rstrip("0123456789")) :] or "1"
    kind = {"validation": "test", "val": "test", "training": "train"}.get(kind, kind)
    bundle = _require(folder, f"{kind}.split{fold}.bundle")
    first = next(iter(bundle.read_text(encoding="utf-8").splitlines()[1:]), "").strip()
    labels = _require(folder, first) if first else bundle
    return Dataset("salads", table, read_fold(bundle, labels.parent, table.actions, fps, times=times), source=bundle)


def build_samples(
    dataset: Dataset,
    *,
    tau_a: float,
    tau_o: float,
    drop_style: str = "correct",
    seconds_per_item: float,
    cluster: Cluster = "video",
    media: Sequence[str] = (),
    past: PastLabels | None = None,
    windows: WindowSettings | None = None,
) -> SampleSet:
    """Turns annotated actions into samples, in file order.

    Args:
        dataset: One split.
        tau_a, tau_o: Seconds before the action, and seconds observed.
        drop_style: Which rows have too little context.
        seconds_per_item: Estimated model time of a row.
        cluster: What the bootstrap resamples.
        media: Content keys of the features or videos all rows read.
        past, windows: Labels of what was going on at each slot of a feature window; neither leaves them out.

    Returns:
        Samples named by narration id; and a row for every one that was dropped.

    Raises:
        InputError: An id is no slug, or the style is unknown.
    """
    rows = anticipate(dataset.segments, tau_a=tau_a, tau_o=tau_o, drop_style=drop_style)
    samples = []
    for number, row in enumerate(rows.kept):
        payload = payload_of(dataset, row, number, past, windows)
        if not is_slug(row.narration_id):
            raise InputError(
                "the id of a row is no slug", file=dataset.source, item=row.narration_id,
                mend="use letters, digits, '.', '_' and '-' only",
            )  # fmt: skip
        samples.append(
            Sample(
                id=row.narration_id,
                group=row.video_id,
                cluster=row.video_id if cluster == "video" else row.participant_id,
                media=list(media),
                cost=seconds_per_item,
                payload=payload.to_json(),
            )
        )
    why = f"less context than drop_style {drop_style} asks for"
    return SampleSet(samples, [Dropped(row.video_id, row.narration_id, why) for row in rows.discarded])


def payload_of(
    dataset: Dataset, row: Segment, number: int, past: PastLabels | None = None, windows: WindowSettings | None = None
) -> SgearPayload:
    """Returns the payload of a kept row.

    Args:
        dataset: Its split.
        row: With its observed window.
        number: Index among the kept rows.
        past, windows: As in `build_samples`.
    """
    if row.observed is None:
        raise InputError("the row has no observed window", item=row.uid, mend="call anticipate first")
    labels: list[int] = []
    if past is not None and windows is not None:
        window = feature_window(row.video_id, row.observed.start, row.observed.end, windows)
        labels = past.at(row.video_id, window.times).tolist()
    return SgearPayload(
        uid=row.uid,
        narration_id=row.narration_id,
        video_id=row.video_id,
        participant_id=row.participant_id,
        start=row.observed.start,
        end=row.observed.end,
        action_start=row.action_start,
        action_end=row.action_end,
        action=row.action,
        verb=row.verb,
        noun=row.noun,
        row=number,
        past_labels=labels,
        subsets=subsets_of(dataset, row),
    )


def subsets_of(dataset: Dataset, row: Segment) -> list[str]:
    """Returns the evaluation subsets a row is in: the EK100 lists by id, EK55's many-shot lists by class."""
    found = [name for name, ids in dataset.subsets.items() if row.narration_id in ids]
    if dataset.many_shot is not None:
        parts = (("verb", row.verb), ("noun", row.noun), ("action", row.action))
        found += [f"many_shot_{name}" for name, label in parts if label in getattr(dataset.many_shot, f"{name}s")]
    return sorted(found)


def discarded_ids(dataset: Dataset, rows: Anticipations) -> list[str]:
    """Returns the narration ids a submission must hold as zeros."""
    return [row.narration_id for row in rows.discarded]
