"""What this configuration needs, what is there, what is missing and how to get it; nothing is fetched or run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

from sightline.assets.wordnet import INSTALL, default_target, is_complete
from sightline.config.models import AssetFile, SystemCard
from sightline.config.needs import models_of, needed_assets
from sightline.config.plan import Plan
from sightline.errors import ClusterError, InputError
from sightline.run.asset_check import AssetState, asset_state
from sightline.run.cluster import ClusterRequest, Partition, ask_cluster, cluster_problems, gpu_users
from sightline.run.stack_check import stack_problems

_GB = 1e9
SCRATCH_GB = 1.0
_WIDTH = 100
_LABELS = {
    "present": "present",
    "unpack": "to unpack",
    "download": "to fetch",
    "generate": "made here",
    "supply": "MISSING",
}


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine."""

    name: str
    memory_gb: float


@dataclass(frozen=True)
class StageEstimate:
    """How long a stage takes, from the cards."""

    stage: str
    what: str
    jobs: int
    hours: float
    device: str


@dataclass(frozen=True)
class CheckReport:
    """Needs and findings.

    Attributes:
        runs: `system on dataset as variant`.
        assets: State of every asset.
        free_gb: Free disk in the working folder.
        gpu_needed_gb: Memory that the most demanding model needs; 0 when none asks for a GPU.
        gpus: GPUs of this machine; empty when there are none or they cannot be asked.
        metric_data: (what, whether it is there, what to do or where it is).
        estimates: Time per stage.
        partitions: Partitions of the cluster; None when jobs run here.
        missing: What stops the run, each with its mend.
        remarks: What does not stop it but should be known.
    """

    runs: tuple[str, ...]
    assets: tuple[AssetState, ...]
    free_gb: float
    gpu_needed_gb: float
    gpus: tuple[Gpu, ...]
    metric_data: tuple[tuple[str, bool, str], ...]
    estimates: tuple[StageEstimate, ...]
    partitions: dict[str, Partition] | None
    missing: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True when nothing is missing."""
        return not self.missing

    @property
    def download_gb(self) -> float:
        """Still to be fetched."""
        return sum(asset.download_gb for asset in self.assets)

    @property
    def disk_gb(self) -> float:
        """Disk still needed by assets."""
        return sum(asset.disk_gb for asset in self.assets)


def find_gpus() -> tuple[Gpu, ...]:
    """Returns this machine's GPUs as `nvidia-smi` lists them; none when it is absent or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    gpus = []
    for line in answer.splitlines():
        name, _, memory = line.rpartition(",")
        if memory.strip().isdigit():
            gpus.append(Gpu(name.strip(), int(memory) * (1 << 20) / _GB))
    return tuple(gpus)


def _asset_files(value: Any) -> Iterator[AssetFile]:
    """Yields every asset file named anywhere in a model's fields."""
    if isinstance(value, AssetFile):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _asset_files(getattr(value, name))
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _asset_files(entry)


def _assets(plan: Plan, workdir: Path) -> list[AssetState]:
    main = plan.flow.main
    needs = needed_assets(plan)
    optional = {
        file.asset: [f"metrics of {system}"]
        for system in plan.systems
        for file in _asset_files(plan.card(system).scoring)
        if file.asset not in needs
    }
    return [
        asset_state(
            asset,
            plan.flow.assets[asset],
            reasons,
            local=main.local_assets.get(asset),
            workdir=workdir,
            offline=main.offline,
            optional=asset in optional,
        )
        for asset, reasons in (needs | optional).items()
    ]


def _estimates(plan: Plan) -> list[StageEstimate]:
    found: dict[tuple[str, str], StageEstimate] = {}
    limit = plan.flow.main.limits.samples
    for run in plan.runs:
        variant = plan.card(run.system).variants[run.variant]
        dataset = plan.dataset(run.dataset)
        wildcards: Any = SimpleNamespace(
            system=run.system, dataset=run.dataset, variant=run.variant, extractor=variant.extractor
        )
        if variant.extractor:
            extractor = plan.card(run.system).extractors[variant.extractor]
            found[("features", f"{run.dataset}, {variant.extractor}")] = StageEstimate(
                "features",
                f"{run.dataset}, {variant.extractor}",
                len(plan.feature_shards(wildcards)),
                dataset.video_seconds * extractor.seconds_per_video_second / 3600,
                "GPU" if extractor.gpu_memory_gb else "CPU",
            )
        items = min(dataset.items, limit) if limit else dataset.items
        found[("predict", f"{run.dataset}, {run.variant}")] = StageEstimate(
            "predict",
            f"{run.dataset}, {run.variant}",
            len(plan.predict_shards(wildcards)),
            items * variant.seconds_per_item / 3600,
            "GPU" if variant.gpu_memory_gb else "CPU",
        )
    return sorted(found.values(), key=lambda estimate: estimate.stage)


def _wordnet_folders() -> list[Path]:
    """Returns where NLTK would look for WordNet in this environment."""
    roots = [Path(sys.prefix) / "nltk_data", Path(sys.prefix) / "lib" / "nltk_data", Path.home() / "nltk_data"]
    roots += [Path("/usr/share/nltk_data"), Path("/usr/local/share/nltk_data"), Path("/usr/lib/nltk_data")]
    return [default_target(), *(root / "corpora" / "wordnet" for root in roots)]


def _reads_wordnet(card: SystemCard) -> bool:
    """METEOR is the metric that needs WordNet, and the only one with a choice of tokenizer."""
    return isinstance(card.scoring, BaseModel) and "tokenizer" in type(card.scoring).model_fields


def _metric_data(plan: Plan, assets: list[AssetState]) -> list[tuple[str, bool, str]]:
    rows = []
    if any(_reads_wordnet(plan.card(system)) for system in plan.systems):
        found = next((folder for folder in _wordnet_folders() if is_complete(folder)), None)
        rows.append(("WordNet 3.0 (METEOR)", found is not None, str(found) if found else INSTALL))
    for asset in assets:
        if asset.optional:
            there = asset.state != "supply"
            rows.append((asset.title, there, asset.detail if there else asset.mend))
    return rows


def _gpu_remarks(plan: Plan, gpus: tuple[Gpu, ...]) -> list[str]:
    largest = max((gpu.memory_gb for gpu in gpus), default=0.0)
    wanting = {name: model.gpu_memory_gb for name, model in models_of(plan) if model.gpu_memory_gb > largest}
    if not wanting:
        return []
    listed = ", ".join(f"{name} ({gigabytes:g} GB)" for name, gigabytes in wanting.items())
    here = f"the largest GPU here has {largest:.0f} GB" if gpus else "no GPU was found here"
    return [
        f"a GPU is wanted by {listed}; {here}. Run where jobs get one, or add --resources gpu=0 to run on the "
        "CPU, which is slow"
    ]


def _cluster(plan: Plan, request: ClusterRequest | None) -> tuple[dict[str, Partition] | None, list[str]]:
    """Returns what the cluster has and what it lacks of what the profile asks for."""
    if request is None:
        return None, []
    try:
        cluster = ask_cluster()
        return cluster, cluster_problems(request, cluster, gpu_users(plan, request))
    except ClusterError as error:
        return {}, [str(error)]


def _disk(needed_gb: float, free_gb: float, folder: Path) -> list[str]:
    """Returns a problem when assets do not fit, or when there is no room to work at all."""
    wanted = max(needed_gb, SCRATCH_GB)
    if wanted <= free_gb:
        return []
    return [f"disk: {wanted:.1f} GB needed, {free_gb:.1f} GB free in {folder}. Free some, or move it"]


def describe(
    plan: Plan, workdir: str | Path, request: ClusterRequest | None = None, stacks: str | Path | None = None
) -> CheckReport:
    """Compares what the selected runs need with what this machine, and the cluster, have.

    Args:
        plan: The checked configuration.
        workdir: Working folder of the workflow, which holds `results/`.
        request: What the profile asks of the cluster; None when jobs run here.
        stacks: Folder of the environment files; None leaves them out.
    """
    folder = Path(workdir)
    assets = _assets(plan, folder)
    gpus = find_gpus()
    free_gb = shutil.disk_usage(folder).free / _GB
    needed_gb = sum(asset.disk_gb for asset in assets)
    missing = [
        f"{asset.asset} ({asset.title}): {asset.detail}. {asset.mend}"
        for asset in assets
        if asset.state == "supply" and not asset.optional
    ]
    missing += _disk(needed_gb, free_gb, folder)
    partitions, lacking = _cluster(plan, request)
    unpinned, unsure = stack_problems(stacks, network=not plan.flow.main.offline) if stacks else ([], [])
    missing += lacking + unpinned
    metric_data = _metric_data(plan, assets)
    remarks = [f"without {what}, a metric is absent: {how}" for what, there, how in metric_data if not there]
    remarks += unsure
    if request is None:
        remarks += _gpu_remarks(plan, gpus)
    if plan.flow.main.limits.samples:
        remarks.append(f"partial: at most {plan.flow.main.limits.samples} samples per dataset (limits.samples)")
    return CheckReport(
        runs=tuple(f"{run.system} on {run.dataset} as {run.variant}" for run in plan.runs),
        assets=tuple(assets),
        free_gb=free_gb,
        gpu_needed_gb=max((model.gpu_memory_gb for _, model in models_of(plan)), default=0.0),
        gpus=gpus,
        metric_data=tuple(metric_data),
        estimates=tuple(_estimates(plan)),
        partitions=partitions,
        missing=tuple(missing),
        remarks=tuple(remarks),
    )


def _wrapped(text: str, indent: int, hanging: int | None = None) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent if hanging is None else hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _asset_lines(asset: AssetState) -> list[str]:
    label = "absent" if asset.optional and asset.state == "supply" else _LABELS[asset.state]
    lines = _wrapped(f"[{label}]  {asset.asset}: {asset.title}", 2, 6)
    sizes = [
        f"{label} {value:g} GB"
        for label, value in (("download", asset.download_gb), ("disk", round(asset.disk_gb, 2)))
        if value
    ]
    state = "; ".join([asset.detail, *sizes])
    lines += _wrapped(state, 6)
    lines += _wrapped(f"for: {', '.join(asset.needed_for)}{' (optional)' if asset.optional else ''}", 6, 11)
    lines += _wrapped(f"licence: {asset.licence}", 6, 15)
    if asset.terms and asset.state != "present":
        lines += _wrapped(f"terms: {asset.terms}", 6, 13)
    return lines


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(hours * 60))} min"


def _machine_lines(report: CheckReport) -> list[str]:
    gpus = ", ".join(f"{gpu.name} ({gpu.memory_gb:.0f} GB)" for gpu in report.gpus) or "none found"
    needed = f"{report.gpu_needed_gb:g} GB of memory wanted" if report.gpu_needed_gb else "none wanted"
    return [
        "Machine",
        f"  download  {report.download_gb:.1f} GB",
        f"  disk      {report.disk_gb:.1f} GB for assets (features not counted); {report.free_gb:.1f} GB free",
        f"  GPU       {needed}; here: {gpus}",
        "  tokens and environment variables: none needed",
    ]


def _cluster_lines(report: CheckReport) -> list[str]:
    if not report.partitions:
        return []
    lines = ["", "Cluster"]
    for name, partition in sorted(report.partitions.items()):
        gpus = f"{partition.gpus} GPUs per node" if partition.gpus else "no GPUs"
        lines.append(f"  partition {name}: {'up' if partition.up else 'DOWN'}, {gpus}")
    return lines


def render(report: CheckReport) -> str:
    """Returns the report as plain text that ends with `ready to run` or with what is missing."""
    lines = ["What will run", *(f"  {run}" for run in report.runs), "", "Files"]
    for asset in report.assets:
        lines += _asset_lines(asset)
    lines += ["", *_machine_lines(report), *_cluster_lines(report)]
    if report.metric_data:
        lines += ["", "Data that metrics read"]
        for what, there, how in report.metric_data:
            lines += _wrapped(f"[{'present' if there else 'absent'}]  {what}: {how}", 2, 6)
    lines += ["", "Time, about, on one device"]
    for one in report.estimates:
        jobs = f"{one.jobs} job{'s' if one.jobs != 1 else ''}"
        lines.append(f"  {one.stage:9} {_hours(one.hours):>8}  {jobs:>8}  {one.device}  {one.what}")
    if report.remarks:
        lines += ["", "Good to know"]
        for remark in report.remarks:
            lines += _wrapped(f"- {remark}", 2, 4)
    lines.append("")
    if report.ok:
        lines.append("ready to run")
    else:
        lines.append("not ready, missing:")
        for entry in report.missing:
            lines += _wrapped(f"- {entry}", 2, 4)
    return "\n".join(lines)


def check(plan: Plan, workdir: str | Path, request: dict[str, Any] | None, stacks: str | Path | None = None) -> None:
    """Prints the report.

    Raises:
        InputError: Something is missing.
    """
    report = describe(plan, workdir, ClusterRequest(**request) if request else None, stacks)
    print(render(report))
    if not report.ok:
        count = len(report.missing)
        what = "1 thing is" if count == 1 else f"{count} things are"
        raise InputError(f"not ready, {what} missing", mend="the list above says how to get each")
