from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from raising import raises
from scripted import Reply, Scripted
from tasking import work

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.resolved import resolve_job
from runner.config.root import RunnerConfig
from runner.config.wording import PromptStyle
from runner.datasets.questions import load_questions
from runner.records.jobs import Job, Recorder
from runner.tasks import named_job
from runner.tasks.base import Task, render_requested_prompts
from runner.tasks.gsm8k import task as gsm8k
from runner.tasks.gsm8k.judging import Judge
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import JobFailed, RunRecordError
from runner_base.notes import note
from runner_base.result import Answer, FinishReason, Sample, Verdict
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

Make = Callable[..., RunnerConfig]
SAMPLED = GenerationConfig(temperature=0.7)


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
    assert [written.samples[i].answer.verdict for i in range(6)] == [
        Verdict.correct,
        Verdict.wrong,
        Verdict.no_answer,
        Verdict.cut_off,
        Verdict.correct,
        Verdict.cut_off,
    ]
    found = written.done[2].answer.extracted
    assert found == {"strict": None, "flexible": golds[2], "boxed": None, "the_answer_is": None}
    metrics = result.metrics
    assert metrics["accuracy"] == pytest.approx(2 / 6)
    assert (metrics["correct"], metrics["wrong"], metrics["no_answer"], metrics["cut_off"]) == (2, 1, 1, 2)
    assert (metrics["prompt_tokens"], metrics["new_tokens"], metrics["n"]) == (60, 18, 6)
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    assert metrics["lora_modules"] == 2
    assert metrics["errors"] == 1
    assert "1 of 6 prompts ended in an error. First error (prompt 5): boom" in str(
        result.found_problems_message
    )


def test_all_errors_fail_the_job(make_config: Make, recorder: Callable[[], Recorder]) -> None:
    with raises(JobFailed, "failed", "gsm8k"):
        work(gsm8k, make_config(), recorder(), Scripted(dict.fromkeys(range(4), ("", FinishReason.error))))


def test_resume_asks_only_for_what_is_missing(make_config: Make, recorder: Callable[[], Recorder]) -> None:
    config = make_config(task=Gsm8kConfig(limit=4))
    answers = dict.fromkeys(range(4), ("#### 1", FinishReason.stop))
    whole = work(gsm8k, config, recorder(), Scripted(answers))
    lines = recorder().job.samples_path.read_text().splitlines(keepends=True)
    # torn while it was written
    recorder().job.samples_path.write_text("".join(lines[:2]) + lines[2][:20])
    engine = Scripted(answers)
    again = work(gsm8k, config, recorder(), engine)
    assert sorted(map(int, engine.asked)) == [0, 1]  # 3 and 2 had been answered first
    assert again.metrics["accuracy"] == whole.metrics["accuracy"]
    assert again.notes == ["2 of 4 samples come from an earlier, interrupted run of this job"]
    assert len(recorder().done) == 4


def test_several_answers_elect_one_and_a_kill_asks_whole_questions_again(
    make_config: Make, recorder: Callable[[], Recorder]
) -> None:
    config = make_config(task=Gsm8kConfig(limit=3, samples=4), generation=SAMPLED)
    golds = [item.gold for item in gsm8k.prepare(config).items]
    right = [(f"so\n#### {gold}", FinishReason.stop) for gold in golds]
    wrong, silent, cut = (
        ("#### 1", FinishReason.stop),
        ("?", FinishReason.stop),
        ("12", FinishReason.length),
    )
    answers: dict[int, Reply | list[Reply]] = {
        0: [wrong, right[0], right[0], silent],
        1: [wrong, right[1], wrong, right[1]],  # a tie: the first to come
        2: [cut, cut, cut, cut],
    }
    written = recorder()
    result = work(gsm8k, config, written, Scripted(answers))
    assert [written.done[i].answer.verdict for i in range(3)] == [
        Verdict.correct,
        Verdict.wrong,
        Verdict.cut_off,
    ]
    first = written.done[0]
    assert first.choices is not None
    assert [one.verdict for one in first.choices] == [
        Verdict.wrong,
        Verdict.correct,
        Verdict.correct,
        Verdict.no_answer,
    ]
    assert [one.text for one in first.choices] == [wrong[0], right[0][0], right[0][0], silent[0]]
    found = {"strict": golds[0], "flexible": golds[0], "boxed": None, "the_answer_is": None}
    assert first.choices[1].extracted == found == first.answer.extracted
    assert first.answer.text == right[0][0]
    metrics = result.metrics
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert (metrics["answers_each"], metrics["tied_votes"]) == (4, 1)
    assert (metrics["prompt_tokens"], metrics["new_tokens"], metrics["stopped_by_length"]) == (30, 36, 4)
    assert metrics["pass_at_k/1"] == metrics["maj_at_k/1"] == pytest.approx((1 / 2 + 1 / 2) / 3)
    assert metrics["pass_at_k/4"] == pytest.approx(2 / 3)
    assert metrics["maj_at_k/4"] == pytest.approx((1 + 1 / 2) / 3)
    assert [row["k"] for row in result.rows] == [1, 2, 4]
    lines = recorder().job.samples_path.read_text().splitlines(keepends=True)
    recorder().job.samples_path.write_text("".join(lines[:2]) + lines[2][:200])
    engine = Scripted(answers)
    again = work(gsm8k, config, recorder(), engine)
    assert engine.asked == [0]  # 2 and 1 had been answered first
    measured = {"peak_rss_mib": 0, "right_answer_s": 0}
    assert again.metrics | measured == metrics | measured
    with raises(RunRecordError, "damaged"):
        work(gsm8k, make_config(task=Gsm8kConfig(limit=3, samples=2), generation=SAMPLED), recorder(), engine)


def test_prompts_are_shown_as_the_model_sees_them_without_its_weights(make_config: Make) -> None:
    def shown(**keys: Any) -> str:
        task = Gsm8kConfig(limit=3, **keys)
        config = make_config(model=LocalModelConfig(name="embedded"), task=task)
        return render_requested_prompts(cast(Task, gsm8k), gsm8k.prepare(config), resolve_job(config))

    asked = [item.question for item in load_questions(Gsm8kConfig(limit=3))]
    assert shown(show_prompt=2, instruction="", system="Be brief.") == "\n".join(
        f"prompt {number} after the chat template:\n<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n{asked[number]}<|im_end|>\n<|im_start|>assistant\n"
        for number in range(2)
    )
    text = shown(show_prompt=1, prompt=PromptStyle.text)
    assert text == f"prompt 0 after the chat template:\nQuestion: {asked[0]}\nAnswer:"
    assert shown() == ""
    stub = make_config(task=Gsm8kConfig(limit=1, show_prompt=5, instruction="Go."))
    assert gsm8k.render_shown_prompts(gsm8k.prepare(stub), resolve_job(stub)).endswith(f"\n{asked[0]}\n\nGo.")


def test_identity_follows_the_content_of_the_data(make_config: Make, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    first, copy, other = tmp_path / "a.jsonl", tmp_path / "b" / "a.jsonl", tmp_path / "c.jsonl"
    for file, gold in ((first, 1), (copy, 1), (other, 2)):
        file.write_text(f'{{"question": "Q?", "answer": "#### {gold}"}}\n')
    hashes = [
        gsm8k.prepare(make_config(task=Gsm8kConfig(data=str(file)))).hashes for file in (first, copy, other)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_answer_joins_the_family_of_questions_that_another_job_names(
    make_config: Make, tmp_path: Path
) -> None:
    file = tmp_path / "twins.jsonl"
    file.write_text('{"question": "1 + 1?", "answer": 2, "story": "sums"}\n')
    plain, named = (Gsm8kConfig(data=str(file), cluster=cluster) for cluster in (None, "story"))
    before, after = (gsm8k.prepare(make_config(task=task)) for task in (plain, named))
    assert "clusters" not in before.hashes
    assert before.hashes == {key: value for key, value in after.hashes.items() if key != "clusters"}
    assert "clusters" in after.ignored_for_reuse
    items = dict(enumerate(after.items))
    sample = Judge(plain, dict(enumerate(before.items))).judge_sample(answered("#### 2")).sample
    assert sample.cluster is None
    judge = Judge(named, items)
    assert judge.rejection_reason(sample) is not None
    reused = judge.adopt_sample(sample)
    assert reused is not None
    assert reused.cluster == "sums"
    assert Judge(named, {}).adopt_sample(sample) is None


IDS = {  # of the last version whose default was task.cluster=null
    "task.limit=20": "gsm8k-a249025ef0e0",
    "task.data=embedded_hard": "gsm8k-5e7ad2bbe9cd",
    "task.data=embedded_hard5": "gsm8k-2fe19b4fdba1",
    "task.cluster=template": "",
    "task.early_stop_vs='generation=sampling'": "gsm8k-e54bd4381f9b",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("override", "job_id"), IDS.items())
def test_clusters_by_default_change_no_id(override: str, job_id: str) -> None:
    assert id_of(override) == (job_id or id_of())
    without = id_of(override, "task.cluster=null")
    if "early_stop" in override:
        assert without == job_id
    else:
        assert without != id_of(override)


def id_of(*overrides: str) -> str:
    """Return the id of a stub's job."""
    config = to_runner_config(*compose_job(["model=stub", *overrides]))
    return named_job.build_job(config, gsm8k.VERSION, gsm8k.prepare(config).hashes).job_id


@pytest.mark.parametrize("early_stop_vs", [None, "seed=1"])
def test_a_job_that_began_with_another_default_goes_on(early_stop_vs: str | None) -> None:
    clustered = Gsm8kConfig(limit=1, cluster="template")
    plain = Gsm8kConfig(limit=1, early_stop_vs=early_stop_vs)
    judges = [Judge(task, dict(enumerate(load_questions(task)))) for task in (clustered, plain)]
    recorded = [judge.judge_sample(answered("#### 2")).sample for judge in judges]
    assert recorded[0].cluster is not None
    assert recorded[1].cluster is None
    assert judges[0].rejection_reason(recorded[1]) is None
    is_accepted = judges[1].rejection_reason(recorded[0]) is None
    assert is_accepted == (early_stop_vs is not None), "an explicit null is another job"
    other = replace(recorded[0], cluster="of nobody")
    assert judges[0].rejection_reason(other) == note("judged_differently")


def answered(text: str) -> Sample:
    """Return a sample without a verdict."""
    return Sample(Answer(text, [1], FinishReason.stop), "prompt", 9, 0.1, 0)


@pytest.mark.parametrize(("text", "is_loop"), [("we add the pears again, and " * 9, True), ("so", False)])
def test_a_job_of_an_earlier_version_goes_on_although_the_verdict_on_a_loop_was_open(
    text: str, is_loop: bool
) -> None:
    judge = Judge(Gsm8kConfig(limit=1), dict(enumerate(load_questions(Gsm8kConfig(limit=1)))))
    sample = judge.judge_sample(Sample(Answer(text, [1], FinishReason.length), "prompt", 9, 0.1, 0)).sample
    earlier = replace(sample, answer=replace(sample.answer, verdict=Verdict.cut_off))
    assert judge.rejection_reason(earlier) is None
    wrong = replace(sample, answer=replace(sample.answer, verdict=Verdict.wrong))
    assert (judge.rejection_reason(wrong) is None) == (wrong == sample)
    assert (sample.answer.verdict is Verdict.cut_off) != is_loop
