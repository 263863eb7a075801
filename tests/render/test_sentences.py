"""How notes of jobs and grids are worded: those whose sentence depends on their values."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from runner.core.finishing import LimitCost
from runner.render.notes import note_text, render_cells, render_notes
from runner.render.plans import memory_line, state_text
from runner.render.titles import sustainable_rate_text
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
        (note("asked_again_after_error", count=1), "1 sample that had ended in an error was asked again"),
        (note("asked_again_after_error", count=2), "2 samples that had ended in an error were asked again"),
        (
            note("needless_scaling", rope="yarn", positions=4096, is_harmless=False),
            "rope=yarn: no text exceeds 4,096 positions, the model's own: scaling can only hurt here",
        ),
        (
            note("adapters", mib={"a": 1.5, "b": 2}),
            "adapters beside the weights, in float32: a 1.50 MiB, b 2.00 MiB",
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
            "which generation.max_new_tokens lets 95% finish cannot be told from these answers: 60% finished within 30. "
            "60 would take at most 120 tokens more, 1.2 s at this job's speed",
        ),
        (
            note("enough_tokens", wanted=0.95, tokens=20, low=20, high=None, price=None),
            "generation.max_new_tokens=20 lets 95% of the answers finish (95 % interval 20 to more)",
        ),
        (
            note("enough_tokens", wanted=0.95, tokens=40, low=None, high=50, price=LimitCost(300, None)),
            "generation.max_new_tokens=40 lets 95% of the answers finish (95 % interval at most that to 50), and would "
            "take at most 300 tokens more",
        ),
        (
            note("answers_not_compared", reasons=((3, "takes too long"), (5, "is a set"))),
            "2 answers could not be compared with the right one, and counts as wrong: question 3 takes too long, "
            "question 5 is a set",
        ),
        (
            note("twins", only_original=9, only_twin=0, p=0.004, is_hint=True),
            "a hint of contamination: 9 questions were solved and their copies with other numbers were not, 0 the other "
            "way round (exact McNemar, p = 0.004): the model may know these questions by heart",
        ),
        (
            note("twins", only_original=1, only_twin=0, p=1.0, is_hint=False),
            "no sign of memorising is shown: 1 questions were solved and their copies with other numbers were not, 0 the "
            "other way round (exact McNemar, p = 1)",
        ),
        (
            note("position_bias", p=0.001, letter="A", share=0.5, expected=0.25, ends=(0.25, 0.1, 0.4)),
            "position bias (p = 0.001): A is chosen in 50.0% of the answers, and would be in 25.0% without (+25.0 points, "
            "95 % +10.0 to +40.0)",
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
            "stops early against quantization=none (gsm8k-1, done), once it is decided whether within 2 points; asks at "
            "most 1,319 questions; error 5 %",
        ),
        (
            note("text_without_prompt", number=0, window=512, last=None, contexts=[]),
            "text 0 has no prompt: it is scored in windows of 512 tokens",
        ),
        (
            note("texts_too_short", texts=[2], total=4, tokens=148),
            "left out, in all contexts: 1 text of 4 with fewer than 148 tokens (number 2)",
        ),
        (
            note("compared_with_kept", kept=64, drawn=8, reason=note("has_begun"), fix="task.exact=true"),
            "compared with the 64 most probable tokens that the reference kept, and 8 drawn ones, because it has begun so. "
            "For whole distributions add task.exact=true",
        ),
        (
            note("both_too_large", needed_mib=900.0, share=0.8, free_mib=1000.0),
            "both models beside each other are predicted to need 900 MiB, more than 80% of the 1,000 MiB that are free",
        ),
        (
            note("fewer_rows", shortage=SequenceShortage(rows=3, asked_rows=8)),
            "memory has room for 3 rows at once, where 8 would go together",
        ),
        (
            note("knee", **KNEE),
            f"the knee: 2 requests/s is the highest rate that it can keep up with: {RULE}",
        ),
        (
            note("knee", **KNEE | {"is_highest": True}),
            f"no knee was found up to 2 requests/s, the highest rate that was tried: {RULE}",
        ),
        (
            note("knee", **KNEE | {"rate": None}),
            f"no knee: even 1 requests/s is more than it can keep up with ({RULE})",
        ),
        (
            note("answers_differ", differing=24, answers=24, interval=(0.858, 1.0), dtype="bfloat16"),
            "24 of 24 answers differ from those without guesses (85.8 to 100.0 %, exact 95 % interval): bfloat16 rounds a "
            "pass over several tokens otherwise than single steps",
        ),
        (
            note("answers_differ", differing=0, answers=24, interval=(0.0, 0.142), dtype="float32"),
            "none of 24 answers differs from that without guesses: up to 14.2 % may (exact two-sided 95 % interval)",
        ),
        (
            note(
                "noisy",
                reasons=(note("rates_vary", share=0.15), note("other_work", what="beside other work")),
            ),
            "too noisy to tell: the machine's own rates vary by 15%; beside other work",
        ),
        (
            note("guesses_known", asked="draft", jobs=2, tokens=(2.0, 4.0)),
            "generation.speculate=draft: a pass gives a row 2.0 to 4.0 tokens, as 2 finished jobs with this model had them",
        ),
        (
            note("guesses_unknown", asked="ngram", all_right_s=7.0, none_right_s=70.0),
            "generation.speculate=ngram: 7.0 s with all guesses right, 1:10 with none; no finished job here says how many "
            "are",
        ),
        (
            note("calibrating", count=1, total=2, seconds=12.0, limit_s=inf),
            "calibrating 1 of 2 formats, about 12 s; each is kept for later plans on this machine; plan=quick leaves this "
            "out",
        ),
        (
            note("models", text="files=models", sizes_mib=[1.0, None], reference="b.gguf (F16, 1.0 MiB)"),
            "files=models: 2 models, 1.0 MiB and 1 of unknown size; reference: b.gguf (F16, 1.0 MiB)",
        ),
        (
            note("left_out", what=note("no_language_model", path=Path("a.gguf"), kind="clip")),
            "left out: a.gguf is no language model (clip)",
        ),
        (
            note("keys_left_out", keys=["task.a", "task.b"], choices="task=sweep"),
            "task.a, task.b are passed to the jobs that have them, and left out with task=sweep",
        ),
        (
            note("detectable", **DETECTABLE),
            "500 questions a job could detect a difference of 6.1 points from quantization=none with 80% power "
            "(2 comparisons, if 10% of the verdicts differ, as is usual)",
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
            "gsm8k test: 500 questions a job are too few to detect any difference from quantization=none with 80% power "
            "(1 comparison, if 10.0% of the verdicts differ, as in 1 job that is done, so that no difference is larger "
            "than 10.0 points)",
        ),
        (
            note("detectable", **DETECTABLE | {"least": None, "by_bets": True, "comparisons": 1}),
            "500 questions a job could detect only the largest difference from quantization=none with 80% power "
            "(1 comparison, if 10% of the verdicts differ, as is usual; by bets, as jobs that may stop early are compared, "
            "so that no difference is larger than 10.0 points)",
        ),
        (
            note("questions_for_margin", **MARGIN),
            "    about 2,340 questions a job would show 'as good within 2 points' if neither is better, and take 2:20 for "
            "these 3 jobs here",
        ),
        (
            note("questions_for_margin", **MARGIN | {"there": 1319}),
            "    about 2,340 questions a job would show 'as good within 2 points' if neither is better: there are only "
            "1,319",
        ),
        (
            note("overlaps", rivals=2),
            "  its interval overlaps with those of 2 other trials: these scores do not show which is best",
        ),
        (
            note("check_of_best", questions=20, commands=["runner -m", "runner-compare"]),
            "  a check of it and the next best on 20 questions that the search has not asked (or more, with a larger "
            "task.limit):\n  runner -m\n  runner-compare",
        ),
        (note("added_for_others", jobs=1), "added, because 1 job of this grid is compared with it"),
    ],
    ids=lambda it: it.code if isinstance(it, Note) else "",
)
def test_a_note_is_worded(noted: Note, text: str) -> None:
    assert note_text(noted) == text


def test_what_is_text_already_stays() -> None:
    assert render_notes(["of an earlier start", note("one_text", "warning")]) == [
        "of an earlier start",
        "one text: its windows count as samples, although they are not independent",
    ]
    assert render_cells([{"n": 1, "note": note("too_short", tokens=3, wanted=4)}, {"n": 2, "note": ""}]) == [
        {"n": 1, "note": "an answer had 3 tokens instead of 4"},
        {"n": 2, "note": ""},
    ]


def test_a_plan_says_how_much_memory_is_free() -> None:
    shown = "memory as predicted; peak: weights, KV cache and activations together, without the 600 MiB of the worker process"
    assert memory_line(600, 1234.0, False, []) == f"{shown}. Free: 1,234 MiB of main memory"
    assert memory_line(600, 1234.0, True, [80.0]) == (
        f"{shown}. Free: 1,234 MiB of main memory below the control group's limit, 80 MiB of GPU 0"
    )
    assert [state_text("to do", is_same) for is_same in (True, False)] == [
        "to do (the same job as one above)",
        "to do",
    ]


def test_the_highest_rate_of_a_sweep() -> None:
    assert sustainable_rate_text(None, False) == "none of the rates that were tried"
    assert sustainable_rate_text(2.0, False) == "2 requests/s"
    assert sustainable_rate_text(2.0, True) == "2 requests/s or more: the highest that was tried"
