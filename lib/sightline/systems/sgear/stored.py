"""Logits between runs: found again through the indexes that shards wrote, and kept by what is no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np

from sightline.errors import StoreError
from sightline.features.index import FeatureIndex, WorkStores
from sightline.records.files import content_key
from sightline.records.types import Prediction, Sample
from sightline.run.shards import sample_key
from sightline.systems.sgear.classes import ClassTable
from sightline.systems.sgear.fuse import RunScores
from sightline.systems.sgear.logits import LOGITS, best, scores_of
from sightline.systems.sgear.records import Anticipation


class StoredLogits:
    """Logits of one or several runs. Use it as a context manager.

    Args:
        indexes: Files written beside each shard.

    Raises:
        StoreError: An index is missing or damaged.
    """

    def __init__(self, indexes: Iterable[str | Path]) -> None:
        self._indexes = [FeatureIndex(path) for path in indexes]
        self._holder = {key: index for index in self._indexes for key in index.keys()}  # noqa: SIM118

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for index in self._indexes:
                stack.callback(index.close)

    def read(self, key: str) -> Mapping[str, np.ndarray]:
        """Returns all arrays of a block.

        Raises:
            StoreError: No index names it.
        """
        if key not in self._holder:
            raise StoreError("no stored logits of this block", item=key, mend="run this run's predictions again")
        return self._holder[key].read(key)

    def scores(self, predictions: Sequence[Prediction], table: ClassTable) -> RunScores:
        """Returns what a run gives to its samples, those left out whose prediction failed; see `scores_of`."""
        return scores_of(predictions, self, table, allow_failed=True)


def store_answers(
    samples: Sequence[Sample], arrays: Mapping[str, np.ndarray], store: WorkStores, run_key: str
) -> list[Prediction]:
    """Keeps the scores of one block and returns its predictions.

    Args:
        samples: The block.
        arrays: `logits` [B, A], and `verb` and `noun` where they do not follow from it (`arrays_of`).
        store: Where scores go.
        run_key: What decides them beside the samples.
    """
    key = content_key("sgear logits", run_key, [sample_key(one) for one in samples])
    digest = store.put(key, arrays).digest
    logits = arrays[LOGITS]
    top = best(logits)
    answers = []
    for row, sample in enumerate(samples):
        output = Anticipation(top[row].tolist(), logits[row][top[row]].tolist())
        files = {LOGITS: {"key": key, "digest": digest, "row": row}}
        answers.append(Prediction(sample.id, "ok", output=output.to_json(), files=files))
    return answers
