from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from list_session import ListSession
from tasking import work

from runner.config.root import RunnerConfig
from runner.config.task import Gsm8kConfig, PromptStyle
from runner.core.errors import JobFailed
from runner.core.result import FinishReason, Verdict
from runner.datasets.gsm8k import Item
from runner.engines.base import (
    Capability,
    Completion,
    EngineReport,
    EngineStats,
    Event,
    Message,
    Request,
    request_sha256,
)
from runner.store.jobs import Job, Recorder
from runner.tasks import gsm8k

Make = Callable[..., RunnerConfig]


class Scripted:
    """An engine that says what it is told to, and counts."""

    capabilities = frozenset(Capability)

    def __init__(self, answers: dict[int, tuple[str, FinishReason]]) -> None:
        self.answers, self.asked, self.stats = answers, [], EngineStats()  # type: ignore[var-annotated]

    def load(self) -> EngineReport:
        return EngineReport(metrics={"load_s": 0.5, "weight_mib": 1.0, "lora_modules": 2, "vocab_size": 3})

    def encode(self, request: Request) -> tuple[str, list[int]]:
        return str(request.prompt), []

    def open(self, batch_size: int | None = None) -> ListSession:
        return ListSession(self.capabilities, self.answer)

    def answer(self, requests: Sequence[Request]) -> Iterator[list[Event]]:
        for request in reversed(requests):
            self.asked.append(request)
            text, reason = self.answers[int(request.id)]
            ids = list(range(3))
            yield [
                Completion(
                    request.id,
                    text,
                    ids,
                    reason,
                    request_sha256(self.encode(request)[0], request),
                    10,
                    0.1,
                    0.2,
                    error="boom" if reason == "error" else None,
                )
            ]

    def close(self) -> None: ...


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Callable[[], Recorder]]:
    folder = tmp_path / "job"
    folder.mkdir()
    opened: list[Recorder] = []

    def again() -> Recorder:
        for earlier in opened:
            earlier.close()
        opened.append(Recorder(Job("gsm8k-test", folder)))
        return opened[-1]

    yield again
    opened[-1].close()


def test_four_verdicts_and_the_sum(make_config: Make, recorder: Callable[[], Recorder]) -> None:
    config = make_config(task=Gsm8kConfig(limit=6))
    golds = [item.gold for item in gsm8k.prepare(config).items]
    answers = {
        0: (f"ok\n#### {golds[0]}", FinishReason.stop),
        1: ("#### 999999", FinishReason.stop),
        2: (f"it is {golds[2]}", FinishReason.stop),  # strict: no answer
        3: ("first 3*4=12, then", FinishReason.length),
        4: (f"#### {golds[4]}\nand on and on", FinishReason.length),  # said before it was cut
        5: ("", FinishReason.error),
    }
    written = recorder()
    result = work(gsm8k, config, written, Scripted(answers))
    assert [written.samples[i].verdict for i in range(6)] == [
        Verdict.correct,
        Verdict.wrong,
        Verdict.no_answer,
        Verdict.cut_off,
        Verdict.correct,
        Verdict.cut_off,
    ]
    assert written.done[2].extracted == {"strict": None, "flexible": golds[2]}
    metrics = result.metrics
    assert metrics["accuracy"] == pytest.approx(2 / 6)
    assert (metrics["correct"], metrics["wrong"], metrics["no_answer"], metrics["cut_off"]) == (2, 1, 1, 2)
    assert (metrics["prompt_tokens"], metrics["new_tokens"], metrics["n"]) == (60, 18, 6)
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    assert metrics["lora_modules"] == 2
    assert metrics["errors"] == 1
    assert "1 of 6 prompts ended in an error, number 5 first: boom" in str(result.complaint)


def test_all_errors_fail_the_job(make_config: Make, recorder: Callable[[], Recorder]) -> None:
    with pytest.raises(JobFailed, match="boom"):
        work(gsm8k, make_config(), recorder(), Scripted(dict.fromkeys(range(4), ("", FinishReason.error))))


def test_resume_asks_only_for_what_is_missing(make_config: Make, recorder: Callable[[], Recorder]) -> None:
    config = make_config(task=Gsm8kConfig(limit=4))
    answers = dict.fromkeys(range(4), ("#### 1", FinishReason.stop))
    whole = work(gsm8k, config, recorder(), Scripted(answers))
    lines = recorder().job.samples_path.read_text().splitlines(keepends=True)
    recorder().job.samples_path.write_text("".join(lines[:2]) + lines[2][:20])  # torn while it was written
    engine = Scripted(answers)
    again = work(gsm8k, config, recorder(), engine)
    assert sorted(request.id for request in engine.asked) == [0, 1]  # 3 and 2 had been answered first
    assert again.metrics["accuracy"] == whole.metrics["accuracy"]
    assert again.notes == ["2 of 4 samples were on disk from an earlier, interrupted run"]
    assert len(recorder().done) == 4


def test_prompts(tmp_path: Path) -> None:
    item, shot = Item("Q?", "A #### 1", "1"), Item("S?", "B #### 2", "2")
    text = gsm8k.build_prompt(Gsm8kConfig(prompt=PromptStyle.text, shots=1), item, [shot])
    assert text == "Question: S?\nAnswer: B #### 2\n\nQuestion: Q?\nAnswer:"
    chat = gsm8k.build_prompt(Gsm8kConfig(system="Be brief.", shots=1, instruction="Go."), item, [shot])
    assert chat == (
        Message("system", "Be brief."),
        Message("user", "S?\n\nGo."),
        Message("assistant", "B #### 2"),
        Message("user", "Q?\n\nGo."),
    )
    assert gsm8k.build_prompt(Gsm8kConfig(instruction=""), item, []) == (Message("user", "Q?"),)


def test_identity_follows_the_content_of_the_data(make_config: Make, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    first, copy, other = tmp_path / "a.jsonl", tmp_path / "b" / "a.jsonl", tmp_path / "c.jsonl"
    for file, gold in ((first, 1), (copy, 1), (other, 2)):
        file.write_text(f'{{"question": "Q?", "answer": "#### {gold}"}}\n')
    hashes = [gsm8k.prepare(make_config(task=Gsm8kConfig(data=str(file)))).hashes for file in (first, copy, other)]
    assert hashes[0] == hashes[1] != hashes[2]
