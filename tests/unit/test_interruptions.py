"""SIGTERM and SIGUSR1: long stages keep what is finished, say so, and the next attempt computes the rest only."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from sightline.config.judges import PromptCard
from sightline.errors import ResumableStop
from sightline.llm.backend_mock import MockBackend
from sightline.llm.base import Reply, Request, Sampling
from sightline.llm.judge import JudgeSettings, ask
from sightline.llm.prompts import build_prompt
from sightline.records.types import Prediction, Sample
from sightline.run.shards import StopRequest, make_plan, run_shard

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]
SAMPLES = [Sample(f"s{number}", f"g{number}", f"c{number}", [], 1.0, {}) for number in range(6)]
PAIRS = [{"reference": f"keep going {number}", "candidate": f"well done {number}"} for number in range(6)]
PROMPTS = Path(__file__).parents[2] / "config/prompts"


class Told:
    """A model that gets a signal while it computes its second batch."""

    batch_limit = 8

    def __init__(self, number: int | None) -> None:
        self.number, self.calls = number, 0

    def predict(self, samples: list[Sample]) -> list[Prediction]:
        self.calls += 1
        if self.number and self.calls == 2:
            os.kill(os.getpid(), self.number)
        return [Prediction(sample.id, "ok", output={"text": sample.id}) for sample in samples]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_shard_goes_on_after_its_last_finished_block(tmp_path: Path, number: int) -> None:
    plan = make_plan(SAMPLES, 1, block_size=1, declared_seconds=None)

    def attempt(model: Told) -> list[Prediction]:
        arguments = {"plan": plan, "shard": "1-of-1", "samples": SAMPLES, "run_key": "k" * 32, "work": tmp_path}
        return run_shard(**arguments, load_predictor=lambda: model)[0]  # type: ignore[arg-type]

    with pytest.raises(ResumableStop, match=f"{signal.Signals(number).name} with 2 of 6") as stopped:
        attempt(Told(number))
    assert stopped.value.exit_code == os.EX_TEMPFAIL
    rest = Told(None)
    assert [row.id for row in attempt(rest)] == [sample.id for sample in SAMPLES]
    assert rest.calls == 4


class ToldJudge(MockBackend):
    """A judge that gets a signal while it grades."""

    number: int | None = None
    asked = 0

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += len(requests)
        if self.number:
            os.kill(os.getpid(), self.number)
        return super().generate(requests)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_judge_goes_on_after_its_last_answer(tmp_path: Path, number: int) -> None:
    card = PromptCard.model_validate(yaml.safe_load((PROMPTS / "coaching.yaml").read_text()))
    prompt = build_prompt("coaching", card.model_dump(mode="json"))

    def attempt(judge: ToldJudge) -> int:
        with StopRequest() as stop:
            answers, _ = ask(
                PAIRS,
                prompt=prompt,
                settings=JudgeSettings(Sampling(), batch_size=2),
                key="k" * 32,
                work=tmp_path,
                writer="run",
                open_judge=lambda: judge,
                check_stop=stop.raise_if_set,
            )
        return len(answers)

    told = ToldJudge()
    told.number = number
    with pytest.raises(ResumableStop, match=f"{signal.Signals(number).name} with 2 of 6"):
        attempt(told)
    rest = ToldJudge()
    assert attempt(rest) == 6
    assert rest.asked == 4


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
