"""Teams whose answers come from servers: who answered, thoughts, and the server's key. These tests
need both options."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_standin import Api

from runner.config.root import RunnerConfig
from runner.options.agents.keys import AgentsConfig
from runner.options.remote.keys import ApiConfig, ApiExtensions, HybridConfig, StudentConfig, TeacherConfig
from runner.report import format_headline_metrics
from runner.run import run

Make = Callable[..., RunnerConfig]
Run = Callable[..., Any]
KEY = "sk-very-secret-0123456789"
REVIEWS = ['{"score": 0.9, "feedback": "Well done."}', '{"score": 0.2, "feedback": "Count again."}']


class Teacher(Api):
    """Answers `four`, and finds the first draft good and all later ones bad."""

    def __init__(self) -> None:
        super().__init__(self.teach)
        self.reviews = list(REVIEWS)

    def teach(self, body: dict[str, Any]) -> str:
        if "You are a teacher" in str(body.get("messages", [{}])[0].get("content")):
            return self.reviews.pop(0) if len(self.reviews) > 1 else self.reviews[0]
        return "four"


def test_a_team_of_agents_records_who_answered(make_config: Make, tmp_path: Path) -> None:
    with Teacher() as teacher:
        keys: dict[str, Any] = {"backoff_s": 0.01, "retries": 1, "price_in": 1.0, "price_out": 1.0}
        model = HybridConfig(
            student=StudentConfig(name="x", stub=True),
            teacher=TeacherConfig(name="tiny", base_url=teacher.url, **keys),
        )
        config = make_config(model=model, task=AgentsConfig(limit=2, agents=2, num_rounds=1))
        record = run(config)
        metrics = record.result.metrics
        assert metrics["student_answers"] + metrics["teacher_answers"] == metrics["calls"] > 4
        assert metrics["teacher_answers"] > 0 < metrics["student_answers"]
        assert metrics["teacher_calls"] == len(teacher.seen)
        assert metrics["new_tokens"] == metrics["student_new_tokens"] + metrics["teacher_new_tokens"]
        assert metrics["cost_usd"] > 0
        assert set(record.result.facts["answered_by"].replace(",", "").split()) >= {"student", "teacher"}
        assert {"student", "teacher", "cost"} <= format_headline_metrics(metrics).keys()
        folder = tmp_path / "outputs" / "jobs" / record.job_id
        (folder / "result.json").unlink()
        lines = (folder / "calls.jsonl").read_text().splitlines(keepends=True)
        (folder / "calls.jsonl").write_text("".join(lines[:-2]))
        (folder / "samples.jsonl").unlink()
        again = run(config).result.metrics
    same = {f"{who}_{what}" for who in ("student", "teacher") for what in ("calls", "answers")}
    assert sum(again[name] for name in same) >= sum(metrics[name] for name in same) - 2
    assert again["student_answers"] + again["teacher_answers"] == again["calls"] == metrics["calls"]


@pytest.mark.thorough
def test_the_servers_key_is_in_no_file(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEY", KEY)
    with Api(lambda body: f"I got Bearer {KEY} from you", key=KEY) as api:
        api.reports = f"tiny of {KEY}"
        assert api.models is not None
        api.models[0]["root"] = KEY
        api.models[0]["max_model_len"] = f"Bearer {KEY}"
        model = ApiConfig(
            name="tiny", base_url=api.url, backoff_s=0.01, retries=1, extensions=ApiExtensions.vllm
        )
        record = run(make_config(model=model, task=AgentsConfig(limit=1, agents=2, num_rounds=1)))
    kept = json.dumps(dataclasses.asdict(record)) + "".join(capsys.readouterr())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert KEY not in kept
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert record.result.facts["reported_model"] == "id tiny, root ***"


@pytest.mark.thorough
def test_agents_hear_answers_and_their_calls_keep_the_thoughts(runner: Run, tmp_path: Path) -> None:
    def lines(name: str) -> list[dict[str, Any]]:
        (file,) = tmp_path.glob(f"outputs/jobs/*/{name}")
        return [json.loads(line) for line in file.read_text().splitlines()]

    drawn = ("generation=agents", "generation.repetition_penalty=null")
    team = ("task=agents", "task.mode=debate", "task.limit=1", "print=json")
    with Api(lambda _: "<think>\nsecret #### 99\n</think>\n\nThe answer is 21") as api:
        model = (
            "model=api",
            "model.name=tiny",
            f"model.base_url={api.url}",
            "model.backoff_s=0.01",
            "tracking=none",
        )
        done = runner(*model, *drawn, *team)
    assert done.code == 0, done.err
    heard = [str(body["messages"]) for body in api.seen]
    assert any("The answer is 21" in text for text in heard), "the decision hears the agents"
    assert not any("secret" in text for text in heard)
    calls = [call for call in lines("calls.jsonl") if "code" not in call]
    assert len(calls) == len(heard)
    assert all("secret" in str(call) for call in calls)
    (sample,) = lines("samples.jsonl")
    assert "21" in sample["text"]
    assert "secret" not in str(sample)
    assert sample["new_tokens"] == sum(call["new_tokens"] for call in calls), "the thoughts cost, too"
