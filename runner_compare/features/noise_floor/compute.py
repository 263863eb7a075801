"""Counts the answers that differ between two runs of a baseline.

Two runs repeat each other if they differ only in keys that do not change the task: the batch size,
the repeat index or the seed. Runs of the same job (rerun=all) repeat each other too. Two jobs with
equal keys are no repeats: one may have reused the answers of the other, or may be a newer build.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from runner_compare.model.data import ENGINE, OWN_ENGINE, REPEAT, NotPaired, Run, Table
from runner_compare.model.noise_floor import iter_earlier_runs
from runner_compare.reader import Reader

BATCH_SIZE = "generation.batch_size"
REPEAT_KEYS = frozenset({BATCH_SIZE, REPEAT, "seed"})
BATCH_INVARIANT = "batch_invariant"  # metric that is 1 if the engine's answers do not depend on the batch
WHOLE = 10**9  # characters of a text


@dataclass(frozen=True)
class NoiseFloor:
    """Number of answers that differ between a baseline and the repeat that differs most from it."""

    task: str
    baseline: str  # job id
    repeats: tuple[str, ...]  # job ids of all repeats
    changed: int  # questions that only one of the two runs solved
    questions: int
    changed_texts: int | None  # None: the texts are not stored
    breaks_claim: bool  # whether the engine promises equal answers, and a text or verdict differs

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "repeats": [*self.repeats]}


@dataclass
class TableNoiseFloors:
    """Noise floors of a table, one per repeated baseline."""

    floors: list[NoiseFloor] = field(default_factory=list)


@dataclass(frozen=True)
class ChangedAnswers:
    """Difference between the answers of a baseline and those of one repeat."""

    job_id: str
    changed: int
    questions: int
    changed_texts: int | None
    breaks_claim: bool


def compute_noise_floors(table: Table, reader: Reader) -> list[NoiseFloor]:
    """Compute the noise floor of each baseline in a table that was run at least twice."""
    used = [row.baseline for row in table.candidate_rows if row.baseline is not None]
    baselines = [*used, *(row for row in table.rows if row.is_baseline)]
    floors, covered = [], set[str]()
    for base in (row.run for row in baselines if row.run.correct_and_total and not row.run.parts):
        if base.run_id in covered:
            continue
        repeats = [row.run for row in table.rows if is_repeat_of_baseline(row.run, base, reader)]
        covered |= {base.run_id, *(run.run_id for run in repeats)}
        found = [*_iter_changed_answers(base, [*repeats, *iter_earlier_runs(base)], reader)]
        if found:
            worst = max(found, key=lambda each: (each.changed, each.changed_texts or 0))
            floors.append(
                NoiseFloor(
                    table.task,
                    base.job_id,
                    tuple(each.job_id for each in found),
                    worst.changed,
                    worst.questions,
                    worst.changed_texts,
                    any(each.breaks_claim for each in found),
                )
            )
    return floors


def is_repeat_of_baseline(run: Run, base: Run, reader: Reader) -> bool:
    """Return whether two runs differ only in keys that do not change the task, and in at least one of them."""
    keys = {*reader.key_rules.find_differing_keys([run.params, base.params])}
    return bool(keys) and keys <= REPEAT_KEYS and _is_same_fact("model_sha256", run, base)


def _iter_changed_answers(base: Run, repeats: Sequence[Run], reader: Reader) -> Iterator[ChangedAnswers]:
    for run in repeats:
        try:
            yield _count_changed_answers(run, base, reader)
        except NotPaired:
            continue  # the repeat's samples are missing, or its prompts are others


def _count_changed_answers(run: Run, base: Run, reader: Reader) -> ChangedAnswers:
    outcomes, of_base = reader.load_answers(run), reader.load_baseline_answers(base)
    shared = outcomes.keys() & of_base.keys()
    pairs = [(outcomes[question], of_base[question]) for question in shared]
    if not pairs or any(
        None not in (own.prompt, other.prompt) and own.prompt != other.prompt for own, other in pairs
    ):
        raise NotPaired("the two runs have no equal prompts")
    changed = sum(own.solved != other.solved for own, other in pairs)
    texts, base_texts = (
        [
            answers[question]["text"]
            for answers in [reader.load_answer_texts(side, {*shared}, WHOLE)]
            for question in sorted(answers.keys() & shared)
        ]
        for side in (run, base)
    )
    is_known = len(texts) == len(base_texts) and any(texts) and any(base_texts)
    changed_texts = sum(map(str.__ne__, texts, base_texts)) if is_known else None
    breaks_claim = bool(changed or changed_texts) and _are_equal_answers_guaranteed(run, base)
    return ChangedAnswers(run.job_id, changed, len(pairs), changed_texts, breaks_claim)


def _are_equal_answers_guaranteed(run: Run, base: Run) -> bool:
    """Return whether greedy decoding on one machine must give equal answers in both runs.

    That requires a batch-invariant engine, or batches of one sequence.
    """
    sides = run, base
    is_greedy = all(side.get_value("generation.temperature") == "0.0" for side in sides)
    is_invariant = all(side.metrics.get(BATCH_INVARIANT) == 1 for side in sides)
    is_alone = all(
        side.get_value(BATCH_SIZE) == "1" and side.get_value(ENGINE) == OWN_ENGINE for side in sides
    )
    return is_greedy and (is_invariant or is_alone) and _is_same_fact("machine", run, base)


def _is_same_fact(name: str, run: Run, base: Run) -> bool:
    return run.facts.get(name) == base.facts.get(name)
