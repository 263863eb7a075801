"""The order of the candidates, and the reasons that stand in the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from runner.estimates.fit import PROCESS_MIB, MemoryFit
from runner.estimates.speed import Estimate, EstimateBasis
from runner.options.advise.accuracies import RecordedAccuracy, RecordedAnswer
from runner.options.advise.candidates import Candidate
from runner.options.advise.ranking import _rank_with_tolerance, rank_candidates
from runner.options.advise.recorded_kl import RecordedKl
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.machine import MIB
from runner_base.notes import Note
from runner_engine.plan.footprint import Footprint
from runner_engine.quantization import CHOICES

Make = Callable[..., Candidate]


@pytest.fixture
def candidate(make_config: Callable[..., Any]) -> Make:
    def make(
        model: str, seconds: float | None, solved: Sequence[bool] | None = None, quantization: str = "none"
    ) -> Candidate:
        config = make_config(task=Gsm8kConfig(limit=100), quantization=CHOICES[quantization]())
        it = Candidate(
            [f"model={model}", f"quantization={quantization}"], config, model, is_asked=model == "mine"
        )
        it.time = None if seconds is None else Estimate(100 * seconds, 0.2, EstimateBasis.recorded)
        if solved is not None:
            answers = {(number, "?", "1"): RecordedAnswer(right, "") for number, right in enumerate(solved)}
            it.accuracy = RecordedAccuracy("job", sum(solved), len(solved), len(solved), answers)
        return it

    return make


def right(correct: int, n: int = 200) -> list[bool]:
    return [True] * correct + [False] * (n - correct)


def order(*candidates: Candidate) -> list[str]:
    return [it.model for it in rank_candidates(candidates)]


def reasons(candidate: Candidate) -> dict[str, dict[str, object]]:
    """Return the notes on why a candidate is before the next one, by code."""
    assert candidate.before_next is not None
    reason = candidate.before_next.values["reason"]
    assert isinstance(reason, Note)
    parts = [reason.values["why"], reason.values["known"]] if reason.code == "reason" else [reason]
    return {part.code: {**part.values} for part in parts if isinstance(part, Note)}


def test_an_unknown_accuracy_is_said_and_speed_decides_not_size(candidate: Make) -> None:
    large_and_old, small = candidate("large", 6.4), candidate("small", 4.1)
    assert order(large_and_old, small) == ["small", "large"]
    assert reasons(small) == {"faster": {"each_s": 4.1, "other_s": 6.4}, "accuracy_unknown": {}}
    assert large_and_old.before_next is None, "it is the last"


def test_a_difference_decides_only_if_a_test_shows_it(candidate: Make) -> None:
    fast, slow = candidate("fast", 1, right(67)), candidate("slow", 2, right(71))
    assert order(slow, fast) == ["fast", "slow"]
    assert reasons(fast) == {
        "faster": {"each_s": 1, "other_s": 2},
        "no_difference": {"own": fast.accuracy, "other": slow.accuracy},
    }
    slow = candidate("slow", 2, right(97))
    assert order(fast, slow) == ["slow", "fast"]
    why = reasons(slow)["more_accurate"]
    assert (why["value"], why["questions"], why["is_paired"]) == (pytest.approx(0.15), 200, True)
    assert why["p"] == pytest.approx(1.9e-9, rel=0.03)


def test_counts_alone_need_a_larger_difference(candidate: Make) -> None:
    fast, slow = candidate("fast", 1, right(67)), candidate("slow", 2, right(80))
    for it in (fast, slow):
        assert it.accuracy is not None
        it.accuracy = replace(it.accuracy, answers=None)
    assert order(slow, fast) == ["fast", "slow"]
    assert "no_difference" in reasons(fast)
    slow = candidate("slow", 2, right(100))
    assert slow.accuracy is not None
    slow.accuracy = replace(slow.accuracy, answers=None)
    assert order(slow, fast) == ["slow", "fast"]
    assert not reasons(slow)["more_accurate"]["is_paired"]


def test_the_named_model_is_first_unless_another_is_shown_to_be_better(candidate: Make) -> None:
    mine, other = candidate("mine", 9), candidate("other", 1)
    assert order(other, mine) == ["mine", "other"]
    assert reasons(mine) == {"named": {}, "accuracy_unknown": {}}
    mine, other = candidate("mine", 9, right(100)), candidate("other", 1, right(140))
    assert order(mine, other) == ["other", "mine"]


def test_published_losses_count_until_both_accuracies_are_known(candidate: Make) -> None:
    plain, small = candidate("mine", 2, right(100)), candidate("mine", 1, quantization="nf4")
    assert rank_candidates([small, plain]) == [plain, small]
    assert reasons(plain) == {
        "published_loss": {"quantization": "none", "other": "nf4"},
        "accuracy_of_one_unknown": {"other": ("quantization=nf4",)},
    }
    small = candidate("mine", 1, right(101), "nf4")
    assert rank_candidates([plain, small]) == [small, plain], "both are known, and nothing is lost here"


def closeness(kl: float, job: str = "likelihood-1", texts: int = 200, to: str = "plain") -> RecordedKl:
    return RecordedKl(job, kl, 0.8 * kl, 1.2 * kl, to, texts, (("task.split", "test"),))


def test_a_measured_kl_counts_before_published_tests(candidate: Make) -> None:
    other, small = (candidate("mine", 2, quantization="int8"), candidate("mine", 1, quantization="nf4"))
    other.closeness, small.closeness = closeness(0.02), closeness(0.001)
    assert rank_candidates([other, small]) == [small, other], "here nf4 is closer, whatever was published"
    both = {"own": small.closeness, "other": other.closeness}
    assert reasons(small) == {"closer": both, "accuracy_unknown": {}}
    small.closeness = closeness(0.018)
    assert rank_candidates([other, small]) == [small, other], "the intervals overlap, and nf4 is faster"
    assert reasons(small)["no_worse"] == {"seconds": (1, 2), "mib": None}
    for comparable_to_nothing in (closeness(0.001, texts=100), closeness(0.001, to="another"), None):
        small.closeness = comparable_to_nothing
        assert rank_candidates([other, small]) == [small, other], (
            "a KL is recorded, so nothing published counts, and nf4 is faster"
        )
        assert "published_loss" not in reasons(small)
    other.closeness = None
    assert rank_candidates([other, small]) == [other, small]
    assert reasons(other)["published_loss"] == {"quantization": "int8", "other": "nf4"}


def test_the_reference_is_before_what_diverges_from_it(candidate: Make) -> None:
    plain, eight = candidate("mine", 9), candidate("mine", 1, quantization="int8")
    four = candidate("mine", 1, quantization="nf4")
    eight.closeness, four.closeness = (closeness(0.035, "likelihood-8"), closeness(0.34, "likelihood-4"))
    plain.reference_of = frozenset({"likelihood-8", "likelihood-4"})
    assert rank_candidates([four, eight, plain]) == [plain, eight, four]
    both = {"own": eight.closeness.reference_kl(), "other": eight.closeness}
    assert reasons(plain) == {"is_reference": both, "accuracy_unknown": {}}
    assert reasons(eight)["closer"] == {"own": eight.closeness, "other": four.closeness}
    eight.closeness = replace(closeness(0.035, "likelihood-8"), low=None, high=None)
    assert rank_candidates([four, eight, plain])[0] is plain, (
        "also where there were too few texts for an interval"
    )
    plain.reference_of = frozenset()
    assert rank_candidates([four, eight, plain])[0] is not plain, "nothing that was measured speaks for it"


@pytest.mark.parametrize(("spread", "is_faster"), [(0.5, False), (0.1, True)])
@pytest.mark.parametrize("source", [EstimateBasis.recorded, EstimateBasis.guessed])
def test_times_within_their_errors_are_not_called_faster(
    candidate: Make, spread: float, is_faster: bool, source: EstimateBasis
) -> None:
    plain, small = candidate("a", 1.4), candidate("b", 1.0)
    for it in (plain, small):
        assert it.time is not None
        it.time = Estimate(it.time.seconds, spread, source)
    ranked = rank_candidates([plain, small])
    assert (ranked[0] is small) is is_faster
    assert ({"faster", "no_worse"} & {*reasons(ranked[0])} != set()) is is_faster
    if not is_faster:
        assert {*reasons(plain)} == {"alike", "accuracy_unknown"}


def test_files_are_ranked_by_their_kl_to_the_same_reference(candidate: Make) -> None:
    large, close, far = candidate("large", 3), candidate("close", 2), candidate("far", 1)
    close.closeness, far.closeness = closeness(0.001), closeness(0.1)
    assert order(far, close, large) == ["close", "far", "large"]


def test_what_is_timed_is_before_what_is_not(candidate: Make) -> None:
    timed, unknown = candidate("a", 1), candidate("b", None)
    assert order(unknown, timed) == ["a", "b"]
    assert reasons(timed) == {"time_unknown": {"each_s": 1}, "accuracy_unknown": {}}
    assert order(unknown, candidate("c", None)) == ["b", "c"]
    assert {*reasons(unknown)} == {"alike", "accuracy_unknown"}


def test_several_pairs_need_a_stronger_difference_each(candidate: Make) -> None:
    def discordant(first: int) -> list[bool]:
        return [number < first for number in range(200)]

    def six_more() -> tuple[Candidate, Candidate]:
        return candidate("fast", 1, discordant(100)), candidate("slow", 2, discordant(106))

    fast, slow = six_more()
    assert order(fast, slow) == ["slow", "fast"], "six of six pairs: p = 0.031"
    fast, slow = six_more()
    others = [candidate(f"other{number}", 3 + number, discordant(103)) for number in range(3)]
    assert order(fast, slow, *others)[0] == "fast", "ten pairs of candidates are compared"


def test_tests_that_go_round_in_a_circle_end(candidate: Make) -> None:
    def some(model: str, seconds: float, solved: dict[int, int]) -> Candidate:
        it = candidate(model, seconds)
        answers = {(part * 1000 + number, "?", "1"): RecordedAnswer(number < first, "")
                   for part, first in solved.items() for number in range(100)}  # fmt: skip
        it.accuracy = RecordedAccuracy("job", sum(it.solved for it in answers.values()), 200, 300, answers)
        return it

    a, b, c = (some("a", 1, {0: 90, 2: 40}), some("b", 2, {0: 40, 1: 90}), some("c", 3, {1: 40, 2: 90}))
    assert order(c, b, a) == ["a", "b", "c"]


def test_memory_is_a_reason_beyond_the_error_of_its_prediction() -> None:
    assert _rank_with_tolerance([855, 833, 831]) == [0, 0, 0]
    assert _rank_with_tolerance([1000, 800, 840, 860]) == [2, 0, 0, 1]
    assert _rank_with_tolerance([0, 0]) == [0, 0]


def measured(it: Candidate, mib: float, predicted_mib: float = 900, allowed_mib: float = 20_000) -> Candidate:
    it.measured_mib, it.allowed_mib = mib, allowed_mib
    footprint = Footprint({"linear": int((predicted_mib - PROCESS_MIB) * MIB)}, 0, 0, 0, 0)
    it.fit = MemoryFit(footprint, 1, predicted_mib - PROCESS_MIB, {"main memory": allowed_mib - PROCESS_MIB})
    return it


def test_what_was_measured_to_be_slower_and_larger_is_not_first(candidate: Make) -> None:
    plain = measured(candidate("mine", 1), 994, predicted_mib=900)
    int8 = measured(candidate("mine", 4, quantization="int8"), 1064, predicted_mib=800)
    untimed = measured(candidate("mine", None, quantization="nf4"), 850, predicted_mib=700)
    ranked = rank_candidates([int8, plain, untimed])
    assert ranked[0] is plain, (
        "int8 needs less memory by a prediction only, and memory is neither short nor limited"
    )
    assert reasons(plain) == {"no_worse": {"seconds": (1, 4), "mib": (994, 1064)}, "accuracy_unknown": {}}


def test_a_dominated_named_model_is_not_first(candidate: Make) -> None:
    mine = measured(candidate("mine", 2, right(100)), 2000)
    other = measured(candidate("other", 1, right(100)), 1000)
    assert order(mine, other) == ["other", "mine"]
    unknown = measured(candidate("another", 1), 1000)
    assert order(mine, unknown) == ["mine", "another"], "nobody knows how good its answers are"


def test_memory_counts_where_it_is_short_or_limited(candidate: Make) -> None:
    large, small = measured(candidate("a", None), 2000), measured(candidate("b", None), 1000)
    assert [it.model for it in rank_candidates([large, small])] == ["a", "b"]
    assert [it.model for it in rank_candidates([large, small], is_memory_limited=True)] == ["b", "a"]
    assert reasons(small) == {"less_memory": {"mib": 1000, "other_mib": 2000}, "accuracy_unknown": {}}
    large.allowed_mib = small.allowed_mib = 2100
    assert [it.model for it in rank_candidates([large, small])] == ["b", "a"], (
        "2,000 of 2,100 MiB: memory is short"
    )


def test_a_recorded_time_counts_before_a_prediction_within_its_error(candidate: Make) -> None:
    recorded, guessed = candidate("a", 1.2), candidate("b", 1.0)
    guessed.time = Estimate(100.0, 0.85, EstimateBasis.guessed)
    assert order(guessed, recorded) == ["a", "b"]
    other = ("model=b",)
    times = {"each_s": 1.2, "other_s": 1, "other": other, "spread": 0.85}
    assert reasons(recorded) == {"recorded_time": times, "accuracy_unknown": {}}
    guessed.time = Estimate(20.0, 0.85, EstimateBasis.guessed)
    assert order(guessed, recorded) == ["b", "a"], "far faster than its error"
