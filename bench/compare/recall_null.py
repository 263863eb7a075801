"""Is what is said of effective lengths true? `python bench/compare/recall_null.py`.

Models that are asked for something in texts of five lengths, at five depths, with 5, 10 or 50 questions each. They
forget all beyond a length, lose a little, lose just the margin or just more, forget in the middle of a text only, lose
a rare kind of question, remember again at a longer length, or know nearly all or nearly nothing everywhere. The
questions are others at each depth, or the same, and then answers to a question are alike. How often does the interval
of the effective length miss the true one? How often is it found to the next length, and the range of depths that is
lost? The controls: the longest length that is within the margin as it was counted, and the longest one that a test
shows to be within it, whatever the shorter ones show; answers at several depths as independent questions.

Where a length is not decided, the note says how many questions would decide it. Is it decided with so many others?

Then ten settings that are equal: how often is any of them called different from the first at any length? The controls:
the same without Holm, and lengths as counted that differ. How often is any of them shown to reach too far? The control:
each with an interval of its own.

Then texts that are unlike: how often does the interval miss the length in these texts? The control: in all texts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from simulation import NORMAL, Limits, Numbers, Rate, Table, begin

from runner_compare.features.recall.compute import RecallFindings, divide_error_rate
from runner_compare.model.outcomes import QuestionOutcome, RecallPosition
from runner_compare.statistics import ALPHA, Finding, decide_comparisons_with_holm
from runner_compare.statistics.effective_length import compute_recall_loss_tests
from runner_compare.statistics.lost_depths import find_depths_with_recall_loss
from runner_compare.ways.verdicts import create_mcnemar_test

LENGTHS = (1024, 2048, 4096, 8192, 16384)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
MARGIN = 0.1
A_CELL = (5, 10, 50)
ALIKE = 0.3  # how much of a question's difficulty is the same at each length, and at each depth
ALIKE_AT_LENGTH = 0.4  # how much of it is the same at each depth of a length
ALIKE_SETTINGS = 0.8  # the same over settings
RARE = 1 / 20  # of the questions
SETTINGS = 10
FURTHEST = ("loses 30 points beyond 4,096", "loses just more beyond 4,096", "loses just more beyond 1,024")  # fmt: skip
UNLIKE = (*FURTHEST, "loses just the margin")
SPREADS = (0.0, 0.3)  # of texts of one length, in probits
DRAWS = 499  # a test by so many permutations is as exact as by more, and finds a little less

Outcomes = Sequence[QuestionOutcome]
Recall = Callable[[int, float, str], float]  # by length, depth and kind of question


@dataclass(frozen=True)
class Model:
    """What a model is asked, and how likely it knows it."""

    name: str
    recall: Recall
    true: int  # the effective length
    lost: tuple[float, float] | None = None  # the range of depths that is lost beyond it
    has_rare_kind: bool = False
    is_sharp: bool = False  # whether its effective length should be found


def beyond(length: int, before: float, after: float) -> Recall:
    """Return the recall of a model that loses something beyond a length."""
    return lambda at, _depth, _kind: after if at > length else before


MODELS = [
    Model("forgets all beyond 4,096", beyond(4096, 0.95, 0.03), 4096, is_sharp=True),
    Model("loses 30 points beyond 4,096", beyond(4096, 0.9, 0.6), 4096),
    Model("loses just the margin", beyond(1024, 0.9, 0.8), 16384),
    Model("loses just more beyond 4,096", beyond(4096, 0.9, 0.799), 4096),
    Model("loses just more beyond 1,024", beyond(1024, 0.6, 0.499), 1024),
    Model(
        "forgets depths 0.25 to 0.75",
        lambda at, depth, _: 0.03 if at > 4096 and 0 < depth < 1 else 0.95,
        4096,
        (0.25, 0.75),
        is_sharp=True,
    ),
    Model("forgets depth 0.5", lambda at, depth, _: 0.03 if at > 2048 and depth == 0.5 else 0.95, 2048, (0.5, 0.5)),
    Model("loses a rare kind, 5 points", lambda at, _, kind: 0.0 if at > 2048 and kind == "rare" else 1.0, 16384,
          has_rare_kind=True),
    Model("remembers again at 8,192", lambda at, *_: 0.3 if at == 4096 else 0.95, 2048, is_sharp=True),
    Model("knows nearly all", beyond(0, 1.0, 0.99), 16384),
    Model("knows half", beyond(0, 0.5, 0.5), 16384),
    Model("knows nearly nothing", beyond(0, 0.0, 0.02), 16384),
]  # fmt: skip

EQUAL = (
    "forgets all beyond 4,096",
    "loses 30 points beyond 4,096",
    "knows nearly all",
    "knows half",
    "knows nearly nothing",
)


def drawn(
    generator: np.random.Generator,
    model: Model,
    a_cell: int,
    is_same_at_depths: bool,
    settings: int = 1,
    alike: float = ALIKE_SETTINGS,
) -> list[list[QuestionOutcome]]:
    """Draw the answers of one or several settings of a model to the same questions."""
    places: list[tuple[RecallPosition, str]] = []
    for depth_number, depth in enumerate(DEPTHS):
        for number in range(a_cell):
            question = number if is_same_at_depths else number + depth_number * a_cell
            is_rare = model.has_rare_kind and generator.random() < RARE
            kind = "rare" if is_rare and not is_same_at_depths else "usual"
            places += [(RecallPosition(kind, length, depth), f"question {question}") for length in LENGTHS]
    if model.has_rare_kind and is_same_at_depths:
        rare = {f"question {number}" for number in range(a_cell) if generator.random() < RARE}
        places = [(place._replace(kind="rare" if name in rare else "usual"), name) for place, name in places]
    hard = math.sqrt(ALIKE) * effects(generator, [name for _, name in places])
    hard += math.sqrt(ALIKE_AT_LENGTH) * effects(generator, [(name, place.length) for place, name in places])
    chances = [model.recall(place.length, place.depth or 0.0, place.kind) for place, _ in places]
    bars = np.array([bar_of(chance) for chance in chances])
    shared, answers = generator.standard_normal(len(places)), []
    for _ in range(settings):
        own = generator.standard_normal(len(places))
        chance = shared if settings == 1 else math.sqrt(alike) * shared + math.sqrt(1 - alike) * own
        solved = hard + math.sqrt(1 - ALIKE - ALIKE_AT_LENGTH) * chance < bars
        answers.append(
            [
                QuestionOutcome(bool(right), "prompt", name, recall=place)
                for right, (place, name) in zip(solved, places, strict=True)
            ]
        )
    return answers


def effects(generator: np.random.Generator, names: Sequence[Hashable]) -> Numbers:
    """Draw a number for each name, the same wherever it is."""
    own = {name: generator.standard_normal() for name in dict.fromkeys(names)}
    return np.array([own[name] for name in names])


def bar_of(chance: float) -> float:
    """Return the bar that a normal number is below with a chance, which may be 0 or 1."""
    return NORMAL.inv_cdf(chance) if 0 < chance < 1 else math.copysign(math.inf, chance - 0.5)


@dataclass
class Counts:
    """What happened in the draws of a line."""

    missed: int = 0
    found: int = 0
    nothing_said: int = 0
    as_counted: int = 0  # wrong
    longest_shown: int = 0  # beyond the true one
    independent: int = 0  # intervals that miss it if each answer counts as a question
    depths_found: int = 0
    depths_false: int = 0


def misses(findings: RecallFindings, true: int) -> bool:
    """Whether the interval does not hold the true effective length."""
    found = findings.effective_length
    return found is not None and not found.at_least <= true <= found.at_most


def count(counts: Counts, model: Model, outcomes: list[QuestionOutcome], is_same_at_depths: bool) -> None:
    """Add what is said of one model."""
    findings = RecallFindings(tuple(outcomes), MARGIN)
    found = findings.effective_length
    counts.nothing_said += found is None
    if found is not None:
        counts.missed += misses(findings, model.true)
        counts.found += found.at_least == found.at_most == model.true
        counts.as_counted += longest_as_counted(findings) != model.true
        counts.longest_shown += longest_shown(findings) > model.true
    if is_same_at_depths:
        alone = tuple(as_other_question(outcome) for outcome in outcomes)
        counts.independent += misses(RecallFindings(alone, MARGIN), model.true)
    shown = [
        lost
        for lost in find_depths_with_recall_loss(
            findings.answers_with_single_needle_depth, num_permutations=DRAWS
        )
        if lost.is_significant
    ]
    if model.lost is None:
        counts.depths_false += bool(shown)
        return
    lost_at = [length for length in LENGTHS if length > model.true]
    counts.depths_false += any(lost.length not in lost_at for lost in shown)
    counts.depths_found += {(lost.length, lost.first, lost.last) for lost in shown} >= {
        (length, *model.lost) for length in lost_at
    }


def as_other_question(outcome: QuestionOutcome) -> QuestionOutcome:
    """Return an answer as one to another question at each depth: a control."""
    assert outcome.recall is not None
    return outcome._replace(cluster=f"{outcome.cluster} at depth {outcome.recall.depth}")


def longest_as_counted(findings: RecallFindings) -> int:
    """Return the longest length within the margin as it was counted: a control."""
    shortest = findings.length_recalls[0].share
    return max(length.length for length in findings.length_recalls if length.share >= shortest - MARGIN)


def longest_shown(findings: RecallFindings) -> int:
    """Return the longest length that is shown to be within the margin, whatever shorter ones show:
    a control."""
    found = LENGTHS[0]
    for length in findings.length_recalls[1:]:
        if length.against_shortest is not None:
            tests = compute_recall_loss_tests(length.against_shortest.test, MARGIN, None)
            found = length.length if tests.p_kept < ALPHA / 2 else found
    return found


def intervals(generator: np.random.Generator, draws: int, limits: Limits) -> None:
    """Print how often intervals miss, and how often effective lengths and depths are found."""
    heads = (
        "a cell",
        f"{'the model':30}",
        "questions",
        "nothing said",
        "interval misses %",
        "found %",
        "depths found %",
    )
    controls = "depths false %", "as counted wrong", "longest shown", "as independent"
    table = Table(f"{draws:,} models a line", *heads, *controls)
    for model in MODELS:
        for is_same_at_depths in (False, True):
            for a_cell in A_CELL:
                counts = Counts()
                for _ in range(draws):
                    (outcomes,) = drawn(generator, model, a_cell, is_same_at_depths)
                    count(counts, model, outcomes, is_same_at_depths)
                missed, found = Rate(counts.missed, draws), Rate(counts.found, draws)
                depths, false = Rate(counts.depths_found, draws), Rate(counts.depths_false, draws)
                controls_of = (
                    Rate(times, draws).plain for times in (counts.as_counted, counts.longest_shown)
                )
                names = a_cell, model.name.ljust(30), "same" if is_same_at_depths else "others"
                independent = Rate(counts.independent, draws).plain if is_same_at_depths else ""
                nothing = Rate(counts.nothing_said, draws).plain
                shown = depths if model.lost else ""
                table.row(*names, nothing, missed, found, shown, false, *controls_of, independent)
                limits.missed.append(missed)
                limits.false.append(false)
                if a_cell == max(A_CELL) and model.is_sharp and not is_same_at_depths:
                    limits.powers.append(found)
                if a_cell > min(A_CELL) and model.lost:
                    limits.powers.append(depths)


def as_many_as_said(generator: np.random.Generator, draws: int) -> None:
    """Print how often the first undecided length is decided by as many other questions as the note
    says.

    No limit: the number is an estimate from few answers, and said to be about that.
    """
    table = Table(
        f"{draws:,} models a line",
        "a cell",
        f"{'the model':30}",
        "undecided",
        "said to be needed",
        "decided %",
    )
    for model in MODELS:
        for a_cell in A_CELL[1:2] if model.is_sharp else ():
            decided, said = needed_and_asked(generator, model, a_cell, draws)
            median = int(np.median(said)) if said else ""
            table.row(a_cell, model.name.ljust(30), len(said), median, Rate(decided, max(1, len(said))))


def needed_and_asked(
    generator: np.random.Generator, model: Model, a_cell: int, draws: int
) -> tuple[int, list[int]]:
    """Return how often as many questions as said show a length to be kept that is, and what was
    said each time."""
    decided, said = 0, []
    for _ in range(draws):
        (outcomes,) = drawn(generator, model, a_cell, False)
        findings = RecallFindings(tuple(outcomes), MARGIN)
        found = findings.effective_length
        if found is None or not found.undecided_lengths or found.undecided_lengths[0] > model.true:
            continue
        said.append(findings.units_needed_per_context_length)
        (again,) = drawn(
            generator, model, math.ceil(findings.units_needed_per_context_length / len(DEPTHS)), False
        )
        asked = RecallFindings(tuple(again), MARGIN).effective_length
        decided += asked is not None and asked.at_least >= found.undecided_lengths[0]
    return decided, said


def equal_settings(generator: np.random.Generator, draws: int, limits: Limits) -> None:
    """Print how often any of ten equal settings is called different from the first."""
    heads = ("a cell", f"{'the model':30}", "different %", "without Holm %", "other lengths as counted %")
    table = Table(f"{SETTINGS} equal settings: {draws:,} tables a line", *heads)
    for model in MODELS:
        for a_cell in A_CELL if model.name in EQUAL else ():
            rates = called_different(generator, model, a_cell, draws)
            table.row(a_cell, model.name.ljust(30), *rates)
            limits.false.append(rates[0])


def called_different(
    generator: np.random.Generator, model: Model, a_cell: int, draws: int
) -> tuple[Rate, Rate, Rate]:
    """Return how often ten equal settings are called different, how often without Holm, and by
    counted lengths."""
    different = unadjusted = lengths_differ = 0
    for _ in range(draws):
        answers = drawn(generator, model, a_cell, False, SETTINGS)
        tests = [
            create_mcnemar_test(at_length(own, answers[0], length))
            for own in answers[1:]
            for length in LENGTHS
        ]
        different += any(
            decision.finding is not Finding.open for decision in decide_comparisons_with_holm(tests)
        )
        unadjusted += any(test.effect.p < ALPHA for test in tests)
        every = [longest_as_counted(RecallFindings(tuple(own), MARGIN)) for own in answers]
        lengths_differ += len(set(every)) > 1
    return Rate(different, draws), Rate(unadjusted, draws), Rate(lengths_differ, draws)


def furthest(generator: np.random.Generator, draws: int, limits: Limits) -> None:
    """Print how often any of ten equal settings is shown to reach too far, and how many are found."""
    names = "a cell", f"{'the model':30}", "alike"
    heads = "any too far %", "each by itself", "rows found", "by itself"
    table = Table(f"{SETTINGS} equal settings: {draws:,} tables a line", *names, *heads)
    for model in MODELS:
        for a_cell in A_CELL[1:] if model.name in FURTHEST else ():
            for alike in (0.0, ALIKE_SETTINGS):
                together, alone = reached_too_far(generator, model, a_cell, draws, alike)
                found = [Rate(rows, draws * SETTINGS).plain for _, rows in (together, alone)]
                too_far = [Rate(times, draws) for times, _ in (together, alone)]
                place = a_cell, model.name.ljust(30), alike
                table.row(*place, too_far[0], too_far[1].plain, *found)
                limits.false.append(too_far[0])


def reached_too_far(
    generator: np.random.Generator, model: Model, a_cell: int, draws: int, alike: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return how many tables reach too far and how many settings are found, together and alone."""
    too_far, found = [0, 0], [0, 0]
    for _ in range(draws):
        answers = drawn(generator, model, a_cell, False, SETTINGS, alike)
        alone = {str(at): RecallFindings(tuple(own), MARGIN) for at, own in enumerate(answers)}
        for way, findings in enumerate((divide_error_rate(alone), alone)):
            known = [it.effective_length for it in findings.values() if it.effective_length is not None]
            too_far[way] += any(it.at_least > model.true for it in known)
            found[way] += sum(it.at_least == it.at_most == model.true for it in known)
    return (too_far[0], found[0]), (too_far[1], found[1])


def unlike_texts(generator: np.random.Generator, draws: int, limits: Limits) -> None:
    """Print how often the interval misses the effective length in the texts that were asked, and in all texts."""
    heads = "these texts: misses %", "all texts: too long", "too short"
    table = Table(f"{draws:,} models a line", "spread", f"{'the model':30}", *heads)
    for spread in SPREADS:
        for model in MODELS:
            if model.name in UNLIKE:
                missed, too_long, too_short = missed_texts(generator, model, spread, draws)
                table.row(spread, model.name.ljust(30), missed, too_long.plain, too_short.plain)
                limits.missed.append(missed)


def missed_texts(
    generator: np.random.Generator, model: Model, spread: float, draws: int
) -> tuple[Rate, Rate, Rate]:
    """Return how often the interval misses the length in texts that are drawn, and lies above and below that in all."""
    missed = too_long = too_short = 0
    for _ in range(draws):
        shifts = dict(zip(LENGTHS, spread * generator.standard_normal(len(LENGTHS)), strict=True))
        of_texts = in_texts(model, shifts)
        (outcomes,) = drawn(generator, of_texts, A_CELL[-1], False)
        found = RecallFindings(tuple(outcomes), MARGIN).effective_length
        if found is not None:
            missed += not found.at_least <= of_texts.true <= found.at_most
            too_long += found.at_least > model.true
            too_short += found.at_most < model.true
    return Rate(missed, draws), Rate(too_long, draws), Rate(too_short, draws)


def in_texts(model: Model, shifts: Mapping[int, float]) -> Model:
    """Return a model whose recall in the texts of each length is shifted by so many probits."""

    def recall(length: int, depth: float, kind: str) -> float:
        return NORMAL.cdf(bar_of(model.recall(length, depth, kind)) + shifts[length])

    shares = [recall(length, 0.5, "usual") for length in LENGTHS]
    kept = [share >= shares[0] - MARGIN for share in shares]
    return replace(model, recall=recall, true=LENGTHS[(*kept, False).index(False) - 1])


def at_length(own: Outcomes, other: Outcomes, length: int) -> list[tuple[QuestionOutcome, QuestionOutcome]]:
    """Return the answers of two settings to the same questions at one length."""
    return [
        pair for pair in zip(own, other, strict=True) if pair[0].recall and pair[0].recall.length == length
    ]


def main() -> int:
    """Simulate and print; 1 if a limit is exceeded."""
    (draws, generator, started), limits = (begin("recall_null", __doc__, 200, "draws"), Limits())
    intervals(generator, draws, limits)
    as_many_as_said(generator, draws)
    equal_settings(generator, max(1, draws // 2), limits)
    furthest(generator, max(1, draws // 2), limits)
    unlike_texts(generator, draws, limits)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
