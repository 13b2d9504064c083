"""All runs of small datasets in one job: the stages of each, one after the other, as their own rules would run them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sightline.features.store import Backend
from sightline.run.merge import merge_predictions
from sightline.systems.sgear.score_stage import score_run
from sightline.systems.sgear.stages import fuse_shard, make_samples, predict_shard
from sightline.systems.sgear.views_stage import draw_run

log = logging.getLogger(__name__)


def small_runs(
    *,
    runs: list[dict[str, Any]],
    scoring: dict[str, Any],
    backend: Backend,
    stage_versions: Mapping[str, int],
    results: str,
    work: str,
) -> dict[str, int]:
    """Runs samples, predictions, merge, scores and pictures of each run.

    Args:
        runs: As `SgearPlan.shared_runs`; a run that another one reads stands before it.
        scoring: The card's metrics.
        backend: Form of the stores of logits.
        stage_versions: Of the stages that take part.
        results: Folder of runs, `results/runs/sgear`.
        work: Folder of durable rows, `results/work/sgear`.
    """
    total = {"runs": len(runs), "samples": 0, "blocks": 0, "computed": 0}
    for run in runs:
        log.info("%s on %s", run["variant"], run["dataset_name"])
        counts = _answer(run, backend, stage_versions["predict"], results, work)
        total = {name: value + counts.get(name, 0) for name, value in total.items()}
    for run in runs:
        folder = _folder(results, run["dataset_name"], run["variant"])
        against = run["reference"] and _folder(results, run["dataset_name"], run["reference"])
        files = {"samples": f"{folder}/samples.parquet", "predictions": f"{folder}/predictions.parquet"}
        score_run(
            data=run["data"],
            dataset=run["dataset"],
            **files,
            logits=_indexes(folder, run["shards"]),
            reference_predictions=[f"{against}/predictions.parquet"] if against else [],
            reference_logits=_indexes(against, run["reference_shards"]) if against else [],
            scoring=scoring,
            scores_target=f"{folder}/scores.parquet",
            absent_target=f"{folder}/absent.json",
        )
        draw_run(
            data=run["data"],
            dataset=run["dataset"],
            video_assets=run["video_assets"],
            videos=run["videos"],
            scoring=scoring,
            bootstrap=run["bootstrap"],
            names=run["names"],
            windows=run["settings"]["windows"],
            **files,
            scores=f"{folder}/scores.parquet",
            target=f"{folder}/views.parquet",
        )
    return total


def _folder(results: str, dataset: str, variant: str) -> str:
    return f"{results}/{dataset}/{variant}"


def _indexes(folder: str, shards: list[str]) -> list[str]:
    return [f"{folder}/logits/{shard}.json" for shard in shards]


def _answer(run: dict[str, Any], backend: Backend, stage_version: int, results: str, work: str) -> dict[str, int]:
    """Samples, shards and merged predictions of one run."""
    dataset, folder = run["dataset_name"], _folder(results, run["dataset_name"], run["variant"])
    samples, plan = f"{folder}/samples.parquet", f"{folder}/plan.json"
    make_samples(
        data=run["data"], dataset=run["dataset"], settings=run["sample_settings"], sampling=run["sampling"],
        samples_target=samples, plan_target=plan,
    )  # fmt: skip
    counts: dict[str, int] = {}
    for shard in run["shards"]:
        common: dict[str, Any] = {
            "data": run["data"], "samples": samples, "plan": plan, "dataset": run["dataset"],
            "settings": run["settings"], "backend": backend, "stage_version": stage_version, "shard": shard,
            "work": f"{work}/{dataset}/{run['variant']}", "rows_target": f"{folder}/shards/{shard}.jsonl",
            "logits_target": f"{folder}/logits/{shard}.json",
        }  # fmt: skip
        if run["members"]:
            members = [_folder(results, dataset, name) for name in run["members"]]
            found = fuse_shard(
                member_samples=[f"{member}/samples.parquet" for member in members],
                member_predictions=[f"{member}/predictions.parquet" for member in members],
                member_logits=run["member_logits"],
                **common,
            )
        else:
            inputs = run["inputs"]
            found = predict_shard(
                weights=inputs.get("weights", []), trained=inputs.get("trained", []),
                counted=inputs.get("counted", []), counted_dataset=run["counted_dataset"], gpus=run["gpus"], **common,
            )  # fmt: skip
        counts = {name: counts.get(name, 0) + value for name, value in found.items()}
    rows = [f"{folder}/shards/{shard}.jsonl" for shard in run["shards"]]
    merge_predictions(samples, rows, f"{folder}/predictions.parquet")
    return counts
