"""The sentences of reasons: why a candidate is before another one, and why one is rejected."""

from __future__ import annotations

import pytest

from runner.options.advise.accuracies import RecordedAccuracy
from runner.options.advise.recorded_kl import RecordedKl
from runner.options.advise.render.notes import NOTES
from runner_base.notes import Note, note
from runner_base.render.notes import render_note

ACCURACIES = {
    "own": RecordedAccuracy("job", 67, 200, 200, None),
    "other": RecordedAccuracy("job", 71, 200, 200, None),
}
KLS = {
    "own": RecordedKl("job", 0.001, 0.0008, 0.0012, "plain", 200, ()),
    "other": RecordedKl("job", 0.02, None, None, "plain", 200, ()),
}
PAIR = {"each_s": 1.2, "other_s": 1.0}


@pytest.mark.parametrize(
    ("fact", "sentence"),
    [
        (
            note(
                "level",
                other=("quantization=int8",),
                reason=note("reason", why=note("alike"), known=note("accuracy_unknown")),
            ),
            "level with quantization=int8: no criterion prefers one of the two; both accuracies are unmeasured",
        ),
        (
            note("more_accurate", value=0.15, interval=(0.1, 0.2), questions=2000, is_paired=True, p=1.9e-9),
            "the accuracy is +15.0 points [+10.0, +20.0] higher on the same 2,000 questions (p = 1.9e-09)",
        ),
        (
            note("more_accurate", value=0.15, interval=(0.1, 0.2), questions=200, is_paired=False, p=0.01),
            "the accuracy is +15.0 points [+10.0, +20.0] higher on questions that are not paired (p = 0.01)",
        ),
        (
            note("no_difference", **ACCURACIES),
            "accuracy does not differ significantly (33.5 % [27.3, 40.3] of 200 and 35.5 % [29.2, 42.3] of 200)",
        ),
        (note("accuracies_incomparable"), "their recorded accuracies cannot be compared"),
        (
            note("accuracy_of_one_unknown", other=("quantization=int8",)),
            "the accuracy of quantization=int8 is not measured",
        ),
        (note("accuracy_of_one_unknown", other=()), "the accuracy of this candidate is not measured"),
        (
            note("is_reference", **KLS),
            "this candidate is the reference model plain. The next candidate has KL 0.02 nats/token",
        ),
        (
            note("closer", **KLS),
            "it is closer to plain: KL 0.001 [0.0008, 0.0012] instead of 0.02 nats/token",
        ),
        (
            note("published_loss", quantization="none", other="nf4"),
            "published tests of other models find less loss for none than for nf4",
        ),
        (
            note("no_worse", seconds=(1.0, 4.0), mib=(994, 1064)),
            "this candidate is better in time (1.00 s per question instead of 4.00), memory (994 MiB instead of 1,064), and no other recorded value is worse",
        ),
        (note("named"), "this is the requested model"),
        (
            note("time_unknown", each_s=1.2),
            "this candidate takes 1.20 s per question, but the time of the other candidate is unknown",
        ),
        (note("faster", **PAIR), "estimated to be faster: 1.20 s per question instead of 1.00"),
        (note("faster_at_most", **PAIR), "estimated to take at most 1.20 s per question instead of 1.00"),
        (
            note("recorded_time", other=("quantization=int8",), spread=0.85, **PAIR),
            "measured here (1.20 s per question), quantization=int8 only estimated (1.00 s, ± 85%)",
        ),
        (note("less_memory", mib=1000.0, other_mib=2000.0), "less memory: 1,000 MiB instead of 2,000"),
        (
            note("size_unknown"),
            "the model's size is unknown without a download. Give model.name=FOLDER or a preset",
        ),
        (note("out_of_reach", error="why"), "why"),
        (
            note("too_large", needed_mib=1000.4, allowed_mib=1000.1),
            "the job needs 1,000.4 MiB even with batch size 1, but the limit is 1,000.1 MiB",
        ),
        (note("too_slow", each_s=2.0, limit_s=1.5), "one question takes about 2.0 s, but the limit is 1.5"),
    ],
)
def test_a_reason_has_a_sentence(fact: Note, sentence: str) -> None:
    assert render_note(fact, NOTES) == sentence
