"""The judges of a configuration as the rules use them."""

from __future__ import annotations

from typing import Any

from sightline.config.judges import JudgeCard
from sightline.config.load import Workflow
from sightline.errors import ConfigError

_NOT_ANSWERS = {"title", "mem_mb", "weights", "as_published"}
METRIC = "llm_acc"


class Judging:
    """Which judges grade which runs, and what their jobs need. `wildcards` has system, dataset, variant, judge."""

    def __init__(self, flow: Workflow) -> None:
        self.flow = flow

    @property
    def names(self) -> str:
        """Pattern of all judges."""
        return "|".join(self.flow.judges) or "(?!)"

    def of_run(self, run: Any) -> list[str]:
        """Returns the judges of one run, in the order of the configuration."""
        return list(
            dict.fromkeys(
                judge
                for selection in self.flow.main.runs
                if selection.system == run.system
                and run.dataset in selection.datasets
                and run.variant in selection.variants
                for judge in selection.judges
            )
        )

    def files(self, runs: list[Any], suffix: str) -> list[str]:
        """Returns one kind of file of every judge of these runs, run by run."""
        return [
            f"results/runs/{run.system}/{run.dataset}/{run.variant}/judge.{judge}.{suffix}"
            for run in runs
            for judge in self.of_run(run)
        ]

    def inputs(self, runs: list[Any]) -> dict[str, list[str]]:
        """Returns what the summary of these runs reads of judges; nothing if there are none."""
        found = {"judge_rows": self.files(runs, "parquet"), "judge_notes": self.files(runs, "json")}
        return found if found["judge_rows"] else {}

    def summary(self, run: Any) -> dict[str, Any]:
        """Returns what the summary must know of the judges of a run; the first gives the room's own metric."""
        judges = [
            {
                "judge": name,
                "title": self.flow.judges[name].title,
                "metric": f"{METRIC}_{name}" if place else METRIC,
                "as_published": self.flow.judges[name].as_published,
            }
            for place, name in enumerate(self.of_run(run))
        ]
        return {"judges": judges} if judges else {}

    def _card(self, wildcards: Any) -> JudgeCard:
        if wildcards.judge not in self.flow.judges:
            raise ConfigError([f"judge {wildcards.judge} is not in config/judges"])
        return self.flow.judges[wildcards.judge]

    def params(self, wildcards: Any) -> dict[str, Any]:
        """Returns the judge's settings and its prompt."""
        card = self._card(wildcards)
        weights = card.weights.model_dump(mode="json") if card.weights else None
        return {
            "settings": card.model_dump(mode="json", exclude=_NOT_ANSWERS),
            "weights": weights,
            "prompt": self.flow.prompts[card.prompt].model_dump(mode="json", exclude={"title"}),
        }

    def scoring(self, wildcards: Any) -> dict[str, Any]:
        """Returns the metric settings of the system whose pairs are judged."""
        return dict(self.flow.systems[wildcards.system].scoring.model_dump(mode="json"))

    def assets_of(self, judge: str) -> list[str]:
        """Returns the assets a judge reads: its weights, and the script with its prompt."""
        card = self.flow.judges[judge]
        source = self.flow.prompts[card.prompt].source
        return [entry.asset for entry in (card.weights, source) if entry is not None]

    def assets(self, wildcards: Any) -> list[str]:
        """Returns the assets of the judge named by the wildcard."""
        self._card(wildcards)
        return self.assets_of(wildcards.judge)

    def gpus(self, wildcards: Any) -> int:
        """Returns how many GPUs the job asks for."""
        return self._card(wildcards).gpus

    def mem_mb(self, wildcards: Any) -> int:
        """Returns the host memory of the job."""
        return self._card(wildcards).mem_mb

    def cpu_threads(self, wildcards: Any) -> int:
        """Returns the CPU threads of the job."""
        return self._card(wildcards).cpu_threads
