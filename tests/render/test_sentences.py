"""How notes of jobs and grids are worded: those whose sentence depends on their values."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from runner.core.finishing import LimitCost
from runner.render.notes import format_note, render_note_cells, render_notes
from runner.render.plans import format_available_memory_lines, format_plan_total_line, job_state_text
from runner.render.titles import format_sustainable_request_rate
from runner_base.notes import Note, note
from runner_engine.sessions import SequenceShortage

DETECTABLE = {
    "where": None,
    "questions": 500,
    "names": ["quantization=none"],
    "power": 0.8,
    "least": 0.0612,
    "may_detect_largest": True,
    "comparisons": 2,
    "disagreement": 0.1,
    "pairs": 0,
    "by_bets": False,
}
KNEE = {"rate": 2.0, "is_highest": False, "lowest": 1.0, "latency_factor": 2.0, "answered_share": 0.9}
RULE = "p95 of whole answers within 2 × that of the lowest rate, and answers at 90% of the requests' rate or more"
MARGIN = {"margin": 0.02, "needed": 2340, "there": None, "jobs": 3, "seconds": 140.0}


@pytest.mark.parametrize(
    ("noted", "text"),
    [
        (
            note("asked_again_after_error", count=1),
            "1 question was asked again, because the request failed in an earlier run",
        ),
        (
            note("asked_again_after_error", count=2),
            "2 questions were asked again, because the request failed in an earlier run",
        ),
        (
            note("needless_scaling", rope="yarn", positions=4096, is_harmless=False),
            "rope=yarn: the longest sequence fits into the model's 4,096 positions, so RoPE scaling "
            "can only reduce the quality. Omit rope",
        ),
        (
            note("adapters", mib={"a": 1.5, "b": 2}),
            "the float32 adapters need memory in addition to the weights: a 1.50 MiB, b 2.00 MiB",
        ),
        (
            note(
                "enough_tokens_unknown",
                wanted=0.95,
                reached=0.6,
                limit=30,
                longer=60,
                price=LimitCost(120, 1.2),
            ),
            "only 60% of the answers finished within 30 tokens. That is too few to estimate "
            "generation.max_new_tokens for 95% of the answers. Try 60, which costs at most 120 more "
            "tokens, 1.2 s at this job's speed",
        ),
        (
            note("enough_tokens", wanted=0.95, tokens=20, low=20, high=None, price=None),
            "generation.max_new_tokens=20 would let 95% of the answers finish (95 % interval: 20 to more "
            "than that)",
        ),
        (
            note("enough_tokens", wanted=0.95, tokens=40, low=None, high=50, price=LimitCost(300, None)),
            "generation.max_new_tokens=40 would let 95% of the answers finish (95 % interval: 40 or fewer "
            "to 50). It costs at most 300 more tokens",
        ),
        (
            note("answers_not_compared", reasons=((3, "takes too long"), (5, "is a set"))),
            "2 answers count as wrong, because the gold answer could not be compared: question 3 "
            "takes too long, question 5 is a set",
        ),
        (
            note("twins", only_original=9, only_twin=0, p=0.004, is_hint=True),
            "possible contamination: 9 questions were solved only with the original numbers, and 0 "
            "only with changed numbers (exact McNemar test, p = 0.004). The model may have seen "
            "these questions in training",
        ),
        (
            note("twins", only_original=1, only_twin=0, p=1.0, is_hint=False),
            "no contamination found: 1 question was solved only with the original numbers, and 0 "
            "only with changed numbers (exact McNemar test, p = 1)",
        ),
        (
            note("position_bias", p=0.001, letter="A", share=0.5, expected=0.25, ends=(0.25, 0.1, 0.4)),
            "position bias (p = 0.001): the model chooses A in 50.0% of the answers, but 25.0% is "
            "expected. Difference: +25.0 points, 95 % interval +10.0 to +40.0",
        ),
        (
            note(
                "stops_early_against",
                named_as="quantization=none",
                job="gsm8k-1",
                state="done",
                margin=0.02,
                count=1319,
                comparisons=1,
            ),
            "early stopping: the job ends when a test decides whether the loss compared with "
            "quantization=none (gsm8k-1, done) is within 2 points, or after 1,319 questions. "
            "Significance level 5 %",
        ),
        (
            note("text_without_prompt", number=0, window=512, last=None, contexts=[]),
            "document 0 has no prompt: the document is scored in windows of 512 tokens",
        ),
        (
            note("texts_too_short", texts=[2], total=4, tokens=148),
            "1 document is excluded as shorter than 148 tokens (4 documents in total, excluded: 2)",
        ),
        (
            note("compared_with_kept", kept=64, drawn=8, reason=note("has_begun"), fix="task.exact=true"),
            "the divergence is an estimate, because an earlier, interrupted run of this job "
            "estimated the divergence too. The reference stored 64 top tokens and 8 sampled tokens "
            "per position. For the exact divergence, add task.exact=true",
        ),
        (
            note("both_too_large", needed_mib=900.0, share=0.8, free_mib=1000.0),
            "both models need an estimated 900 MiB, more than 80% of the 1,000 MiB of free memory",
        ),
        (
            note("fewer_rows", shortage=SequenceShortage(rows=3, asked_rows=8)),
            "memory limits the batch to 3 of 8 requested sequences",
        ),
        (
            note("knee", **KNEE),
            "the highest tested rate that the engine sustains is 2 requests/s. Criterion: p95 "
            "latency is at most 2 × the p95 latency at the lowest rate, and throughput is at least "
            "90% of the request rate",
        ),
        (
            note("knee", **KNEE | {"is_highest": True}),
            "the engine sustains 2 requests/s, the highest tested rate. Criterion: p95 latency is at "
            "most 2 × the p95 latency at the lowest rate, and throughput is at least 90% of the "
            "request rate",
        ),
        (
            note("knee", **KNEE | {"rate": None}),
            "the engine does not sustain even 1 requests/s. Criterion: p95 latency is at most 2 × "
            "the p95 latency at the lowest rate, and throughput is at least 90% of the request rate",
        ),
        (
            note("answers_differ", differing=24, answers=24, interval=(0.858, 1.0), dtype="bfloat16"),
            "24 of 24 answers change with draft tokens (exact 95 % interval: 85.8 to 100.0 %). In "
            "bfloat16, a pass over several tokens rounds differently than a pass over one token",
        ),
        (
            note("answers_differ", differing=0, answers=24, interval=(0.0, 0.142), dtype="float32"),
            "all 24 answers are the same with and without draft tokens. Upper limit of changed "
            "answers: 14.2 % (exact 95 % interval, two-sided)",
        ),
        (
            note(
                "noisy",
                reasons=(note("rates_vary", share=0.15), note("other_work", what="beside other work")),
            ),
            "too noisy for a conclusion: the measured hardware limits vary by 15%; beside other work",
        ),
        (
            note("guesses_known", asked="draft", jobs=2, tokens=(2.0, 4.0)),
            "generation.speculate=draft: this model generated 2.0 to 4.0 tokens per pass in 2 finished jobs",
        ),
        (
            note("guesses_unknown", asked="ngram", all_right_s=7.0, none_right_s=70.0),
            "generation.speculate=ngram: the job takes 7.0 s if all draft tokens are accepted, 1:10 "
            "if none are accepted. The acceptance rate is unknown",
        ),
        (
            note("calibrating", count=1, total=2, seconds=12.0, limit_s=inf),
            "measuring the speed of 1 of 2 formats takes about 12 s. Later plans on this machine "
            "reuse the results. plan=quick skips this",
        ),
        (
            note("models", text="files=models", sizes_mib=[1.0, None], reference="b.gguf (F16, 1.0 MiB)"),
            "files=models: 2 models, 1.0 MiB and 1 of unknown size; reference: b.gguf (F16, 1.0 MiB)",
        ),
        (
            note("left_out", what=note("no_language_model", path=Path("a.gguf"), kind="clip")),
            "left out: a.gguf is not a language model (clip)",
        ),
        (
            note("keys_left_out", keys=["task.a", "task.b"], choices="task=sweep"),
            "task.a, task.b: jobs with task=sweep ignore the override, because they lack these keys",
        ),
        (
            note("detectable", **DETECTABLE),
            "500 questions per job can detect a difference of 6.1 points from quantization=none with "
            "80% power. Assumptions: 2 comparisons; 10% of verdicts differ, a typical value",
        ),
        (
            note(
                "detectable",
                **DETECTABLE
                | {
                    "where": "gsm8k test",
                    "least": None,
                    "may_detect_largest": False,
                    "comparisons": 1,
                    "pairs": 1,
                },
            ),
            "gsm8k test: 500 questions per job are too few to detect any difference from "
            "quantization=none with 80% power. Assumptions: 1 comparison; 10.0% of verdicts differ, "
            "as measured in 1 finished job, so 10.0 points is the largest possible difference",
        ),
        (
            note("detectable", **DETECTABLE | {"least": None, "by_bets": True, "comparisons": 1}),
            "500 questions per job can detect only the largest possible difference from "
            "quantization=none with 80% power. Assumptions: 1 comparison, anytime-valid tests (early "
            "stopping); 10% of verdicts differ, a typical value, so 10.0 points is the largest "
            "possible difference",
        ),
        (
            note("questions_for_margin", **MARGIN),
            "    a job needs about 2,340 questions to show 'no loss above 2 points' between equal "
            "models; these 3 jobs take 2:20 then",
        ),
        (
            note("questions_for_margin", **MARGIN | {"there": 1319}),
            "    a job needs about 2,340 questions to show 'no loss above 2 points' between equal "
            "models, but there are only 1,319",
        ),
        (
            note("overlaps", rivals=2),
            "  not decided: its interval overlaps with those of 2 other trials, so these scores do not "
            "show which one is best",
        ),
        (
            note("check_of_best", questions=20, commands=["runner -m", "runner-compare"]),
            "  To check the best trial and the next best on 20 questions that the search has not "
            "used (task.limit sets the number):\n  runner -m\n  runner-compare",
        ),
        (note("added_for_others", jobs=1), "added, because 1 job of this grid is compared with it"),
    ],
    ids=lambda it: it.code if isinstance(it, Note) else "",
)
def test_a_note_is_worded(noted: Note, text: str) -> None:
    assert format_note(noted) == text


def test_what_is_text_already_stays() -> None:
    assert render_notes(["of an earlier start", note("one_text", "warning")]) == [
        "of an earlier start",
        "there is only one document: its windows count as samples, although they depend on each other",
    ]
    assert render_note_cells(
        [{"n": 1, "note": note("too_short", tokens=3, wanted=4)}, {"n": 2, "note": ""}]
    ) == [{"n": 1, "note": "an answer had 3 tokens instead of 4"}, {"n": 2, "note": ""}]


def test_a_plan_says_how_much_memory_is_free() -> None:
    shown, free = format_available_memory_lines(600, 1234.0, False, [])
    assert "600 MiB" in shown
    assert free == "Free memory: 1,234 MiB of main memory"
    assert format_available_memory_lines(600, 1234.0, True, [80.0])[1] == (
        "Free memory: 1,234 MiB of main memory (limited by the control group), 80 MiB of GPU 0"
    )
    with_cache = format_available_memory_lines(600, 1234.0, False, [], 512.0)
    assert (len(with_cache), "512 MiB" in with_cache[2]) == (3, True)
    assert [job_state_text("to do", is_same) for is_same in (True, False)] == [
        "to do (listed twice)",
        "to do",
    ]


def test_a_plan_ends_with_its_totals() -> None:
    assert format_plan_total_line("2 jobs: 2 to do", 0, False, None, 0.0, False, 0) == "2 jobs: 2 to do"
    assert format_plan_total_line("3 jobs: 3 to do", 2, True, 90.0, 0.5, False, 1) == (
        "3 jobs: 3 to do · 2 models to load per worker · total time 1:30 ± 50% without 1 job of unknown time"
    )
    assert format_plan_total_line("1 job: 1 to do", 1, False, 90.0, 0.5, True, 0) == (
        "1 job: 1 to do · 1 model to load · total time at most 2:15"
    )


def test_the_highest_rate_of_a_sweep() -> None:
    assert format_sustainable_request_rate(None, False) == "none of the tested rates"
    assert format_sustainable_request_rate(2.0, False) == "2 requests/s"
    assert format_sustainable_request_rate(2.0, True) == "2 requests/s or more (the highest tested rate)"
