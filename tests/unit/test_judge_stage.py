"""The judge stage from predictions to the metrics file, with servers that time out, talk rubbish or die."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from sightline.config.load import merge
from sightline.config.plan import Plan
from sightline.errors import BackendError, ConfigError, InputError
from sightline.llm.judged import JudgedSample
from sightline.metrics.aggregate import MetricSpec
from sightline.records.files import write_json
from sightline.records.rows import write_parquet
from sightline.records.types import Prediction, Sample, Score
from sightline.registry import load_plan
from sightline.report.summary import summarise
from sightline.run.judging import judge_run

from tests.unit.chat_server import ChatServer
from tests.unit.tiny_chat import make_tiny_chat

CONFIG = Path(__file__).parents[2] / "config"
SPECS = (MetricSpec("other", "o", "ratio_of_sums"), MetricSpec("llm_acc", "a judge", "ratio_of_sums", out_of="other"))
OUTPUTS = ("scores.parquet", "replies.jsonl", "notes.json")
WORDS = ("straight", "slowly", "higher", "deeper", "again", "together")


def planned(**over: Any) -> Plan:
    config = yaml.safe_load((CONFIG / "config.yaml").read_text())
    return load_plan(merge(config, over), CONFIG)


def judge(name: str = "mock", **over: Any) -> dict[str, Any]:
    """Returns the parameters of the rule."""
    return planned(judges={name: over}).judging.params(SimpleNamespace(judge=name))


def pairs_of(samples: Sequence[Sample], _: Sequence[Prediction], scoring: Mapping[str, Any]) -> list[JudgedSample]:
    return [
        JudgedSample(
            sample.id, "g",
            tuple({"reference": f"Keep it {word}", "candidate": f"Do it {word} {sample.id}"} for word in WORDS[:size]),
        )
        for size, sample in enumerate(samples)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = [f"s{number}" for number in range(6)]
    write_parquet(tmp_path / "samples.parquet", Sample, [Sample(n, n, f"c{n[-1]}", [], 1.0, {}) for n in names])
    write_parquet(tmp_path / "predictions.parquet", Prediction, [Prediction(name, "ok") for name in names])
    return tmp_path


def run(folder: Path, params: dict[str, Any], *, into: str = "out", work: str = "work", **changed: Any) -> dict:
    out = folder / into
    given = {"assets": [], "judged_samples": pairs_of, **changed}
    return judge_run(
        samples=str(folder / "samples.parquet"), predictions=str(folder / "predictions.parquet"), scoring={},
        judge=params, gpus=0, stage_version=1, work=str(folder / work), writer="run",
        scores_target=str(out / OUTPUTS[0]), replies_target=str(out / OUTPUTS[1]), notes_target=str(out / OUTPUTS[2]),
        **given,
    )  # fmt: skip


def outputs(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in OUTPUTS]


def summary(folder: Path, judges: list[dict[str, Any]], into: Sequence[str], **changed: Any) -> dict[str, Any]:
    names = [f"s{number}" for number in range(6)]
    write_parquet(folder / "own.parquet", Score, [Score(n, "other", "g", 1.0, 6.0, "scored") for n in names])
    write_json(folder / "absent.json", {"llm_acc": "no judge is configured"})
    entry = {
        "dataset": "d", "variant": "v", "dataset_title": "D", "dataset_note": None, "variant_title": "V",
        "weights_kind": "released", "demo": False, "paper_row": "row", "judges": judges,
    }  # fmt: skip
    published = {"llm_acc": {"value": 3.0, "tolerance": 9.0, "note": None}}
    paper = {"reference": "P", "rows": {"row": {"dataset": "d", "source": "T1", "metrics": published}}}
    summarise(
        title="S", runs=[entry], samples=[folder / "samples.parquet"], scores=[folder / "own.parquet"],
        absent=[folder / "absent.json"], paper=paper, partial=None, specs=SPECS, target=folder / "m.json",
        bootstrap={"replicates": 50, "seed": 0, "confidence": 0.95},
        judge_rows=[folder / name / OUTPUTS[0] for name in into],
        judge_notes=[folder / name / OUTPUTS[2] for name in into], **changed,
    )  # fmt: skip
    return json.loads((folder / "m.json").read_text())


def entry_of(name: str, metric: str, *, published: bool = False) -> dict[str, Any]:
    return {"judge": name, "title": f"judge {name}", "metric": metric, "as_published": published}


def test_the_mock_judges_a_run_and_a_second_run_asks_nothing(folder: Path) -> None:
    counts = run(folder, judge())
    assert counts == {"pairs": 15, "pairs_scored": 15, "pairs_unscored": 0, "pairs_failed": 0, "asked": 15}
    again = run(folder, judge(), into="again")
    assert again["asked"] == 0
    assert outputs(folder / "out") == outputs(folder / "again")
    lines = [json.loads(line) for line in (folder / "out" / "replies.jsonl").read_text().splitlines()]
    assert [line["sample"] for line in lines] == sorted(line["sample"] for line in lines)
    assert all(line["score"] in (1, 2, 3, 4, 5) for line in lines)


def test_a_server_that_dies_half_way_stops_the_stage_and_the_next_run_goes_on(folder: Path) -> None:
    params = {"backend": "openai", "model": "m", "batch_size": 1, "attempts": 1, "timeout_s": 5}
    with ChatServer() as server:
        whole = run(folder, judge("local_server", **params, url=server.url), into="whole", work="elsewhere")
    with ChatServer() as server:
        server.script = [{}] * 6 + [{"drop": True}]
        with pytest.raises(BackendError, match="did not answer 1 of 15") as caught:
            run(folder, judge("local_server", **params, url=server.url))
        assert "connection failed" in str(caught.value)
        assert not (folder / "out").exists()
    with ChatServer() as server:  # it came back on another port
        counts = run(folder, judge("local_server", **params, url=server.url))
        assert len(server.requests) == counts["asked"] == 9
    assert whole["asked"] == 15
    assert outputs(folder / "out") == outputs(folder / "whole")


def test_rubbish_is_unscored_with_interval_and_both_denominators(folder: Path) -> None:
    def answer(payload: dict[str, Any]) -> str:
        return "No idea." if "straight" in payload["messages"][-1]["content"] else '{"score": 4}'

    with ChatServer(answer) as server:
        counts = run(folder, judge("local_server", url=server.url, model="m"))
    assert (counts["pairs_scored"], counts["pairs_unscored"]) == (10, 5)
    found = summary(folder, [entry_of("local_server", "llm_acc")], ["out"])
    metrics = found["runs"][0]["metrics"]
    entry = metrics["llm_acc"]
    assert entry["value"] == entry["ci_low"] == entry["ci_high"] == 4.0
    assert (entry["n"], entry["n_unscored"], entry["n_error"]) == (4, 2, 0)
    assert (entry["items"], entry["items_total"]) == (10, 36)
    assert entry["value_over_all"] == metrics["llm_acc_all_pairs"]["value"] == pytest.approx(40 / 15)
    assert (entry["pairs"], entry["pairs_unscored"]) == (15, 5)
    assert entry["reasons"] == [{"reason": "no JSON object in the answer", "replies": 5}]
    assert entry["judge"]["prompt_version"] == 1
    assert found["metric_order"] == ["other", "llm_acc", "llm_acc_all_pairs"]


def test_only_rubbish_is_absent_with_its_reason(folder: Path) -> None:
    with ChatServer(lambda payload: "No idea.") as server:
        run(folder, judge("local_server", url=server.url, model="m"))
    metrics = summary(folder, [entry_of("local_server", "llm_acc")], ["out"])["runs"][0]["metrics"]
    assert "no JSON object in the answer" in metrics["llm_acc"]["absent"]
    assert metrics["llm_acc_all_pairs"]["value"] == 0


def test_only_the_papers_judge_stands_beside_the_paper(folder: Path) -> None:
    run(folder, judge())
    run(folder, judge(), into="second")
    judges = [entry_of("a", "llm_acc"), entry_of("b", "llm_acc_b")]
    metrics = summary(folder, judges, ["out", "second"])["runs"][0]["metrics"]
    assert metrics["llm_acc"]["paper"] is None
    assert "another judge" in metrics["llm_acc"]["paper_note"]
    assert metrics["llm_acc_b"]["value"] == metrics["llm_acc"]["value"]
    judges[0]["as_published"] = True
    assert summary(folder, judges, ["out", "second"])["runs"][0]["metrics"]["llm_acc"]["paper"]["within"]


def test_a_model_folder_judges_in_the_process(folder: Path) -> None:
    model = make_tiny_chat(folder / "model")
    files = [{"path": path.name, "size": path.stat().st_size} for path in model.iterdir()]
    record = {"format": 1, "asset": "llama3_70b_instruct", "root": str(model), "files": files}
    write_json(folder / "asset.json", record)
    params = judge("llama3_70b", dtype="float32", max_new_tokens=4, gpus=0)
    counts = run(folder, params, assets=[str(folder / "asset.json")])
    assert counts["asked"] == counts["pairs_scored"] + counts["pairs_unscored"] == 15
    assert run(folder, params, assets=[str(folder / "asset.json")])["asked"] == 0


def test_the_published_prompt_comes_from_the_users_copy(folder: Path) -> None:
    copy = folder / "FitCoach" / "scripts"
    copy.mkdir(parents=True)
    (copy / "get_llm_accuracy.py").write_text('PROMPT = "p"\nUSER_CONTENT = "<1> <2>"\n')
    record = {
        "format": 1, "asset": "fitcoach_original", "root": str(copy.parent),
        "files": [{"path": "scripts/get_llm_accuracy.py", "size": 40}],
    }  # fmt: skip
    write_json(folder / "asset.json", record)
    params = judge("mock", prompt="coaching_published")
    with pytest.raises(InputError, match="PROMPT: the constant has the digest"):
        run(folder, params, assets=[str(folder / "asset.json")])
    params["prompt"]["source"] |= {"system_sha256": None, "user_sha256": None}
    assert run(folder, params, assets=[str(folder / "asset.json")])["asked"] == 15


def test_runs_select_judges_and_the_demo_has_none() -> None:
    plan = planned()
    assert plan.judging.inputs(plan.runs) == {}
    assert "judges" not in plan.summary_params(SimpleNamespace(system="fitcoach"))["runs"][0]
    runs = [{"system": "fitcoach", "datasets": ["demo_test"], "variants": ["demo"], "judges": ["mock", "llama3_70b"]}]
    plan = planned(runs=runs)
    inputs = plan.summary_inputs(SimpleNamespace(system="fitcoach"))
    folder = "results/runs/fitcoach/demo_test/demo"
    assert inputs["judge_rows"] == [f"{folder}/judge.mock.parquet", f"{folder}/judge.llama3_70b.parquet"]
    listed = plan.summary_params(SimpleNamespace(system="fitcoach"))["runs"][0]["judges"]
    assert [entry["metric"] for entry in listed] == ["llm_acc", "llm_acc_llama3_70b"]


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"runs": [{"system": "fitcoach", "datasets": ["demo_test"], "variants": ["demo"], "judges": ["mok"]}]},
         "runs.0.judges: mok is unknown. Did you mean mock?"),
        ({"judges": {"mock": {"prompt": "coachin"}}}, "coachin is unknown. Did you mean coaching?"),
        ({"judges": {"mock": {"temprature": 1}}}, "temprature: unknown. Did you mean temperature?"),
        ({"judges": {"mine": {"title": "t", "backend": "openai", "prompt": "coaching"}}}, "needs `url`"),
        ({"judges": {"mine": {"title": "t", "backend": "vllm", "prompt": "coaching"}}}, "needs `weights`"),
        ({"judges": {"mock": {"repeats": 3}}}, "need a temperature"),
        ({"judges": {"llama3_70b": {"weights": {"asset": "nothing", "file": "."}}}}, "nothing is not in"),
    ],
)  # fmt: skip
def test_mistakes_name_their_key(over: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(**over)
    assert words in str(caught.value)
