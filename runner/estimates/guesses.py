"""The time of a job whose tokens are guessed at every step.

A pass reads the guesses of all rows and gives each row one token or more: how many depends on how
many guesses are right. Finished jobs with the same model and the same guesses tell; without one the
time is a range, from all guesses right to none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from runner.config.resolved import ResolvedJob
from runner.estimates.guess import Rates
from runner.estimates.speed import Estimate, Speed, interpolate
from runner_base import Record
from runner_base.notes import Note, note
from runner_engine import Footprint, GenerationConfig

TimeOf = Callable[[Speed], Estimate]


@dataclass(frozen=True)
class GuessedPasses:
    """What guesses add to a model's passes; the draft is as fast as guessed, beside the model's own
    guessed speed."""

    asked: str  # generation.speculate
    guessed: int  # tokens of a guess
    model: Speed
    draft: Speed | None  # None: guesses take no time
    tokens: tuple[float, float]  # that a pass gives a row: the fewest and the most
    jobs: int = 0  # finished ones that tell; none: anything from no guess right to all of them

    def time(self, alone: Speed, time_of: TimeOf) -> Estimate:
        """Return the time at a speed of the model alone, as a range over the tokens of a pass."""
        fewest, most = (time_of(self._speed(alone, tokens)) for tokens in self.tokens)
        low, high = most.seconds * (1 - most.spread), fewest.seconds * (1 + fewest.spread)
        return replace(
            fewest,
            seconds=(low + high) / 2,
            spread=(high - low) / (high + low) if high else 0.0,
            notes=[*fewest.notes, self._note(most, fewest)],
            ends=(most, fewest),
        )

    def _note(self, most: Estimate, fewest: Estimate) -> Note:
        if self.jobs:
            return note("guesses_known", asked=self.asked, jobs=self.jobs, tokens=self.tokens)
        return note(
            "guesses_unknown", asked=self.asked, all_right_s=most.seconds, none_right_s=fewest.seconds
        )

    def _speed(self, alone: Speed, tokens: float) -> Speed:
        """Return the speed of passes that check guesses and give a row so many tokens."""
        of_draft, count = self.draft, self.guessed
        # the draft's guessed times count by the model's own: both may be slower here than guessed
        scale = interpolate(alone.decode, 1) / interpolate(self.model.decode, 1)

        def step_s(rows: float) -> float:
            guessing_s = 0.0 if of_draft is None else interpolate(of_draft.decode, rows)
            checking_s = interpolate(alone.decode, rows * (1 + count))
            return (checking_s + scale * count * guessing_s) / tokens

        guessed = replace(
            alone,
            decode=[(rows, step_s(rows)) for rows, _ in alone.decode],
            place_s=alone.place_s / tokens,
            without_guesses=alone,
        )
        if of_draft is None:
            return guessed
        return replace(
            guessed,
            prefill=[
                (size, seconds + scale * interpolate(of_draft.prefill, size))
                for size, seconds in alone.prefill
            ],
            place_s=(alone.place_s + scale * count * of_draft.place_s) / tokens,
            load_s=alone.load_s + of_draft.load_s,
        )


def without_guesses(job: ResolvedJob) -> ResolvedJob:
    """Return a job whose model guesses nothing: itself, unless guesses are asked for at every
    step."""
    generation = job.config.generation
    if not generation.speculation.is_steady:
        return job
    return job.having(generation=replace(generation, speculate="off"))


def guessed_passes(
    generation: GenerationConfig,
    predicted: Footprint,
    model: Speed,
    rates: Rates,
    finished: Iterable[Record] = (),
) -> GuessedPasses | None:
    """Return what guesses add to a job's passes; None if none are asked for at every step.

    predicted: the job's memory; model: the guessed speed of the model alone; finished: jobs with
    the same model.
    """
    how = generation.speculation
    if not how.is_steady:
        return None
    known = [tokens for record in finished if (tokens := tokens_of_pass(record, str(how)))]
    ends = (min(known), max(known)) if known else (1.0, 1.0 + how.tokens)
    draft = _draft_speed(predicted, rates)
    return GuessedPasses(str(how), how.tokens, model, draft, ends, len(known))


def tokens_of_pass(record: Record, asked: str) -> float | None:
    """Return how many tokens a pass has given a row of a finished job, on average; None if it did
    not guess in the same way, or did not count."""
    metrics = record.result.metrics
    new, right = metrics.get("new_tokens", 0.0), metrics.get("accepted_tokens")
    if record.params.get("generation.speculate") != asked or right is None or right >= new:
        return None
    return float(new / (new - right))


def _draft_speed(predicted: Footprint, rates: Rates) -> Speed | None:
    """Guess the speed of a draft, if there is one; one with fewer layers reads and computes fewer
    of them."""
    draft = predicted.draft
    if draft is None:
        return None
    speed = replace(rates, unpacks=not draft.has_kernels).speed(
        draft.quantization, draft.alone, draft.parameters, draft.place_bytes
    )
    share = draft.kept_share
    return replace(
        speed,
        prefill=[(size, share * seconds) for size, seconds in speed.prefill],
        decode=[(size, share * seconds) for size, seconds in speed.decode],
        place_s=share * speed.place_s,
    )
