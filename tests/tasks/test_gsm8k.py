from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config.root import RunnerConfig
from runner.config.task import Extractor, Gsm8kConfig, PromptStyle
from runner.core.errors import ConfigError, DataError, JobFailed
from runner.core.result import FinishReason, Verdict
from runner.engines.base import Capability, Completion, EngineReport, EngineStats, Event, Message, Request
from runner.engines.session import ListSession
from runner.store.jobs import Job, Recorder
from runner.tasks import gsm8k

Make = Callable[..., RunnerConfig]


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("3*4=12\n#### 12", "12", "12"),
        ("#### 70,000", "70000", "70000"),
        ("#### -5", "-5", "-5"),
        ("#### \N{MINUS SIGN}5", "-5", "-5"),
        ("#### 3.50", "3.5", "3.5"),
        ("#### $1,234.50", "1234.5", "1234.5"),
        ("#### $ 18", "18", "18"),
        ("#### -$3", "-3", "-3"),
        ("#### **18**", "18", "18"),
        ("#### 18.", "18", "18"),
        ("#### .5", "0.5", "0.5"),
        ("#### -0", "0", "0"),
        ("#### 1000", "1000", "1000"),
        ("#### 12\n\nNext #### 13", "12", "12"),
        ("The answer is 70,000.", None, "70000"),
        ("So it is -5", None, "-5"),
        ("It costs $3.50 in all.", None, "3.5"),
        ("10-5", None, "5"),
        ("10 - 5 = 5", None, "5"),
        ("1,2,3", None, "3"),
        ("about 12kg", None, "12"),
        ("call it x2", None, None),
        ("I do not know.", None, None),
        ("", None, None),
        ("####", None, None),
        ("#### none of the 3", None, "3"),
    ],
)
def test_extract(text: str, strict: str | None, flexible: str | None) -> None:
    assert gsm8k.extract(text, Extractor.strict) == strict
    assert gsm8k.extract(text, Extractor.flexible) == flexible


@given(st.integers(-(10**12), 10**12))
def test_extract_reads_any_whole_number_with_and_without_commas(value: int) -> None:
    for text in (f"#### {value}", f"so\n#### {value:,}", f"#### ${value:,}", f"#### {value:,}.00"):
        assert gsm8k.extract(text, Extractor.strict) == str(value)


@given(st.decimals(-(10**9), 10**9, places=3))
def test_plain_number_keeps_the_value(value: object) -> None:
    assert float(gsm8k.plain_number(f"{value:,}")) == float(str(value))


class Scripted:
    """An engine that says what it is told to, and counts."""

    def __init__(self, answers: dict[int, tuple[str, FinishReason]]) -> None:
        self.answers, self.asked, self.stats = answers, [], EngineStats()  # type: ignore[var-annotated]

    def load(self) -> EngineReport:
        return EngineReport(metrics={"load_s": 0.5, "weight_mib": 1.0, "lora_modules": 2, "vocab_size": 3})

    def open(self, batch_size: int | None = None) -> ListSession:
        return ListSession(frozenset(Capability), self.answer)

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
                    "sha",
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
    golds = [item.gold for item in gsm8k.load_items(config.task)]  # type: ignore[arg-type]
    answers = {
        0: (f"ok\n#### {golds[0]}", FinishReason.stop),
        1: ("#### 999999", FinishReason.stop),
        2: (f"it is {golds[2]}", FinishReason.stop),  # strict: no answer
        3: ("first 3*4=12, then", FinishReason.length),
        4: (f"#### {golds[4]}\nand on and on", FinishReason.length),  # said before it was cut
        5: ("", FinishReason.error),
    }
    written = recorder()
    result = gsm8k.execute(config, Scripted(answers), written)
    assert [written.done[i].verdict for i in range(6)] == [
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
    assert any("1 questions ended in an error" in note for note in result.notes)


def test_all_errors_fail_the_job(make_config: Make, recorder: Callable[[], Recorder]) -> None:
    with pytest.raises(JobFailed, match="boom"):
        gsm8k.execute(make_config(), Scripted(dict.fromkeys(range(4), ("", FinishReason.error))), recorder())


def test_resume_asks_only_for_what_is_missing(make_config: Make, recorder: Callable[[], Recorder]) -> None:
    config = make_config(task=Gsm8kConfig(limit=4))
    answers = dict.fromkeys(range(4), ("#### 1", FinishReason.stop))
    whole = gsm8k.execute(config, Scripted(answers), recorder())
    lines = recorder().job.samples_path.read_text().splitlines(keepends=True)
    recorder().job.samples_path.write_text("".join(lines[:2]) + lines[2][:20])  # torn while it was written
    engine = Scripted(answers)
    again = gsm8k.execute(config, engine, recorder())
    assert sorted(request.id for request in engine.asked) == [0, 1]  # 3 and 2 had been answered first
    assert again.metrics["accuracy"] == whole.metrics["accuracy"]
    assert again.notes == ["2 of 4 samples were on disk from an earlier, interrupted run"]
    assert len(recorder().done) == 4


def test_prompts(tmp_path: Path) -> None:
    item, shot = gsm8k.Item("Q?", "A #### 1", "1"), gsm8k.Item("S?", "B #### 2", "2")
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


def write_jsonl(path: Path, count: int, answer: str = "1+1=2\n#### {}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"question": f"{path.stem} {i}?", "answer": answer.format(f"{i},000")} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_local_jsonl_file_and_folder(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "data" / "test.jsonl", 5)
    write_jsonl(tmp_path / "data" / "train.jsonl", 3)
    items = gsm8k.load_items(Gsm8kConfig(data=str(file), limit=None))
    assert [item.gold for item in items] == ["0", "1000", "2000", "3000", "4000"]
    folder = Gsm8kConfig(data=str(file.parent), limit=2, shots=3)
    assert len(gsm8k.load_items(folder)) == 2
    assert [shot.question for shot in gsm8k.load_shots(folder)] == ["train 0?", "train 1?", "train 2?"]


def test_shots_come_from_train_of_the_embedded_data() -> None:
    shots = gsm8k.load_shots(Gsm8kConfig(shots=3))
    questions = {item.question for item in gsm8k.load_items(Gsm8kConfig(limit=500))}
    assert len(shots) == 3
    assert not questions & {shot.question for shot in shots}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": "./nope.jsonl"}, r"task.data=./nope.jsonl: data path does not exist: .*nope.jsonl"),
        ({"data": "nope"}, "task.data=nope: data path does not exist"),
        ({"split": "tset"}, r"task.split=tset: no split .*'tset'. Did you mean test\? Choices: hard, hard5"),
        ({"limit": None}, "task.limit=null: the embedded generator has no end"),
        ({"split": "train", "shots": 2}, "the examples would be questions too"),
    ],
)
def test_bad_data_keys(keys: dict[str, object], message: str) -> None:
    task = Gsm8kConfig(**keys)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        (gsm8k.load_items(task), gsm8k.load_shots(task))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "Q?"', "line 2: not JSON"),
        ('{"question": "Q?"}', "line 2: no key 'answer'"),
        ('{"question": "Q?", "answer": "12"}', "line 2: the answer has no '#### NUMBER'"),
        ("[1]", "line 2: "),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"question": "Q?", "answer": "#### 1"}\n' + line + "\n")
    with pytest.raises(DataError, match=f"bad.jsonl, {message}"):
        gsm8k.load_items(Gsm8kConfig(data=str(file)))


def test_missing_split_and_missing_shots(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "test.jsonl", 5)
    with pytest.raises(ConfigError, match="task.split=train: no file for split 'train'. Choices: test"):
        gsm8k.load_items(Gsm8kConfig(data=str(tmp_path), split="train"))
    with pytest.raises(ConfigError, match="give task.shots_data=FILE.jsonl"):
        gsm8k.load_shots(Gsm8kConfig(data=str(file), shots=2))
    few = write_jsonl(tmp_path / "few.jsonl", 1)
    with pytest.raises(ConfigError, match="has only 1 examples"):
        gsm8k.load_shots(Gsm8kConfig(data=str(file), shots=2, shots_data=str(few)))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ConfigError, match="holds no questions"):
        gsm8k.load_items(Gsm8kConfig(data=str(empty)))


def test_identity_follows_the_content_of_the_data(make_config: Make, tmp_path: Path) -> None:
    first, copy = write_jsonl(tmp_path / "a.jsonl", 3), write_jsonl(tmp_path / "b" / "a.jsonl", 3)
    other = write_jsonl(tmp_path / "c.jsonl", 3, "#### {}")
    hashes = [gsm8k.evidence(make_config(task=Gsm8kConfig(data=str(file)))) for file in (first, copy, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_real_gsm8k_when_it_is_at_hand() -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
    if not folder.is_dir():
        pytest.skip("GSM8K itself is not beside this checkout")
    items = gsm8k.load_items(Gsm8kConfig(data=str(folder), limit=None))
    assert len(items) == 1319
    assert items[0].gold == "18"
    shots = gsm8k.load_shots(Gsm8kConfig(data=str(folder), shots=5))
    assert all(gsm8k.extract(shot.answer, Extractor.strict) == shot.gold for shot in shots)
