"""How many answers guessed tokens have changed: rows that differ from their baselines only in who guesses."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runner_compare.model.data import NotPaired, Run, Table, TableRow
from runner_compare.model.mean_pairs import with_functions
from runner_compare.reader import Reader
from runner_compare.render.labels import versus
from runner_compare.section import Section
from runner_compare.statistics.clustered_share import guaranteed_interval

GUESSES = "generation.speculate"
WHOLE = 10**9  # characters of an answer that are compared: all


@dataclass(frozen=True)
class ChangedAnswers:
    """How many answers to the same questions have another text."""

    is_changed: tuple[bool, ...]
    families: tuple[str | None, ...]  # of the questions; None: they are independent

    @property
    def changed(self) -> int:
        """How many answers have another text."""
        return sum(self.is_changed)

    @property
    def answers(self) -> int:
        """How many answers were compared."""
        return len(self.is_changed)

    @property
    def family_count(self) -> int:
        """How many families the questions come in; 0: they are independent."""
        return 0 if None in self.families else len(set(self.families))

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The two-sided 95 % interval of the share of changed answers, in further such families."""
        return guaranteed_interval(self.is_changed, self.families)


@dataclass
class ChangedOfTable:
    """The counts of the rows that only differ in who guesses, by run id."""

    counts: dict[str, ChangedAnswers] = field(default_factory=dict)


class ChangedAnswersSection(Section):
    """Answers that guessed tokens have changed."""

    def add(self, table: Table, reader: Reader) -> None:
        """Count the answers that differ from the baseline's."""
        kept = table.of(ChangedOfTable).counts
        for row in table.settings if table.scored else ():
            if row.baseline is None or not differ_in_guesses(row.run, row.baseline.run, reader):
                continue
            try:
                kept[row.run.run_id] = count_changed(row.run, row.baseline.run, reader)
            except NotPaired:
                continue  # the note of the row says why

    def sentences(self, table: Table) -> list[str]:
        """Say how many answers differ."""
        kept = table.of(ChangedOfTable).counts
        return [
            changed_sentence(versus(row, table.keys), kept[row.run.run_id])
            for row in table.rows
            if row.run.run_id in kept
        ]

    def row_record(self, table: Table, row: TableRow) -> dict[str, Any]:
        """Return the counts of a row."""
        found = table.of(ChangedOfTable).counts.get(row.run.run_id)
        if found is None:
            return {}
        low, high = found.interval
        counts = {"changed": found.changed, "answers": found.answers}
        return {"changed_answers": counts | {"share_low": low, "share_high": high}}


def differ_in_guesses(run: Run, base: Run, reader: Reader) -> bool:
    """Whether two runs differ in who guesses, and in nothing else."""
    keys = reader.key_rules.differing_keys([run.params, base.params])
    return bool(keys) and all(key.startswith(GUESSES) for key in keys)


def count_changed(run: Run, base: Run, reader: Reader) -> ChangedAnswers:
    """Count the answers of a run whose texts differ from those of its baseline."""
    outcomes, of_base = reader.of(run), reader.of_baseline(base)
    shared = outcomes.keys() & of_base.keys()
    own, other = (reader.words(side, {*shared}, WHOLE) for side in (run, base))
    known = own.keys() & other.keys()
    if not known:
        raise NotPaired("no answers to the same questions")
    questions = sorted(known)
    pairs = with_functions(questions, [(outcomes[question], of_base[question]) for question in questions])
    return ChangedAnswers(
        tuple(own[question]["text"] != other[question]["text"] for question in questions),
        tuple(outcome.cluster for outcome, _ in pairs),
    )


def changed_sentence(names: str, found: ChangedAnswers) -> str:
    """Return what is said of a row."""
    low, high = found.interval
    if not found.changed:
        over = f" over {found.family_count:,} families" if found.family_count else ""
        exact = "" if over else "exact "
        bound = f"up to {100 * high:.1f} % may differ ({exact}two-sided 95 % interval{over})"
        return f"{names}: none of {found.answers:,} answers has another text; {bound}"
    ends = f"[{100 * low:.1f}, {100 * high:.1f}] %"
    ends += f", over {found.family_count:,} families" if found.family_count else ""
    return f"{names}: {found.changed:,} of {found.answers:,} answers have another text {ends}"


SECTION = ChangedAnswersSection()
