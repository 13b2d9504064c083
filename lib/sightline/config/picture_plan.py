"""Which pictures are taken out of a dataset's videos: the lists that the systems declare."""

from __future__ import annotations

from typing import Protocol

from sightline.config.load import Workflow
from sightline.config.models import SystemCard
from sightline.errors import ConfigError


class DatasetWildcard(Protocol):
    """What Snakemake hands over."""

    dataset: str


class Pictures:
    """The part of the plan that the rule `extract_frames` reads."""

    def __init__(self, flow: Workflow) -> None:
        self.flow = flow

    def _readers(self, dataset: str) -> list[SystemCard]:
        """Returns the cards of the selected systems that can read a dataset; of all that can if none is selected."""
        if dataset not in self.flow.datasets:
            raise ConfigError([f"dataset {dataset} is not in config/datasets"])
        layout = self.flow.datasets[dataset].layout
        selected = {run.system for run in self.flow.main.runs}
        able = {name: card for name, card in self.flow.systems.items() if layout in card.LAYOUTS}
        return [card for name, card in able.items() if name in selected] or list(able.values())

    def requests(self, wildcards: DatasetWildcard) -> list[str]:
        """Returns the lists of frames that a dataset's systems need as pictures; their rules write them."""
        names = {name for card in self._readers(wildcards.dataset) for name in card.FRAME_REQUESTS}
        return [f"results/frames/{wildcards.dataset}/requests/{name}.jsonl" for name in sorted(names)]

    def policy(self, wildcards: DatasetWildcard) -> str:
        """Returns a frame policy of a dataset's systems; what a video holds is the same in the index of each.

        Raises:
            ConfigError: No system that reads the dataset has a policy.
        """
        for card in self._readers(wildcards.dataset):
            if card.policies:
                return next(iter(card.policies))
        raise ConfigError([f"no system that reads {wildcards.dataset} has a frame policy"])
