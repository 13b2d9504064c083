"""HOI-Ref: questions grouped by picture, boxes of many answers at once, and ids found by a table."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import torch
from sightline.metrics.boxes import best_published_ious
from sightline.records.types import Sample
from sightline.systems.hoiref.asking import Asker
from sightline.systems.hoiref.boxes import parse_many
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.vlm4hoi import random_vlm4hoi
from sightline.systems.hoiref.predict import Predictor, PredictSettings
from sightline.systems.hoiref.records import Question

from benchmarks.timing import interleave

PICTURES, QUESTIONS, NEW, SIDE = 3, 6, 6, 448
ANSWERS, UNREADABLE = 20_000, 0.03
IDS = (500, 1000, 2000, 4000)


class _Bytes:
    """One id per byte, and three special tokens."""

    size = 259

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        return [*([1] if bos else []), *(3 + byte for byte in text.encode())]

    def decode(self, ids: Any) -> str:
        return bytes(number - 3 for number in ids).decode("latin-1")

    def token_id(self, token: str) -> int:
        return {"<unk>": 0, "<s>": 1, "</s>": 2, "$$": 0}[token]


def _model() -> Any:
    llama = {
        "vocab_size": 259, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 6, "max_position_embeddings": 512,
    }  # fmt: skip
    vision = {"image_size": SIDE, "width": 64, "depth": 4, "heads": 4}
    model = random_vlm4hoi(Vlm4HoiConfig.from_parts(llama, vision, {"rank": 8}), seed=0)
    with torch.no_grad():  # sharp enough that no choice is a near-tie
        model.llama.lm_head[0].weight.mul_(40)
    return model


def bench_grouping(rounds: int) -> dict[str, Any]:
    """One run over some pictures with several questions each, as the original's loaders ask and as ours do."""
    model = _model()
    nouns = ("cup", "left hand", "chopping board", "tap", "right hand", "knife")
    samples = [
        Sample(f"s{p}-{q}", f"{p}", "v", [], 1.0, Question("visor", "hoi", "k", f"{p}", f"Where is {noun}").to_json())
        for p in range(PICTURES)
        for q, noun in enumerate(nouns[:QUESTIONS])
    ]  # fmt: skip
    pixels = {str(p): np.random.default_rng(p).integers(0, 255, (256, 456, 3), dtype=np.uint8) for p in range(PICTURES)}
    calls: dict[str, Any] = {}

    def run(name: str, batch: int, grouped: bool) -> dict[str, Any]:
        asker = Asker(model, _Bytes())
        said = {}
        blocks = [samples[start : start + QUESTIONS] for start in range(0, len(samples), QUESTIONS)]
        for block in blocks if grouped else [[sample] for sample in samples]:
            predictor = Predictor(asker, PredictSettings(NEW, batch), pixels.__getitem__)
            said.update({one.id: one.output["text"] for one in predictor.predict(block)})
        calls[name] = asker.calls
        return said

    ways = {"per question": (1, False), "grouped": (1, True), "grouped, batched": (QUESTIONS, True)}
    said = {name: run(name, *way) for name, way in ways.items()}
    arms = interleave({name: lambda name=name, way=way: run(name, *way) for name, way in ways.items()}, rounds)
    alone, ours = calls["per question"], calls["grouped, batched"]
    tokens = [one.prefix_tokens + one.question_tokens for one in (alone, ours)]
    timed = "per question / grouped, batched"
    return {
        "name": "hoiref_pictures",
        "arms": arms,
        "ratios": {
            timed: arms["per question"]["median_s"] / arms["grouped, batched"]["median_s"],
            "pictures encoded": alone.pictures / ours.pictures,
            "prompt tokens computed": tokens[0] / tokens[1],
        },
        "max_difference": 0.0,
        "equal": all(one == said["per question"] for one in said.values()),
        "guard": {timed: 1.5, "pictures encoded": float(QUESTIONS)},
        "target": {timed: 3.0, "pictures encoded": float(QUESTIONS)},
        "note": f"{PICTURES} pictures of {SIDE} px with {QUESTIONS} questions, {NEW} new tokens; the same answers",
    }


_NESTED = r"\{<(-?\d+(\.\d+)?)><(-?\d+(\.\d+)?)><(-?\d+(\.\d+)?)><(-?\d+(\.\d+)?)>\}"


def _parsed(text: str) -> list[list[float]]:
    return [[float(match[place]) for place in (0, 2, 4, 6)] for match in re.findall(_NESTED, text)]


def _in_pixels(box: list[float]) -> list[int]:
    return [int(value / 100 * side) for value, side in zip(box, (1920, 1080) * 2, strict=True)]


def _overlap(truth: list[int], box: list[int]) -> float:
    wide = max(0, min(truth[2], box[2]) - max(truth[0], box[0]) + 1)
    high = max(0, min(truth[3], box[3]) - max(truth[1], box[1]) + 1)
    areas = [(one[2] - one[0] + 1) * (one[3] - one[1] + 1) for one in (truth, box)]
    return wide * high / float(sum(areas) - wide * high)


def _row_by_row(texts: list[str], truths: list[list[int]]) -> list[float | None]:
    """The shape of the released helper: one answer after another, three small functions each."""
    found: list[float | None] = []
    for text, truth in zip(texts, truths, strict=True):
        values = [_overlap(truth, _in_pixels(box)) for box in _parsed(text)]
        found.append(max(values, default=None))
    return found


def bench_boxes(rounds: int) -> dict[str, Any]:
    """IoU of 20,000 answers, some of which cannot be read."""
    rng = random.Random(0)
    texts, truths = [], []
    for _ in range(ANSWERS):
        x, y = rng.randrange(60), rng.randrange(60)
        box = f"{{<{x}><{y}><{x + rng.randrange(1, 40)}><{y + rng.randrange(1, 40)}>}}"
        texts.append("I do not know" if rng.random() < UNREADABLE else box)
        truths.append([rng.randrange(900), rng.randrange(500), 900 + rng.randrange(900), 500 + rng.randrange(500)])
    truth, sizes = np.array(truths), np.full((ANSWERS, 2), (1920, 1080))

    def ours() -> np.ndarray:
        return best_published_ious(*parse_many(texts), truth, sizes)[0]

    wanted = np.array([np.nan if value is None else value for value in _row_by_row(texts, truths)])
    arms = interleave(
        {
            "row by row": lambda: _row_by_row(texts, truths),
            "regex only": lambda: [re.findall(_NESTED, text) for text in texts],
            "ours": ours,
        },
        rounds,
    )
    middle = {name: one["median_s"] for name, one in arms.items()}
    return {
        "name": "hoiref_boxes",
        "arms": arms,
        "ratios": {
            "row by row / ours": middle["row by row"] / middle["ours"],
            "regex only / ours": middle["regex only"] / middle["ours"],
        },
        "max_difference": float(np.nanmax(np.abs(ours() - wanted))),
        "equal": bool(np.array_equal(ours(), wanted, equal_nan=True)),
        "guard": {"row by row / ours": 1.5},
        "target": {"row by row / ours": 3.0, "regex only / ours": 0.85},
        "note": f"{ANSWERS} answers, all distinct, {UNREADABLE:.0%} without a box; the same values",
    }


def _scan(rows: list[dict[str, str]], keys: list[str]) -> list[str]:
    found = []
    for key in keys:
        for row in rows:
            if row["id"] == key:
                found.append(row["answer"])
                break
    return found


def bench_ids(rounds: int) -> dict[str, Any]:
    """Looking up each prediction's question by scanning the list, and by a table; and how both grow."""
    sets = {}
    for count in IDS:
        rows = [{"id": f"hoi_{number}", "answer": str(number)} for number in range(count)]
        keys = [row["id"] for row in rows]
        random.Random(count).shuffle(keys)
        sets[count] = (rows, keys)

    def table(count: int) -> list[str]:
        rows, keys = sets[count]
        by_id: dict[str, str] = {}
        for row in rows:
            by_id.setdefault(row["id"], row["answer"])
        return [by_id[key] for key in keys]

    largest, smallest = IDS[-1], IDS[0]
    arms = interleave(
        {
            **{f"scan {count}": lambda count=count: _scan(*sets[count]) for count in (smallest, largest)},
            **{
                f"table {count}": lambda count=count: [table(count) for _ in range(20)] for count in (smallest, largest)
            },
        },
        rounds,
    )
    middle = {name: one["median_s"] for name, one in arms.items()}
    speed = f"scan / table at {largest}"
    growth = largest / smallest
    return {
        "name": "hoiref_ids",
        "arms": arms,
        "ratios": {
            speed: 20 * middle[f"scan {largest}"] / middle[f"table {largest}"],
            f"growth of scan over {growth:g}x ids": middle[f"scan {largest}"] / middle[f"scan {smallest}"],
            f"growth of table over {growth:g}x ids": middle[f"table {largest}"] / middle[f"table {smallest}"],
        },
        "max_difference": 0.0,
        "equal": all(_scan(*sets[count]) == table(count) for count in IDS),
        "guard": {speed: 50.0},
        "target": {speed: 100.0},
        "note": "one question per prediction; the table's time is that of 20 repetitions; linear against quadratic",
    }


def run(rounds: int) -> list[dict[str, Any]]:
    """Runs the benchmarks on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [bench_grouping(rounds), bench_boxes(rounds), bench_ids(rounds)]
    finally:
        torch.set_num_threads(before)
