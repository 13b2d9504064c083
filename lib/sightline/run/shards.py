"""Cutting samples into blocks and shards, and running one shard so that nothing finished is ever lost.

A *block* is computed whole, as one batch, and is cut from the sample list alone; a *shard* is a set of
whole blocks. So results are a function of the samples, not of shards, order, kills or retries.
"""

from __future__ import annotations

import heapq
import logging
import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from sightline.errors import ConfigError, InputError, ResumableStop, StoreError
from sightline.records.files import content_key
from sightline.records.lease import lease
from sightline.records.rows import Journal
from sightline.records.types import Prediction, Sample
from sightline.run.devices import is_out_of_memory
from sightline.run.progress import progress_bar

log = logging.getLogger(__name__)
_SHARD = re.compile(r"([0-9]+)-of-([0-9]+)\Z")
DEFAULT_BLOCK = 8
COST_TOLERANCE = 3.0
OUT_OF_MEMORY = "out_of_memory"
SAMPLE_KEY_DIGITS = 16


def shard_names(count: int) -> list[str]:
    """Returns `1-of-n` ... `n-of-n`."""
    return [f"{number}-of-{count}" for number in range(1, count + 1)]


def shard_number(name: str) -> tuple[int, int]:
    """Returns (number from 1, count) of a shard's name.

    Raises:
        InputError: The name is not of the form `3-of-8`.
    """
    match = _SHARD.match(name)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError("not the name of a shard", item=name, mend="use a name like 3-of-8")
    return int(match[1]), int(match[2])


def deal_out(costs: Sequence[float], shards: int) -> list[list[int]]:
    """Deals positions to shards, dearest first to the least loaded; deterministic, order kept in a shard."""
    loads = [(0.0, number) for number in range(shards)]  # a heap: the least loaded shard first
    hands: list[list[int]] = [[] for _ in range(shards)]
    for position in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        load, target = loads[0]
        heapq.heapreplace(loads, (load + costs[position], target))
        hands[target].append(position)
    return [sorted(hand) for hand in hands]


def draw_samples(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """Returns all samples, or `limit` of them drawn without replacement with a seed, sorted by id."""
    ordered = sorted(samples, key=lambda sample: sample.id)
    if limit is None or limit >= len(ordered):
        return ordered
    return sorted(random.Random(seed).sample(ordered, limit), key=lambda sample: sample.id)


def cut_blocks(samples: Sequence[Sample], block_size: int = DEFAULT_BLOCK) -> list[list[list[str]]]:
    """Cuts samples, sorted by id, into bundles of blocks of at most `block_size` ids.

    A bundle is what a shard takes or leaves: groups are never split over bundles. Small groups share one
    block; a group larger than a block makes a bundle of several.
    """
    groups: dict[str, list[str]] = {}
    for sample in sorted(samples, key=lambda item: item.id):
        groups.setdefault(sample.group, []).append(sample.id)
    bundles: list[list[list[str]]] = []
    for ids in groups.values():
        if len(ids) > block_size:
            bundles.append([ids[start : start + block_size] for start in range(0, len(ids), block_size)])
        elif bundles and len(bundles[-1]) == 1 and len(bundles[-1][0]) + len(ids) <= block_size:
            bundles[-1][0].extend(ids)
        else:
            bundles.append([ids])
    return bundles


def make_plan(
    samples: Sequence[Sample], shards: int, *, block_size: int = DEFAULT_BLOCK, declared_seconds: float | None
) -> dict[str, Any]:
    """Assigns blocks to shards by cost.

    Args:
        samples: All samples of the run.
        shards: Number of shards the workflow declared; some may stay empty.
        block_size: Most samples in one block.
        declared_seconds: What the card promised for all samples, if it promised anything.

    Raises:
        InputError: Two samples share an id.
        ConfigError: The samples cost more than three times what the card declares.
    """
    times = Counter(sample.id for sample in samples)
    doubled = sorted(name for name, count in times.items() if count > 1)
    if doubled:
        raise InputError("two samples share an id", item=doubled[0], field="id", mend="make the ids unique")
    costs = {sample.id: sample.cost for sample in samples}
    total = sum(costs.values())
    if declared_seconds is not None and total > COST_TOLERANCE * declared_seconds:
        raise ConfigError(
            [
                f"the samples cost about {total:.0f} s but the card declares {declared_seconds:.0f} s; "
                "raise `items` of the dataset or `seconds_per_item` of the variant, so that shards are small enough"
            ]
        )
    bundles = cut_blocks(samples, block_size)
    hands = deal_out([sum(costs[name] for block in bundle for name in block) for bundle in bundles], shards)
    assignment = {
        name: [block for position in hand for block in bundles[position]]
        for name, hand in zip(shard_names(shards), hands, strict=True)
    }
    return {"version": 1, "block_size": block_size, "samples": len(samples), "shards": assignment}


def ids_of_shard(plan: dict[str, Any], shard: str) -> set[str]:
    """Returns the ids that a plan gives to a shard; none if the plan does not know it, which `run_shard` says."""
    return {name for block in plan["shards"].get(shard, ()) for name in block}


class StopRequest:
    """Remembers SIGTERM and SIGUSR1, so that a shard can stop between blocks."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}

    def _remember(self, number: int, _frame: object) -> None:
        self.received = signal.Signals(number).name
        log.warning("%s received: stopping after the block at hand", self.received)

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def raise_if_set(self, done: int, total: int) -> None:
        """Raises ResumableStop when a signal came in."""
        if self.received:
            raise ResumableStop(
                f"stopped by {self.received} with {done} of {total} blocks durable",
                mend="run the same command again; it goes on from there",
            )


class Predictor(Protocol):
    """What a room hands to the runner: a batch of samples in, predictions out."""

    batch_limit: int

    def predict(self, samples: list[Sample]) -> list[Prediction]:
        """Returns one prediction per sample, in any order."""


def sample_key(sample: Sample) -> str:
    """Returns the content key of a sample; cost is an estimate and does not count."""
    return content_key(sample.id, sample.group, sample.cluster, sample.media, sample.payload)[:SAMPLE_KEY_DIGITS]


def prediction_key(run_key: str, sample: Sample) -> str:
    """Returns `<run key>-<sample key>`: what was asked of which model under which settings."""
    return f"{run_key[:16]}-{sample_key(sample)}"


def _alone(predictor: Predictor, sample: Sample) -> Prediction:
    try:
        return predictor.predict([sample])[0]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        log.error("%s: out of memory with this sample alone; it is marked failed", sample.id)
        return Prediction(sample.id, "failed", OUT_OF_MEMORY)


def compute_block(predictor: Predictor, block: list[Sample], run_key: str) -> list[Prediction]:
    """Computes one block; on out-of-memory the batch is halved and the same samples are tried again.

    Raises:
        StoreError: The predictor returned another set of ids than it was given.
    """
    while True:
        try:
            found = {prediction.id: prediction for prediction in predictor.predict(list(block))}
            break
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if predictor.batch_limit <= 1:
                found = {item.id: _alone(predictor, item) for item in block}
                break
            predictor.batch_limit = max(1, min(predictor.batch_limit, len(block)) // 2)
            log.warning("out of memory; trying the same samples in batches of %d", predictor.batch_limit)
    if set(found) != {sample.id for sample in block}:
        raise StoreError("the model answered for other samples than it was given", item=block[0].id)
    return [
        Prediction(
            **{**found[sample.id].to_json(), "key": prediction_key(run_key, sample)},
        )
        for sample in block
    ]


def run_shard(
    *,
    plan: dict[str, Any],
    shard: str,
    samples: Sequence[Sample],
    run_key: str,
    work: str | Path,
    load_predictor: Callable[[], Predictor],
    description: str = "predict",
) -> tuple[list[Prediction], dict[str, int]]:
    """Runs the blocks of one shard that are not durable yet and returns all its predictions, sorted by id.

    The model is loaded only if a block is missing. Counts: blocks, computed, samples, computed_samples, failed.

    Raises:
        InputError: The plan names a shard or a sample that does not exist.
        ResumableStop: SIGTERM or SIGUSR1 came; finished blocks are durable.
    """
    by_id = {sample.id: sample for sample in samples}
    if shard not in plan["shards"]:
        raise InputError("the plan does not know this shard", item=shard, mend="run the samples stage again")
    unknown = [name for block in plan["shards"][shard] for name in block if name not in by_id]
    if unknown:
        raise InputError(
            "the plan names a sample that does not exist", item=unknown[0], mend="run the samples stage again"
        )
    blocks = [[by_id[name] for name in block] for block in plan["shards"][shard]]
    keys = [content_key(run_key, [prediction_key(run_key, sample) for sample in block]) for block in blocks]
    folder = Path(work) / run_key[:16]
    computed: list[int] = []
    unsettled: dict[str, list[Prediction]] = {}
    with lease(folder / f"{shard}.lock"), Journal(folder, shard, set(keys)) as journal, StopRequest() as stop:
        missing = [position for position, key in enumerate(keys) if key not in journal]
        predictor = load_predictor() if missing else None
        for position in progress_bar(missing, description=f"{description} {shard}", unit="block"):
            stop.raise_if_set(len(blocks) - len(missing) + len(computed), len(blocks))
            assert predictor is not None
            found = compute_block(predictor, blocks[position], run_key)
            if any(prediction.reason == OUT_OF_MEMORY for prediction in found):
                unsettled[keys[position]] = found  # another attempt may be given more memory
            else:
                journal.append(keys[position], found)
            computed.append(position)
        predictions = [
            prediction
            for key in keys
            for prediction in unsettled.get(key) or [Prediction(**row) for row in journal.rows(key)]
        ]
    counts = {
        "blocks": len(blocks),
        "computed": len(computed),
        "samples": len(predictions),
        "computed_samples": sum(len(blocks[position]) for position in computed),
        "failed": sum(prediction.status == "failed" for prediction in predictions),
    }
    return sorted(predictions, key=lambda prediction: prediction.id), counts
