"""Answers that guessed tokens have changed: counts, sentences and JSON, from planted answers."""

from __future__ import annotations

import io
import json

import pytest
from json_schema import SCHEMA, faults

from runner_compare.model.comparison import Comparison
from runner_compare.model.data import TEXT_END, Run, Table
from runner_compare.model.outcomes import Answers, Question, QuestionOutcome
from runner_compare.model.table import ComparisonOptions, build_comparison_table
from runner_compare.reader import Reader
from runner_compare.render.output import FORMATS
from runner_compare.render.parts import table_sentences

N = 40


class Planted(Reader):
    """Answers whose verdicts are all right; so many texts begin otherwise."""

    def __init__(self, changed: dict[str, int], family: int = 0) -> None:
        super().__init__()
        self.changed, self.family = changed, family

    def load_answers(self, run: Run) -> Answers:
        """Return the verdicts."""
        clusters = [str(at // self.family) if self.family else None for at in range(N)]
        return {
            (at, f"question {at}", "42"): QuestionOutcome(True, "prompt", cluster)
            for at, cluster in enumerate(clusters)
        }

    of_baseline = load_answers

    def load_answer_texts(
        self, run: Run, questions: set[Question], max_chars: int = TEXT_END
    ) -> dict[Question, dict[str, str]]:
        """Return the texts, of which only the beginning differs."""
        texts = {
            question: f"{'B' if question[0] < self.changed[run.run_id] else 'A'}{' and so on' * 100}"
            for question in questions
        }
        return {question: {"text": text[-max_chars:]} for question, text in texts.items()}


def table_of(changed: dict[str, int], also: str = "none", family: int = 0) -> Table:
    runs = [
        Run(
            name,
            f"job-{name}",
            "gsm8k",
            "1",
            "",
            {"generation.speculate": name, "quantization.name": also if at else "none"},
            {"n": float(N), "correct": float(N)},
        )
        for at, name in enumerate(changed)
    ]
    options = ComparisonOptions({"generation.speculate": "off"})
    return build_comparison_table(runs, options, Planted(changed, family))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (0, "none of 40 answers changed; the true rate is at most 8.8 % (exact two-sided 95 % interval)"),
        (10, "10 of 40 answers changed [12.7, 41.2] %"),
    ],
)
def test_answers_that_guesses_changed_are_counted(changed: int, said: str) -> None:
    table = table_of({"off": 0, "draft": changed})
    names = "generation.speculate=draft vs generation.speculate=off"
    assert f"{names}: {said}" in table_sentences(table)
    out = io.StringIO()
    FORMATS["json"](Comparison([table]), out)
    document = json.loads(out.getvalue())
    assert list(faults(document, SCHEMA)) == []
    (found,) = (row["changed_answers"] for row in document["tables"][0]["rows"] if not row["is_baseline"])
    assert (found["changed"], found["answers"]) == (changed, N)


def test_other_settings_change_answers_anyway() -> None:
    said = "\n".join(table_sentences(table_of({"off": 0, "draft": 10}, also="nf4")))
    assert "answers changed" not in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            0,
            "none of 40 answers changed; the true rate is at most 36.9 % (two-sided 95 % interval over 8 clusters)",
        ),
        (10, "10 of 40 answers changed [3.2, 65.1] %, over 8 clusters"),
    ],
)
def test_families_of_questions_widen_the_interval(changed: int, said: str) -> None:
    """Answers of a family change together: 40 of them say less than 40 independent ones."""
    assert said in "\n".join(table_sentences(table_of({"off": 0, "draft": changed}, family=5)))
