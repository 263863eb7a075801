"""task.early_stop_vs: a clear difference ends a job early, none does not; order, kills, and which jobs can be a baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner.config.compose import build_group_configs
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.config.wording import PromptStyle
from runner.records.jobs import Job, read_samples
from runner.run import run
from runner.tasks.early_stop import MIN_AHEAD, EarlyStop
from runner.tasks.gsm8k import task as gsm8k
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import Code, ConfigError
from runner_base.result import Answer, FinishReason, Record, Sample, Verdict
from runner_compare import format_interim_verdict
from runner_compare.render.margins import UNDECIDED
from runner_compare.statistics.sequential import Side
from runner_engine.settings.model import LocalModelConfig

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

Make = Callable[..., RunnerConfig]
WHOLE = "generation=greedy generation.max_new_tokens=96"


@pytest.fixture
def job(make_config: Make) -> Callable[..., RunnerConfig]:
    """Return a function that makes a job of the embedded model; a bad one may hardly repeat a
    digit, so it is wrong."""

    def make(seed: int = 0, is_bad: bool = False, **keys: Any) -> RunnerConfig:
        values = {"generation.max_new_tokens": 96} | (
            {"generation.repetition_penalty": 3.0} if is_bad else {}
        )
        generation = build_group_configs(["generation"], {}, values)["generation"]
        model = LocalModelConfig(name="embedded", device="cpu")
        cluster = None if keys.get("early_stop_vs") else "template"  # the defaults of a command
        task = Gsm8kConfig(**{"limit": 60, "cluster": cluster, **keys})
        return make_config(model=model, generation=generation, task=task, seed=seed)

    return make


def decided(record: Record) -> dict[str, float]:
    names = (
        "accuracy",
        "n",
        "questions_asked",
        "questions_left",
        "early_stop_wins",
        "early_stop_losses",
        "early_stop_p",
        "early_stop_comparisons",
    )
    ends = (f"early_stop_difference_points{end}" for end in ("", "_low", "_high"))
    return {name: record.result.metrics[name] for name in (*names, *ends)}


@pytest.mark.thorough
def test_a_clear_difference_ends_a_job_early_and_a_kill_changes_nothing(
    job: Callable[..., RunnerConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = run(job())
    config = job(is_bad=True, early_stop_vs=WHOLE)
    record = run(config)
    found = decided(record)
    asked = int(found["n"])
    assert record.result.metrics["early_stop_decision"] == -1
    assert record.result.facts["early_stop_vs"] == f"{WHOLE} · {base.job_id}"
    assert found["accuracy"] <= 0.1
    assert found["early_stop_wins"] == 0
    assert (found["questions_asked"], found["questions_left"]) == (asked, 60 - asked)
    assert (found["early_stop_comparisons"], record.result.facts["early_stop_level"]) == (1, "5 %")
    assert found["early_stop_losses"] == 8  # the first that decide where all point one way
    assert found["early_stop_difference_points"] == pytest.approx(-100 * 8 / asked)
    assert found["early_stop_difference_points_high"] <= 0
    assert any("stopped early" in note and WHOLE in note for note in record.result.notes)
    folder = Path(record.output_dir)
    samples = read_samples(folder / "samples.jsonl")
    assert set(range(asked)) <= samples.keys()
    assert len(samples) <= asked + MIN_AHEAD
    # killed after a few answers: goes on, and decides at the same question
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "result.json").unlink()
    (folder / "samples.jsonl").write_text("".join(lines[:5]) + lines[5][:30])
    again = run(config)
    assert decided(again) == found
    assert (folder / "samples.jsonl").read_text().splitlines(keepends=True)[:5] == lines[:5]
    # killed before the result was written: nothing is loaded
    (folder / "result.json").unlink()
    monkeypatch.setattr(
        "runner.engines.LazyEngine.load", lambda *_: pytest.fail("nothing is to be asked any more")
    )
    assert decided(run(config)) == found
    # a job without task.early_stop_vs, on no more questions, has all it needs
    assert run(job(is_bad=True, limit=asked)).result.metrics["n"] == asked


def test_where_nothing_differs_all_questions_are_put(job: Callable[..., RunnerConfig]) -> None:
    base = run(job(limit=40))
    named_itself = job(limit=40, early_stop_vs=WHOLE)
    assert gsm8k.prepare(named_itself).hashes == gsm8k.prepare(job(limit=40)).hashes
    assert run(named_itself).job_id == run(job(limit=40, early_stop_vs=base.job_id)).job_id == base.job_id
    record = run(job(seed=1, limit=30, early_stop_vs=base.job_id))  # greedy: the same answers
    assert record.result.metrics["early_stop_decision"] == 0
    assert record.result.metrics["early_stop_difference_points"] == 0
    assert record.result.metrics["questions_left"] == 0
    assert not any("stopped early" in note for note in record.result.notes)
    with raises(ConfigError, "conflict", "task.early_stop_vs"):
        run(job(is_bad=True, limit=30, early_stop_vs=record.job_id))
    for keys, differs in (
        ({"limit": 41}, "question 40."),
        ({"offset": 1}, "question 0."),
        ({"prompt": PromptStyle.text}, "task.prompt (chat, here text)"),
    ):
        with raises(ConfigError, "mismatch", "task.early_stop_vs") as refused:
            run(job(is_bad=True, early_stop_vs=base.job_id, **{"limit": 40, **keys}))
        assert differs in refused.value.reason


def test_a_final_test_is_run_once_for_the_same_questions(job: Callable[..., RunnerConfig]) -> None:
    base = run(job())
    first = run(job(is_bad=True, limit=6, early_stop_vs=base.job_id))
    larger = run(job(is_bad=True, limit=7, early_stop_vs=base.job_id))
    same_limit = run(job(is_bad=True, limit=6, early_stop_vs=base.job_id, early_stop_margin=50))
    parts = [record.result.metrics["early_stop_final_test_part"] for record in (first, larger, same_limit)]
    assert parts == [0.15, 0, 0.15]
    assert larger.result.facts["early_stop_final_test"] == f"used by {first.job_id}"
    assert "early_stop_final_test" not in first.result.facts
    # after a kill, too
    (Path(larger.output_dir) / "result.json").unlink()
    again = run(job(is_bad=True, limit=7, early_stop_vs=base.job_id))
    assert again.result.metrics["early_stop_final_test_part"] == 0


def test_the_final_test_waits_for_all_answers(until: EarlyStop) -> None:
    samples = {index: sample(index, Verdict.correct) for index in range(30)}
    failed = sample(5, Verdict.cut_off, FinishReason.error)
    for changed, is_tested in (({}, True), ({5: failed}, False)):
        answers = samples | changed
        assert until.start(answers) is None
        until.finish(answers.values())
        assert (until.bets.pairs.final is not None) is is_tested


def test_a_baseline_that_is_not_done_is_refused_with_what_to_run(job: Callable[..., RunnerConfig]) -> None:
    config = job(is_bad=True, early_stop_vs=WHOLE)
    inputs = gsm8k.prepare(config)
    told = gsm8k.preview(inputs, resolve_job(config))
    assert f"{WHOLE} ({inputs.after}, must run first)" in told
    assert told.endswith("after 60 questions. Significance level 5 %")
    with raises(ConfigError, "not_found", "task.early_stop_vs"):
        run(config)
    with raises(ConfigError, "not_found", "task.early_stop_vs"):
        run(job(early_stop_vs="gsm8k-0123456789ab"))
    with raises(ConfigError, "unknown_choice", "task.early_stop_vs"):
        gsm8k.prepare(job(early_stop_vs="seed=1"))


def test_a_job_whose_files_are_not_here_is_compared_unless_its_keys_name_itself(
    job: Callable[..., RunnerConfig],
) -> None:
    assert [
        gsm8k.has_configured_baseline(job(early_stop_vs=words))
        for words in (None, WHOLE, "gsm8k-0123456789ab")
    ] == [False, False, True]
    assert gsm8k.has_configured_baseline(job(is_bad=True, early_stop_vs=WHOLE))


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ({"early_stop_vs": " "}, "bad_value", "early_stop_vs"),
        ({"early_stop_vs": "lora=none", "check_invariance": 3}, "conflict", "check_invariance"),
        ({"early_stop_vs": "lora=none", "repeat_index": 1}, "conflict", "repeat_index"),
        ({"early_stop_vs": "lora=none", "cluster": "template"}, "conflict", "cluster"),
        ({"early_stop_margin": 2}, "no_effect", "early_stop_margin"),
        ({"early_stop_comparisons": 2}, "no_effect", "early_stop_comparisons"),
        ({"early_stop_vs": "lora=none", "early_stop_comparisons": 0}, "bad_value", "early_stop_comparisons"),
        *(
            ({"early_stop_vs": "lora=none", "early_stop_margin": margin}, "bad_value", "early_stop_margin")
            for margin in (0, -1.0, 100, float("nan"))
        ),
    ],
)
def test_keys_are_checked(keys: dict[str, Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, f"task.{key}"):
        Gsm8kConfig(**keys)


def test_another_share_or_margin_is_another_job_which_reuses_the_answers(
    job: Callable[..., RunnerConfig],
) -> None:
    base = run(job())
    whole = run(job(is_bad=True, early_stop_vs=WHOLE))
    assert run(job(is_bad=True, early_stop_vs=WHOLE, early_stop_comparisons=1)).from_ledger
    strict = run(job(is_bad=True, early_stop_vs=WHOLE, early_stop_comparisons=5))
    found, others = decided(strict), decided(whole)
    assert (found["early_stop_losses"], others["early_stop_losses"]) == (11, 8)
    assert strict.result.metrics["early_stop_level"] == 0.01
    assert strict.result.facts["early_stop_level"] == "1 % (5 % shared by 5 jobs)"
    assert any(f"samples are reused from job {whole.job_id}" in note for note in strict.result.notes)
    config = job(is_bad=True, early_stop_vs=WHOLE, early_stop_comparisons=5, early_stop_margin=2)
    told = gsm8k.preview(gsm8k.prepare(config), resolve_job(config))
    assert ", done) is within 2 points" in told
    assert told.endswith("after 60 questions. Significance level 1 % (5 % shared by 5 jobs)")
    margin = run(config)
    assert margin.result.metrics["early_stop_decision"] == -1
    # to show more than 2 points takes more than to show any
    assert margin.result.metrics["early_stop_losses"] >= 11
    assert len({whole.job_id, strict.job_id, margin.job_id}) == 3
    of_the_baseline = job(early_stop_vs=WHOLE, early_stop_comparisons=5, early_stop_margin=2)
    assert run(of_the_baseline).job_id == base.job_id


# ---------------------------------------------------------------------------------------------- the
# order of pairs


def sample(index: int, verdict: Verdict, reason: FinishReason = FinishReason.stop) -> Sample:
    return Sample(Answer("text", [1], reason, verdict=verdict), "sha", 3, 0.1, index)


@pytest.fixture
def until(tmp_path: Path) -> EarlyStop:
    """What watches a job of 30 questions whose baseline has solved all of them."""
    return EarlyStop("quantization=none", Job("gsm8k-base", tmp_path), [True] * 30, [False] * 30, range(30))


def test_pairs_are_looked_at_in_the_order_of_the_questions(until: EarlyStop) -> None:
    wrong = [sample(index, Verdict.wrong) for index in range(30)]
    assert until.start({7: wrong[7]}) is None
    for one in reversed(wrong[1:20]):  # the first question takes longest
        assert until.on_answer(one) is None
    assert until.asked == 0
    assert until.on_answer(wrong[0]) == until.asked == until.bets.pairs.sequential.losses == 8
    assert until.progress_fields()["after"].startswith("8 questions: difference −100.0 points [−100.0, −")
    assert until.start(dict(enumerate(wrong[:8]))) == 8  # as the next start finds them


def test_answers_that_were_cut_off_decide_nothing(tmp_path: Path) -> None:
    def decided(mine: Verdict, theirs: bool, is_cut_off: bool) -> Side:
        job = EarlyStop(
            "quantization=none", Job("gsm8k-base", tmp_path), [theirs] * 30, [is_cut_off] * 30, range(30)
        )
        job.start({index: sample(index, mine) for index in range(30)})
        return job.bets.decision

    assert decided(Verdict.wrong, True, False) is Side.worse
    assert decided(Verdict.cut_off, True, False) is Side.open, "they might all be right"
    assert decided(Verdict.correct, False, False) is Side.better
    assert decided(Verdict.correct, False, True) is Side.open, "the baseline's might all be right"


def test_with_a_margin_a_job_stops_when_that_is_decided_and_not_before(tmp_path: Path) -> None:
    def ended(marks: list[tuple[bool, bool]], **settings: Any) -> EarlyStop:
        job = EarlyStop(
            "quantization=none",
            Job("gsm8k-base", tmp_path),
            [their for _, their in marks],
            [False] * len(marks),
            range(len(marks)),
            **settings,
        )
        verdicts = {True: Verdict.correct, False: Verdict.wrong}
        job.start({index: sample(index, verdicts[ours]) for index, (ours, _) in enumerate(marks)})
        return job

    alike = [(True, True)] * 400
    assert (ended(alike).asked, format_interim_verdict(ended(alike).bets)) == (400, UNDECIDED)
    as_good = ended(alike, margin=0.02)
    assert format_interim_verdict(as_good.bets) == "no loss above 2 points"
    assert as_good.asked < ended(alike, margin=0.02, comparisons=5).asked < 400
    assert (
        as_good.facts["early_stop_verdict"]
        == f"no loss above 2 points after {as_good.asked} of 400 questions"
    )
    assert as_good.progress_fields()["after"].endswith(", no loss above 2 points")
    worse = [(False, True)] * 8 + alike
    assert (ended(worse).asked, format_interim_verdict(ended(worse).bets)) == (8, "worse")
    within = ended(worse, margin=0.2)
    assert format_interim_verdict(within.bets) == "worse, but by less than 20 points"
    assert within.asked > 8
    undecided = ended(worse[:20], margin=0.2)
    assert (undecided.asked, format_interim_verdict(undecided.bets)) == (
        20,
        "worse, and undecided within 20 points",
    )
    assert (
        format_interim_verdict(ended([(False, True)] * 60, margin=0.02).bets) == "worse by more than 2 points"
    )
    assert ended([(True, False)] * 60, margin=0.02).asked <= 8


def test_an_error_is_no_pair_and_does_not_keep_others_waiting(until: EarlyStop) -> None:
    wrong = {index: sample(index, Verdict.wrong) for index in range(9)}
    failed = sample(2, Verdict.cut_off, FinishReason.error)
    assert until.start({index: it for index, it in wrong.items() if index != 2}) is None
    assert until.asked == 2
    assert until.on_answer(failed) == 9
    assert (until.bets.pairs.sequential.num_pairs, until.bets.decision) == (8, Side.worse)
    assert until.metrics["questions_asked"] == 9


def test_never_more_are_under_way_than_were_needed_already(until: EarlyStop) -> None:
    assert [until.max_in_flight(ended) for ended in (0, 31, 32, 200)] == [32, 32, 32, 200]
    assert replace(until, min_ahead=64).max_in_flight(10) == 64
