"""task.extractor=math: files of MATH-500's and AIME's shape, from their keys to the verdicts in a
job's record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from raising import raises
from scripted import Reply, Scripted
from tasking import work

from runner.config.compose import compose_job
from runner.config.extractors import Extractor, GoldKind
from runner.config.hydra import to_runner_config
from runner.config.root import RunnerConfig
from runner.datasets.row_layouts import RowKeys, parse_dataset_row
from runner.records.jobs import Job, Recorder
from runner.scorers.answer_reading import load_scorer
from runner.scorers.expressions import PROCESS
from runner.tasks.gsm8k import task as gsm8k
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import ConfigError
from runner_base.result import FinishReason, Verdict
from runner_engine.settings.generation import GenerationConfig

Make = Callable[..., RunnerConfig]
BOXED = "Solve it step by step, and put your final answer within \\boxed{}."
MATH = [
    {
        "problem": "Compute $\\sqrt{8}+\\sqrt{2}$.",
        "solution": "Both are multiples: $\\boxed{3\\sqrt{2}}$.",
        "answer": "3\\sqrt{2}",
        "subject": "Algebra",
        "level": 2,
        "unique_id": "test/algebra/1.json",
    },
    {
        "problem": "Solve $x^2 = 9$.",
        "solution": "$x=\\boxed{3,-3}$.",
        "answer": "3,-3",
        "subject": "Algebra",
        "level": 1,
        "unique_id": "test/algebra/2.json",
    },
    {
        "problem": "Where is $\\sqrt{x-1}$ defined?",
        "solution": "For $x \\in \\boxed{[1,\\infty)}$.",
        "answer": "[1,\\infty)",
        "subject": "Precalculus",
        "level": 4,
        "unique_id": "test/precalculus/3.json",
    },
    {
        "problem": "Who is first?",
        "solution": "\\boxed{\\text{Ada}}",
        "answer": "\\text{Ada}",
        "subject": "Prealgebra",
        "level": 1,
        "unique_id": "test/prealgebra/4.json",
    },
]
AIME = [
    {"id": 60, "problem": "Find $r$.", "solution": "It is 33.", "answer": "033", "url": "x", "year": "2024"},
    {"id": "1", "problem": "Find $s$.", "answer": "70"},
]


@pytest.fixture(autouse=True, scope="module")
def no_process_is_left() -> Iterator[None]:
    """End the process that compares: the tests of other files count processes and open files."""
    yield
    PROCESS.close()


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Callable[[], Recorder]]:
    opened: list[Recorder] = []

    def make() -> Recorder:
        (tmp_path / "job").mkdir(exist_ok=True)
        opened.append(Recorder(Job("math-test", tmp_path / "job")))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "math.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in MATH))
    return path


def composed(*overrides: str) -> Any:
    return to_runner_config(*compose_job(overrides)).task


@pytest.mark.parametrize("name", ["math_500", "aime_2024", "aime_2025"])
def test_a_name_is_enough(name: str) -> None:
    task = composed(f"task.data={name}")
    assert (task.extractor, task.answer_type, task.instruction) == (
        Extractor.math,
        GoldKind.expression,
        BOXED,
    )
    assert task.verdict_sources == ["math"]


def test_one_key_is_enough_for_a_file_of_ones_own(file: Path) -> None:
    task = composed(f"task.data={file}", "task.extractor=math")
    assert (task.answer_type, task.instruction) == (GoldKind.expression, BOXED)
    assert composed(f"task.data={file}", "task.extractor=boxed").verdict_sources == [
        "strict",
        "flexible",
        "boxed",
        "the_answer_is",
    ]


@pytest.mark.parametrize("row", [*MATH, *AIME])
def test_rows_of_both_layouts_are_read(row: dict[str, Any]) -> None:
    keys = RowKeys.from_task(Gsm8kConfig(extractor=Extractor.math))
    read = parse_dataset_row(row, keys)
    assert (read.question, read.gold) == (row["problem"], row["answer"])
    assert read.id == str(row.get("unique_id", row.get("id")))
    of_solutions = RowKeys.from_task(Gsm8kConfig(extractor=Extractor.math, answer_key="solution"))
    if "boxed" in row.get("solution", ""):
        assert parse_dataset_row(row, of_solutions).gold == row["answer"]


@pytest.mark.thorough
def test_a_job_judges_keeps_the_reasons_and_resumes(
    make_config: Make, recorder: Callable[[], Recorder], file: Path
) -> None:
    config = make_config(
        task=Gsm8kConfig(data=str(file), limit=None, extractor=Extractor.math, cluster="subject")
    )
    answers: dict[int, Reply | list[Reply]] = {
        0: ("<think>\\boxed{4}</think>It is $\\boxed{\\sqrt{18}}$.", FinishReason.stop),
        1: ("\\boxed{9^{9^{9^{9}}}}", FinishReason.stop),
        2: ("so $x \\ge 1$", FinishReason.length),
        3: ("\\boxed{\\text{Bob}}", FinishReason.stop),
    }
    written = recorder()
    result = work(gsm8k, config, written, Scripted(answers))
    verdicts = [written.done[index].answer.verdict for index in range(4)]
    assert verdicts == [Verdict.correct, Verdict.wrong, Verdict.cut_off, Verdict.wrong]
    found = [written.done[index].answer.extracted for index in range(4)]
    assert found[0] == {"math": "\\sqrt{18}"}
    assert found[1] is not None
    assert str(found[1]["why_not"]).startswith("took more than 0.5 s of CPU")
    assert found[2] == {"math": None}
    assert [written.done[index].cluster for index in range(4)] == [
        "Algebra",
        "Algebra",
        "Precalculus",
        "Prealgebra",
    ]
    (note,) = [it for it in result.notes if "could not be compared" in it]
    assert note.startswith("1 answer counts as wrong")
    assert ": question 1 took" in note
    assert {key for key in result.metrics if key.startswith("accuracy/")} == {"accuracy/math"}
    engine = Scripted(answers)
    again = work(gsm8k, config, recorder(), engine)
    assert engine.asked == []
    assert again.metrics["accuracy"] == result.metrics["accuracy"] == 1 / 4


def test_equal_expressions_elect_one_answer(
    make_config: Make, recorder: Callable[[], Recorder], file: Path
) -> None:
    task = Gsm8kConfig(data=str(file), limit=1, extractor=Extractor.math, samples=5)
    config = make_config(task=task, generation=GenerationConfig(temperature=0.7))
    texts = ["2\\sqrt{2}", "\\sqrt{18}", "\\sqrt{8}", "3\\sqrt 2", "\\frac{6}{\\sqrt{2}}"]
    replies: list[Reply] = [(f"\\boxed{{{text}}}", FinishReason.stop) for text in texts]
    written = recorder()
    result = work(gsm8k, config, written, Scripted({0: replies}))
    assert written.done[0].answer.extracted == {"math": "\\sqrt{18}"}
    assert written.done[0].answer.verdict is Verdict.correct
    assert result.metrics["maj_at_k/5"] == 1.0
    assert result.metrics["pass_at_k/1"] == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"answer_type": GoldKind.letter}, "task.answer_type"),
        ({"choices_key": "options"}, "task.choices_key"),
        ({"answer_marker": "So"}, "task.answer_marker"),
        ({"check_contamination": 3}, "task.check_contamination"),
        ({"extractor": Extractor.boxed, "answer_type": GoldKind.expression}, "task.answer_type"),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys: dict[str, Any], key: str) -> None:
    with raises(ConfigError, "conflict", key):
        Gsm8kConfig(**({"extractor": Extractor.math} | keys))


@pytest.mark.thorough
def test_rows_without_an_expression_are_refused() -> None:
    with pytest.raises(ValueError, match="no gold answer of at most 1000 characters"):
        load_scorer("math").read_gold(" ")
    assert composed("task=likelihood", "task.data=math_500").gold_scorer == "math"
