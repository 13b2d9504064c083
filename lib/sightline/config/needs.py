"""What the selected runs need from outside: every asset, with what each is needed for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sightline.config.load import asset_files
from sightline.config.plan import Plan


def needed_assets(plan: Plan) -> dict[str, list[str]]:
    """Returns every asset the selected runs need, trainings of their weights included, with what it is for."""
    needs: dict[str, list[str]] = {}
    for run in plan.runs:
        needs.setdefault(plan.dataset(run.dataset).asset, []).append(f"dataset {run.dataset}")
        for role, file in asset_files(plan.flow, run.system, run.variant).items():
            needs.setdefault(file.asset, []).append(f"{role} of {run.system}/{run.variant}")
        for asset, reason in plan.room(run.system).training.needs(run.variant):
            needs.setdefault(asset, []).append(reason)
        for judge in plan.judging.of_run(run):
            for asset in plan.judging.assets_of(judge):
                needs.setdefault(asset, []).append(f"judge {judge}")
    return {asset: list(dict.fromkeys(reasons)) for asset, reasons in needs.items()}


def models_of(plan: Plan) -> Iterator[tuple[str, Any]]:
    """Yields every selected variant and extractor with a name for it."""
    for run in plan.runs:
        card = plan.card(run.system)
        variant = card.variants[run.variant]
        yield f"{run.system}/{run.variant}", variant
        if variant.extractor:
            yield variant.extractor, card.extractors[variant.extractor]
