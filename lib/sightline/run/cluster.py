"""Does the cluster have what the profile asks it for? Asked with `sinfo`, before anything is submitted."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from sightline.config.needs import models_of
from sightline.config.plan import Plan
from sightline.errors import ClusterError

EXECUTOR = "slurm"
CHECK = "check"  # the rule
_ANSWER_S = 20
_FORMAT = "%R|%a|%G"
_GPUS = re.compile(r"\bgpu:(?:[^:,()]+:)?(\d+)")
#: What SLURM's clients say, and what to do about it; the first that fits.
_MENDS = (
    ("munge", "start munge (`munged`) with the key that all machines of the cluster share, /etc/munge/munge.key"),
    ("authentication", "this machine's munge key is not the cluster's: compare /etc/munge/munge.key"),
    ("contact slurm controller", "the controller is down or out of reach: ask the site, or try again later"),
    ("configuration source", "this machine has no slurm.conf: log in to one that can submit"),
    ("", "log in to a machine that can submit, and try `sinfo` there"),
)


@dataclass(frozen=True)
class Partition:
    """A partition of the cluster: whether it takes jobs, and the most GPUs a node of it has."""

    up: bool
    gpus: int


def read_sinfo(text: str) -> dict[str, Partition]:
    """Returns the partitions of `sinfo --noheader --format '%R|%a|%G'`, which has a line per kind of node."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, _, rest = line.strip().partition("|")
        state, _, devices = rest.partition("|")
        if name:
            gpus = sum(int(count) for count in _GPUS.findall(devices))
            before = found.get(name)
            found[name] = Partition(state == "up", max(gpus, before.gpus if before else 0))
    return found


def ask_cluster() -> dict[str, Partition]:
    """Returns the partitions of the cluster that this machine submits to.

    Raises:
        ClusterError: There is no `sinfo` here, or nobody answers it; the mend says which.
    """
    program = shutil.which("sinfo")
    if program is None:
        raise ClusterError(
            "SLURM is not on this machine: there is no `sinfo`",
            mend="log in to a machine that can submit, load the site's SLURM module, or use another profile",
        )
    try:
        done = subprocess.run(
            [program, "--noheader", "--format", _FORMAT], capture_output=True, text=True, timeout=_ANSWER_S
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"SLURM does not answer: `sinfo` took more than {_ANSWER_S} s", mend=_MENDS[2][1]) from None
    if done.returncode or not done.stdout.strip():
        said = " ".join(done.stderr.split()) or "no partition"
        mend = next(mend for words, mend in _MENDS if words in said.lower())
        raise ClusterError(f"SLURM does not answer: {said[:300]}", mend=mend)
    return read_sinfo(done.stdout)


def read_partitions(path: str | Path) -> dict[str, dict[str, Any]]:
    """Returns the partitions that a profile lists, with their limits.

    Raises:
        ClusterError: The file is no such list.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return {str(name): dict(limits or {}) for name, limits in content["partitions"].items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ClusterError(
            f"not a list of partitions ({type(error).__name__}: {error})",
            file=path,
            mend="give it the form of the delivered profiles/slurm/partitions.yaml",
        ) from None


@dataclass(frozen=True)
class ClusterRequest:
    """What a profile asks of the cluster.

    Attributes:
        partitions_file: List of partitions the profile names, if it names one.
        partitions: Partitions that the profile sets by name, with the key that does.
        gpus: Whether jobs may have GPUs at all; not under `--resources gpu=0`.
    """

    partitions_file: str | None
    partitions: Mapping[str, str]
    gpus: bool = True

    @classmethod
    def of(cls, workflow: Any) -> ClusterRequest | None:
        """Reads the request off a Snakemake workflow; None when jobs do not go to SLURM."""
        if workflow.executor_plugin is None or workflow.executor_plugin.name != EXECUTOR:
            return None
        settings, named = workflow.resource_settings, {}
        places = {"default-resources": settings.default_resources or {}}
        places.update({f"set-resources: {rule}": mine for rule, mine in (settings.overwrite_resources or {}).items()})
        for key, resources in places.items():
            value = resources.get("slurm_partition")
            name = getattr(value, "raw", value)
            if name is not None:
                named[str(name).strip("'\"")] = key
        file = workflow.executor_settings.partition_config
        limit = (settings.resources or {}).get("gpu")
        return cls(str(file) if file else None, named, getattr(limit, "value", limit) != 0)


def gpu_users(plan: Plan, request: ClusterRequest) -> list[str]:
    """Returns the names of the selected models that ask for a GPU."""
    return [name for name, model in models_of(plan) if model.gpu_memory_gb] if request.gpus else []


def request_params(workflow: Any) -> Callable[[Any], dict[str, Any] | None]:
    """Returns a rule's parameter function: the request as plain values, or None; known only once a run starts."""

    def params(wildcards: Any) -> dict[str, Any] | None:
        request = ClusterRequest.of(workflow)
        return asdict(request) if request else None

    return params


def cluster_problems(request: ClusterRequest, cluster: Mapping[str, Partition], wants_gpu: list[str]) -> list[str]:
    """Compares a profile with the cluster; one line per thing that would fail after submission.

    Args:
        request: What the profile asks for.
        cluster: What there is.
        wants_gpu: Names of what asks for a GPU, for the message.
    """
    there = ", ".join(sorted(cluster))
    file = request.partitions_file
    listed = read_partitions(file) if file else {}
    asked = {**dict.fromkeys(listed, file or ""), **request.partitions}
    problems = [
        f"partition {name} ({where}) does not exist on this cluster. It has: {there}"
        for name, where in asked.items()
        if name not in cluster
    ]
    problems += [
        f"partition {name} ({where}) is down. Take it out of the profile, or ask the site"
        for name, where in asked.items()
        if name in cluster and not cluster[name].up
    ]
    for name, limits in listed.items():
        gpus = int(limits.get("max_gpu") or 0)
        if name in cluster and gpus > cluster[name].gpus:
            has = cluster[name].gpus or "no"
            problems.append(f"partition {name} ({file}) is to give {gpus} GPUs a job, but its nodes have {has}")
    if wants_gpu and not any(name in cluster and cluster[name].gpus for name in asked or cluster):
        problems.append(
            f"a GPU is wanted by {', '.join(wants_gpu)}, but no partition of the profile has any. Name one with GPUs, "
            "or add --resources gpu=0 to run on the CPU"
        )
    return problems


def refuse_what_cannot_run(workflow: Any, plan: Plan) -> None:
    """Stops a run on SLURM before its first job, when the cluster lacks what the profile asks for.

    The rule `check` is let through: it finds the same and says it together with all else that is missing.

    Raises:
        ClusterError: Says everything that is wrong.
    """
    request = ClusterRequest.of(workflow)
    if request is None or set(workflow.dag_settings.targets or ()) == {CHECK}:
        return
    problems = cluster_problems(request, ask_cluster(), gpu_users(plan, request))
    if problems:
        raise ClusterError("; ".join(problems), mend="edit the profile (docs/cluster.md)")
