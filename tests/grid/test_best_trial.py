"""What is said of the best trial: an interval that overlaps with another's shows no best, and a
check is offered."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.config.root import RunnerConfig
from runner.grid.best_trial import ScoredTrial, make_best_trial_notes
from runner.grid.plan import PlannedJob
from runner.records.jobs import Job
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.notes import Note, note
from runner_compare.statistics.stats import compute_wilson_interval

MakeConfig = Callable[..., RunnerConfig]
KEYS = ("generation.temperature", "generation.top_p")


def trial(number: int, right: int, n: int, config: RunnerConfig | None = None) -> ScoredTrial:
    """Return a trial with so many right answers to n questions."""
    overrides = ["generation=sampling", f"generation.temperature=0.{number}", "generation.top_p=0.9"]
    planned = PlannedJob(overrides, config, job=Job(f"gsm8k-{number}", Path()))
    low, high = compute_wilson_interval(right, n)
    metrics = {"accuracy": right / n, "accuracy_low": low, "accuracy_high": high, "n": n}
    return ScoredTrial(planned, metrics, "accuracy", right / n)


def doubts_of_best(trials: list[ScoredTrial], keys: tuple[str, ...] = KEYS) -> list[Note]:
    return make_best_trial_notes(max(trials, key=lambda one: one.value), trials, keys, maximize=True)


def test_trials_whose_intervals_overlap_with_the_best_are_counted() -> None:
    trials = [trial(1, 18, 20), trial(2, 17, 20), trial(3, 16, 20)]
    assert trials[0].format_objective() == "accuracy 90.0% [69.9, 97.2] of 20 questions"
    assert doubts_of_best(trials) == [note("overlaps", rivals=2)]
    assert doubts_of_best([*trials[:2], trial(3, 2, 20)]) == [note("overlaps", rivals=1)]


def test_nothing_is_said_where_the_best_is_apart_or_alone() -> None:
    assert doubts_of_best([trial(1, 19, 20), trial(2, 3, 20), trial(3, 9, 20)]) == []
    assert doubts_of_best([trial(1, 18, 20)]) == []
    assert doubts_of_best([trial(1, 18, 20), trial(1, 18, 20)]) == [], (
        "the same job twice is no rival of itself"
    )


def test_in_a_search_for_the_lowest_the_best_is_the_lowest() -> None:
    trials = [trial(1, 1, 20), trial(2, 3, 20), trial(3, 19, 20)]
    assert make_best_trial_notes(trials[0], trials, KEYS, maximize=False) == [note("overlaps", rivals=1)]


def test_an_objective_without_an_interval_is_as_before() -> None:
    speeds = [ScoredTrial(one.planned, {"best_decode_tok_per_s": one.value}, "best_decode_tok_per_s", one.value)
              for one in (trial(1, 18, 20), trial(2, 17, 20))]  # fmt: skip
    assert doubts_of_best(speeds) == []
    assert "[" not in speeds[0].format_objective()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("count", [2, 10])
def test_of_equal_trials_none_is_called_the_best(count: int) -> None:
    """The truth is known: all are equal. With a truth that is 40 points lower in all others, one is
    apart."""
    generator = random.Random(1)

    def share_apart(truths: list[float]) -> float:
        apart = 0
        for _ in range(400):
            trials = [
                trial(number, sum(generator.random() < truth for _ in range(60)), 60)
                for number, truth in enumerate(truths)
            ]
            apart += not doubts_of_best(trials)
        return apart / 400

    assert share_apart([0.7] * count) <= 0.02
    assert share_apart([0.9] + [0.5] * (count - 1)) >= 0.8, "the control"


def test_the_check_takes_questions_after_those_of_the_search(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = tmp_path / "questions.jsonl"
    rows.write_text(
        "".join(json.dumps({"question": f"{n} + 1?", "answer": f"#### {n + 1}"}) + "\n" for n in range(50))
    )

    def check(limit: int | None, offset: int = 0, keys: tuple[str, ...] = KEYS) -> list[Note]:
        config = make_config(task=Gsm8kConfig(data=str(rows), limit=limit, offset=offset))
        return doubts_of_best(
            [trial(1, 18, 20, config), trial(2, 17, 20, config), trial(3, 18, 20, config)], keys
        )[1:]

    def commands(limit: int, offset: int, asked: int) -> list[str]:
        """Return the commands, after a check that they ask so many questions."""
        (noted,) = check(limit, offset)
        assert (noted.code, noted.values["questions"]) == ("check_of_best", asked)
        assert isinstance(noted.values["commands"], list)
        return noted.values["commands"]

    (command,) = commands(20, 0, 20)
    assert shlex.split(command) == [
        "runner", "-m", "generation=sampling", "task.offset=20", "task.limit=20",
        "hydra.sweeper.cases=[{generation.temperature: 0.1, generation.top_p: 0.9}, "
        "{generation.temperature: 0.3, generation.top_p: 0.9}]",
    ]  # fmt: skip
    assert "task.offset=40 task.limit=10 " in commands(20, 20, 10)[0], "there are only ten more"
    for limit, offset in ((None, 0), (50, 0), (20, 30)):
        assert check(limit, offset) == [note("all_asked")]
    assert check(20, keys=("task.shuffle_seed",)) == [], "each trial has asked others"
