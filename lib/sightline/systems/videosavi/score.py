"""Answers become score rows: strict rules, and beside them, under names of their own, the originals' generosity.

Strict: an answer that names no option is wrong, one that only a judge could judge is unscored. `..._lmms_eval`:
options are drawn where lmms-eval draws them, MVBench leaves empty answers out, and what TempCompass's judge was not
asked about counts as wrong. All in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sightline.errors import InputError
from sightline.metrics.aggregate import MetricSpec
from sightline.records.types import Prediction, Sample, Score
from sightline.systems.videosavi.benchmarks import DRAWS, Generator, Verdict, document_generator, verdict_on
from sightline.systems.videosavi.records import BenchmarkQuestion, Reply
from sightline.systems.videosavi.tasks import BENCHMARKS, PROTOCOL, TASKS

STRICT, LMMS_EVAL = "accuracy", "accuracy_lmms_eval"
UNREAD, CAREFUL = "unread_answers", "changed_by_careful_reading"
LETTERS, AGREEMENT = "letter_accuracy", "letter_agreement"
RULE_SCORED = "tempcompass_rules"
OTHER_PART = "not part of this number"
UNJUDGED = "no rule reads this answer and no judge was asked"
NOT_PUBLISHED = "the answers are not published; send the submission to the organisers' server"
NO_LETTERS = "the scorer by letters did not run"
EMPTY = "empty answers are left out by lmms-eval's rule"
_WHAT = {
    STRICT: "right answers; one that names no option is wrong, one that needs a judge is unscored",
    LMMS_EVAL: "right answers as lmms-eval counts them: drawn options, no empty answers in MVBench, unjudged are wrong",
    UNREAD: "answers in which the rules read no option",
    CAREFUL: "verdicts that change when articles and initials are not taken for options",
    LETTERS: "right options by the probability of their letters after one prefill",
    AGREEMENT: "answers whose option is the one most probable by letters",
}


@dataclass(frozen=True)
class _Number:
    """One metric's rows: what is measured over which tasks."""

    pool: str
    tasks: frozenset[str]
    measure: str

    @property
    def name(self) -> str:
        return f"{self.pool}_{self.measure}"


def _numbers() -> list[_Number]:
    found = []
    for benchmark in BENCHMARKS:
        of_benchmark = [task.name for task in TASKS.values() if task.benchmark == benchmark]
        pools: dict[str, list[str]] = {benchmark: of_benchmark}
        if benchmark == "tempcompass":
            pools[RULE_SCORED] = [name for name in of_benchmark if not TASKS[name].needs_judge]
        for pool, tasks in pools.items():
            found += [_Number(pool, frozenset(tasks), measure) for measure in (STRICT, LMMS_EVAL)]
        found += [_Number(benchmark, frozenset(of_benchmark), UNREAD)]
        if benchmark != "tempcompass":
            found += [_Number(benchmark, frozenset(of_benchmark), one) for one in (CAREFUL, LETTERS, AGREEMENT)]
        for name in of_benchmark:
            found += [_Number(name, frozenset([name]), measure) for measure in (STRICT, LMMS_EVAL)]
    return found


_NUMBERS = _numbers()


def metric_specs() -> tuple[MetricSpec, ...]:
    """Returns the room's metrics in the order of the report: benchmarks, then their tasks."""
    specs = []
    for number in _NUMBERS:
        what = f"{_WHAT[number.measure]}; {PROTOCOL}"
        higher = number.measure not in (UNREAD, CAREFUL)
        specs.append(MetricSpec(number.name, what, "ratio_of_sums", unit="%", higher_is_better=higher))
        if len(number.tasks) > 1 and number.measure in (STRICT, LMMS_EVAL):
            name, mean_of = f"{number.name}_macro", f"mean over {len(number.tasks)} tasks: {what}"
            specs.append(MetricSpec(name, mean_of, "class_mean", inputs=(number.name,), unit="%"))
    return tuple(specs)


METRICS = metric_specs()


@dataclass(frozen=True)
class _Judged:
    question: BenchmarkQuestion
    verdict: Verdict | None
    reply: Reply | None
    reason: str


def score(
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    *,
    judged: Mapping[str, str] | None = None,
    generator: Generator = document_generator,
) -> tuple[list[Score], dict[str, str]]:
    """Scores every answer.

    Args:
        samples: All samples of the run.
        predictions: One per sample, in any order.
        judged: Sample id to a judge's reply, for TempCompass answers that no rule reads.
        generator: Gives the generator of each question's random fall-back.

    Returns:
        One row per sample and metric of the benchmarks that the samples belong to, by sample in the given order;
        and, for the other metrics, why they are absent. A row's group is its task.

    Raises:
        InputError: A sample without prediction, a doubled prediction, one that belongs to no sample, or a malformed
            payload or output.
    """
    found = _judged(samples, predictions, judged or {}, generator)
    present = {one.question.task for one in found}
    reached = [number for number in _NUMBERS if number.tasks & present]
    absent = {spec.name: "the dataset has no question of it" for spec in METRICS}
    for number in reached:
        absent.pop(number.name)
        absent.pop(f"{number.name}_macro", None)
    return [_row(number, one) for one in found for number in reached], absent


def _judged(
    samples: Sequence[Sample], predictions: Sequence[Prediction], judged: Mapping[str, str], generator: Generator
) -> list[_Judged]:
    by_id = {prediction.id: prediction for prediction in predictions}
    if len(by_id) != len(predictions):
        raise InputError("a sample has more than one prediction", mend="merge the predictions again")
    extra = sorted(by_id.keys() - {sample.id for sample in samples})
    if extra:
        raise InputError("a prediction belongs to no sample", item=extra[0], mend="predict again")
    found = []
    for sample in samples:
        if sample.id not in by_id:
            raise InputError("the sample has no prediction", item=sample.id, mend="predict again")
        question = BenchmarkQuestion.from_json(sample.payload, item=sample.id)
        prediction = by_id[sample.id]
        if prediction.status != "ok":
            found.append(_Judged(question, None, None, prediction.reason or "the prediction failed"))
            continue
        reply = Reply.from_json(prediction.output, item=sample.id)
        found.append(_Judged(question, verdict_on(question, reply.text, generator, judged.get(sample.id)), reply, ""))
    return found


def _row(number: _Number, one: _Judged) -> Score:
    identifier, group = one.question.id, one.question.task
    if group not in number.tasks:
        return Score(identifier, number.name, group, None, 0.0, "unscored", OTHER_PART)
    if one.verdict is None or one.reply is None:
        return Score(identifier, number.name, group, None, 0.0, "error", one.reason)
    value = _value(number.measure, one.question, one.verdict, one.reply)
    if isinstance(value, str):
        return Score(identifier, number.name, group, None, 0.0, "unscored", value)
    return Score(identifier, number.name, group, 100.0 * value, 1.0, "scored")


def _value(measure: str, question: BenchmarkQuestion, verdict: Verdict, reply: Reply) -> bool | str:
    """Returns what a measure says of one answer, or why it says nothing."""
    benchmark = TASKS[question.task].benchmark
    if measure == UNREAD:
        return verdict.correct is None if benchmark == "tempcompass" else verdict.choice is None
    if benchmark != "tempcompass" and not question.gold and measure != AGREEMENT:
        return NOT_PUBLISHED
    if measure in (LETTERS, AGREEMENT):
        if reply.letter is None:
            return NO_LETTERS
        return reply.letter == (question.gold if measure == LETTERS else verdict.choice)
    if measure == CAREFUL:
        return verdict.careful != verdict.correct
    if measure == LMMS_EVAL:
        if benchmark == "mvbench" and verdict.empty:
            return EMPTY
        drawn = benchmark in DRAWS and verdict.drawn is not None
        return bool(verdict.drawn_correct if drawn else verdict.correct)
    return UNJUDGED if verdict.correct is None else verdict.correct
