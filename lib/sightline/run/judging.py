"""The stage that lets a language model grade the pairs of one run: files and plain settings in, files out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.assets.acquire import locate
from sightline.llm.backends import RememberedDigests, fingerprint, open_backend
from sightline.llm.base import Backend, Sampling
from sightline.llm.judge import JudgeSettings, ask, judge_key
from sightline.llm.judged import JudgedSample, counts, read_scores_of, score_rows
from sightline.llm.prompts import Prompt, build_prompt
from sightline.records.files import read_json, write_json
from sightline.records.rows import read_predictions, read_samples, write_lines, write_parquet
from sightline.records.types import Prediction, Sample, Score
from sightline.run.devices import choose_device, fix_threads
from sightline.run.progress import progress_bar
from sightline.run.shards import StopRequest

log = logging.getLogger(__name__)
JudgedSamples = Callable[[Sequence[Sample], Sequence[Prediction], Mapping[str, Any]], list[JudgedSample]]
_MODELS_HERE = ("transformers", "vllm")


def _file(assets: Sequence[str], wanted: Mapping[str, str] | None) -> Path | None:
    """Returns the file or folder that a card names inside one of the acquired assets."""
    if wanted is None:
        return None
    records = {str(read_json(path)["asset"]): Path(path) for path in assets}
    return locate(records[wanted["asset"]], wanted["file"])


def _model_folder(assets: Sequence[str], weights: Mapping[str, str] | None) -> Path | None:
    found = _file(assets, weights)
    return found.parent if found is not None and found.is_file() else found


def _settings(card: Mapping[str, Any]) -> JudgeSettings:
    sampling = Sampling(card["max_new_tokens"], card["temperature"], card["top_k"], card["top_p"], card["seed"])
    return JudgeSettings(sampling, card["repeats"], card["batch_size"], card["failed_replies"])


def _open(card: Mapping[str, Any], folder: Path | None, gpus: int, print_of_it: str) -> Backend:
    device = choose_device(gpus, demo_weights=False) if card["backend"] in _MODELS_HERE else "cpu"
    if card["backend"] == "transformers":
        fix_threads(card["cpu_threads"])
    return open_backend(card, folder, device, print_of_it)


def judge_run(
    *,
    judged_samples: JudgedSamples,
    samples: str,
    predictions: str,
    scoring: Mapping[str, Any],
    judge: Mapping[str, Any],
    assets: Sequence[str],
    gpus: int,
    stage_version: int,
    work: str,
    writer: str,
    scores_target: str,
    replies_target: str,
    notes_target: str,
) -> dict[str, Any]:
    """Asks a judge about every pair of a run that it was not asked about before, and writes the scores.

    `judged_samples` is the room's door; `judge` holds `settings` (`JudgeCard`), `weights` and `prompt` (`PromptCard`);
    `work` is the folder of durable answers, `writer` this job's file in it. Raises BackendError when the judge does not
    answer; answers that came are kept.
    """
    card = judge["settings"]
    prompt = build_prompt(card["prompt"], judge["prompt"], _file(assets, judge["prompt"]["source"]))
    folder = _model_folder(assets, judge["weights"])
    print_of_it = fingerprint(card, folder, RememberedDigests(Path(work) / "digests.json"))
    settings = _settings(card)
    todo = judged_samples(read_samples(samples), read_predictions(predictions), scoring)

    with StopRequest() as stop:
        judgements, computed = ask(
            [fields for sample in todo for fields in sample.pairs],
            prompt=prompt,
            settings=settings,
            key=judge_key(print_of_it, prompt, settings.sampling, stage_version),
            work=work,
            writer=writer,
            open_judge=lambda: _open(card, folder, gpus, print_of_it),
            progress=lambda batches: progress_bar(batches, description=f"judge ({card['backend']})", unit="batch"),
            check_stop=stop.raise_if_set,
        )
    pairs = read_scores_of(todo, judgements, prompt, judge["prompt"]["parse"], settings.repeats)
    write_parquet(scores_target, Score, score_rows(todo, pairs))
    write_lines(replies_target, (row for pair in pairs for row in pair.rows()))
    found = counts(pairs, settings.repeats)
    write_json(notes_target, {**found, **_who(judge, prompt, print_of_it)})
    for entry in found["reasons"]:
        log.warning("%d replies without a score: %s", entry["replies"], entry["reason"])
    names = ("pairs", "pairs_scored", "pairs_unscored", "pairs_failed")
    return {**{name: found[name] for name in names}, "asked": computed}


def _who(judge: Mapping[str, Any], prompt: Prompt, print_of_it: str) -> dict[str, Any]:
    """Returns who judged and how, for the notes."""
    card = judge["settings"]
    return {
        "backend": card["backend"],
        "model": card["model"] or (judge["weights"] or {}).get("asset"),
        "fingerprint": print_of_it,
        "prompt": prompt.name,
        "prompt_version": prompt.version,
        "prompt_sha256": prompt.sha256,
        "parse": judge["prompt"]["parse"],
        "temperature": card["temperature"],
    }
