"""Estimates the time of a job with speculative decoding.

A pass verifies the draft tokens of all sequences and gives each sequence one token or more,
depending on the acceptance rate. Finished jobs with the same model and drafter tell it; without
one the time is a range, from all draft tokens accepted to none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from runner.config.resolved import ResolvedJob
from runner.estimates.rough_speed import MachineRates
from runner.estimates.speed import Estimate, Speed, interpolate_time
from runner_base import Record
from runner_base.notes import Note, note
from runner_engine import Footprint, GenerationConfig

SpeedToEstimate = Callable[[Speed], Estimate]


@dataclass(frozen=True)
class SpeculativePasses:
    """Effect of speculative decoding on a job: draft tokens per pass, new tokens per pass, and the
    draft model's speed.

    The draft model's speed is relative to the model's rough speed.
    """

    asked: str  # generation.speculate
    guessed: int  # tokens of a guess
    model: Speed
    draft: Speed | None  # None: guesses take no time
    tokens: tuple[float, float]  # that a pass gives a row: the fewest and the most
    jobs: int = 0  # finished ones that tell; none: anything from no guess right to all of them

    def estimate_speculative_job_time(
        self, plain_speed: Speed, estimate_at_speed: SpeedToEstimate
    ) -> Estimate:
        """Estimate the job's time as a range, from the fewest and the most tokens that a pass may yield.

        `plain_speed` is the speed without speculative decoding.
        """
        fewest, most = (
            estimate_at_speed(self._compute_speculative_speed(plain_speed, tokens)) for tokens in self.tokens
        )
        low, high = most.seconds * (1 - most.spread), fewest.seconds * (1 + fewest.spread)
        return replace(
            fewest,
            seconds=(low + high) / 2,
            spread=(high - low) / (high + low) if high else 0.0,
            notes=[*fewest.notes, self._range_note(most, fewest)],
            ends=(most, fewest),
        )

    def _range_note(self, upper: Estimate, lower: Estimate) -> Note:
        if self.jobs:
            return note("guesses_known", asked=self.asked, jobs=self.jobs, tokens=self.tokens)
        return note(
            "guesses_unknown", asked=self.asked, all_right_s=upper.seconds, none_right_s=lower.seconds
        )

    def _compute_speculative_speed(self, plain_speed: Speed, tokens_per_pass: float) -> Speed:
        """Return the speed if each pass verifies the draft tokens and yields `tokens_per_pass` tokens
        per sequence.
        """
        of_draft, count = self.draft, self.guessed
        # the draft's guessed times count by the model's own: both may be slower here than guessed
        scale = interpolate_time(plain_speed.decode, 1) / interpolate_time(self.model.decode, 1)

        def compute_decode_step_s(batch_size: float) -> float:
            guessing_s = 0.0 if of_draft is None else interpolate_time(of_draft.decode, batch_size)
            checking_s = interpolate_time(plain_speed.decode, batch_size * (1 + count))
            return (checking_s + scale * count * guessing_s) / tokens_per_pass

        guessed = replace(
            plain_speed,
            decode=[(rows, compute_decode_step_s(rows)) for rows, _ in plain_speed.decode],
            place_s=plain_speed.place_s / tokens_per_pass,
            without_guesses=plain_speed,
        )
        if of_draft is None:
            return guessed
        return replace(
            guessed,
            prefill=[
                (size, seconds + scale * interpolate_time(of_draft.prefill, size))
                for size, seconds in plain_speed.prefill
            ],
            place_s=(plain_speed.place_s + scale * count * of_draft.place_s) / tokens_per_pass,
            load_s=plain_speed.load_s + of_draft.load_s,
        )


def disable_speculation(resolved: ResolvedJob) -> ResolvedJob:
    generation = resolved.config.generation
    if not generation.speculation.drafts_every_step:
        return resolved
    return resolved.copy_with_changed_config_groups(generation=replace(generation, speculate="off"))


def estimate_speculative_forward_passes(
    generation: GenerationConfig,
    predicted_footprint: Footprint,
    rough_speed: Speed,
    machine_rates: MachineRates,
    similar_records: Iterable[Record] = (),
) -> SpeculativePasses | None:
    """Estimate the effect of speculative decoding on a job's forward passes. None without speculative
    decoding.

    predicted: the job's memory; rough_speed: the model's estimated speed without speculation;
    similar_records: finished jobs with the same model.
    """
    how = generation.speculation
    if not how.drafts_every_step:
        return None
    known = [
        tokens for record in similar_records if (tokens := compute_mean_tokens_per_pass(record, str(how)))
    ]
    ends = (min(known), max(known)) if known else (1.0, 1.0 + how.tokens)
    draft = _estimate_draft_model_speed(predicted_footprint, machine_rates)
    return SpeculativePasses(str(how), how.tokens, rough_speed, draft, ends, len(known))


def compute_mean_tokens_per_pass(record: Record, speculate_setting: str) -> float | None:
    """Return the mean number of new tokens per sequence and forward pass in a finished job.

    Returns None if the job used other speculative decoding or recorded no counts.
    """
    metrics = record.result.metrics
    new, right = metrics.get("new_tokens", 0.0), metrics.get("accepted_tokens")
    if record.params.get("generation.speculate") != speculate_setting or right is None or right >= new:
        return None
    return float(new / (new - right))


def _estimate_draft_model_speed(predicted_footprint: Footprint, machine_rates: MachineRates) -> Speed | None:
    """Estimate the draft model's speed. None without a draft model.

    If the draft model uses only some layers, its time is scaled down.
    """
    draft = predicted_footprint.draft
    if draft is None:
        return None
    speed = replace(machine_rates, unpacks=not draft.has_kernels).estimate_speed(
        draft.quantization, draft.alone, draft.parameters, draft.place_bytes
    )
    share = draft.kept_share
    return replace(
        speed,
        prefill=[(size, share * seconds) for size, seconds in speed.prefill],
        decode=[(size, share * seconds) for size, seconds in speed.decode],
        place_s=share * speed.place_s,
    )
