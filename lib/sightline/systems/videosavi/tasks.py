"""The benchmarks' tasks: where their rows and videos lie, how long answers may be. Light: read by cards and plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sightline.errors import ConfigError

# Rules of prompts, answers and aggregation; part of every score's description.
PROTOCOL = "lmms-eval 0.7.2 (75571cf)"
Layout = Literal["segments", "uncut2024"]
LONG_ANSWER = 1024  # what the evaluation script gets where a task sets no limit

_MVBENCH_FOLDERS: dict[str, str] = {
    "action_sequence": "star/Charades_segment",
    "moving_count": "clevrer/video_validation",
    "action_prediction": "star/Charades_segment",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "action_antonym": "ssv2_video_mp4",
    "action_count": "perception/videos",
    "scene_transition": "scene_qa/video",
    "object_shuffle": "perception/videos",
    "object_existence": "clevrer/video_validation",
    "fine_grained_pose": "nturgbd_convert",
    "unexpected_action": "FunQA_test/test",
    "moving_direction": "clevrer/video_validation",
    "state_change": "perception/videos",
    "object_interaction": "star/Charades_segment",
    "character_order": "perception/videos",
    "action_localization": "sta/sta_video_segment",
    "counterfactual_inference": "clevrer/video_validation",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "moving_attribute": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
}
# Until 2025-04-30: whole videos where clips were cut since; another protocol, with other scores.
_MVBENCH_UNCUT = {
    "star/Charades_segment": "star/Charades_v1_480",
    "sta/sta_video_segment": "sta_video",
    "nturgbd_convert": "nturgbd",
    "tvqa/video_fps3_hq_segment": "tvqa/frames_fps3_hq",
    "ssv2_video_mp4": "ssv2_video",
}


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a benchmark.

    Attributes:
        name: As lmms-eval calls it.
        benchmark: Benchmark it belongs to.
        repository: Data set on the Hugging Face hub; `lmms-lab/...` before 2026-07-30.
        config: Its configuration, if it has several.
        split: Its split.
        questions: Number published.
        max_new_tokens: Longest answer in tokens, always greedy.
        folder: Videos, relative to the benchmarks' root.
        needs_judge: No answer can be judged by rules.
    """

    name: str
    benchmark: str
    repository: str
    config: str | None
    split: str
    questions: int
    max_new_tokens: int
    folder: str
    needs_judge: bool = False

    def folder_in(self, layout: Layout) -> str:
        """Returns the videos' folder in a layout; only MVBench has two."""
        prefix, _, rest = self.folder.partition("/")
        return f"{prefix}/{_MVBENCH_UNCUT.get(rest, rest)}" if layout == "uncut2024" and rest else self.folder


def _mvbench(name: str, folder: str) -> Task:
    place = f"mvbench_video/{folder}"
    return Task(f"mvbench_{name}", "mvbench", "OpenGVLab/MVBench", name, "train", 200, 16, place)


def _tempcompass(name: str, config: str, questions: int) -> Task:
    return Task(
        f"tempcompass_{name}", "tempcompass", "lmms-eval/TempCompass", config, "test", questions, LONG_ANSWER,
        "tempcompass/videos", needs_judge=name == "captioning",
    )  # fmt: skip


_EGOSCHEMA = ("egoschema", "lmms-eval/egoschema")
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(_mvbench(name, folder) for name, folder in _MVBENCH_FOLDERS.items()),
        Task(
            "perceptiontest_val_mc", "perceptiontest", "lmms-eval/PerceptionTest_Val", "mc_question_val", "validation",
            19140, LONG_ANSWER, "perceptiontest_val/videos",
        ),
        Task("egoschema_subset", *_EGOSCHEMA, "Subset", "test", 500, 16, "egoschema/videos"),
        # The full set has no published answers: its predictions are written for the organisers' server.
        Task("egoschema", *_EGOSCHEMA, "MC", "test", 5031, 16, "egoschema/videos"),
        Task("nextqa_mc_test", "nextqa", "lmms-eval/NExTQA", "MC", "test", 8564, LONG_ANSWER, "nextqa/NExTVideo"),
        Task(
            "longvideobench_val_v", "longvideobench", "longvideobench/LongVideoBench", None, "validation",
            1337, 32, "datasets/longvideobench/videos",
        ),
        _tempcompass("multi_choice", "multi-choice", 1580),
        _tempcompass("yes_no", "yes_no", 2453),
        _tempcompass("caption_matching", "caption_matching", 1503),
        _tempcompass("captioning", "captioning", 2004),
    )
}  # fmt: skip
BENCHMARKS: tuple[str, ...] = tuple(dict.fromkeys(task.benchmark for task in TASKS.values()))


def task_named(name: str) -> Task:
    """Returns a task.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in TASKS:
        raise ConfigError([f"task {name!r} is unknown; use one of {', '.join(TASKS)}"])
    return TASKS[name]
