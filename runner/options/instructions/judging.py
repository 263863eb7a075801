"""Judges answers of task=instructions: which instructions an answer follows, strictly and loosely."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from runner.options.instructions.keys import ClusterKey
from runner.options.instructions.kinds import InstructionPrompt
from runner.tasks import QuestionJudge
from runner_base import FinishReason, Sample, Verdict
from runner_base.degeneration import find_loop_at_end

# what a sample records: the instructions that were not followed
FAILED, FAILED_LOOSE = ("failed", "failed_loose")
WORD = re.compile(r"\s*\S+")
MAX_CONTINUED_CHARS = 20_000  # the embedded prompts want at most a few hundred words


@dataclass(frozen=True)
class FollowedInstructions:
    """Whether each instruction of a prompt is followed. Loose: by any variant of the response."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def check_response(response: str, prompt: InstructionPrompt) -> FollowedInstructions:
    strict = tuple(instruction.is_followed(response) for instruction in prompt.instructions)
    variants = [*dict.fromkeys(_iterate_loose_response_variants(response))]
    loose = tuple(
        is_strict or any(instruction.is_followed(variant) for variant in variants)
        for instruction, is_strict in zip(prompt.instructions, strict, strict=True)
    )
    return FollowedInstructions(strict, loose)


def _iterate_loose_response_variants(response: str) -> Iterator[str]:
    """Yield the response without its first line, its last line or its asterisks, as IFEval's loose check does."""
    lines = response.split("\n")
    parts = (lines, lines[1:], lines[:-1], lines[1:-1])
    texts = [response, *("\n".join(part).strip() for part in parts[1:])]
    yield from texts[1:]
    yield from (text.replace("*", "") for text in texts)


class InstructionJudge(QuestionJudge):
    """Adds the verdict to samples of task=instructions. Caches checks for the metrics."""

    def __init__(self, prompts: Mapping[int, InstructionPrompt], cluster: ClusterKey) -> None:
        self.prompts, self.cluster = prompts, cluster
        # by prompt: the response and its check
        self._checked: dict[int, tuple[str, FollowedInstructions]] = {}

    def __call__(self, sample: Sample, *_completions: object) -> Sample:
        prompt, followed = self.prompts[sample.index], self.check_sample_follows_instructions(sample)
        kinds = [instruction.kind for instruction in prompt.instructions]
        extracted = {
            FAILED: _join_failed(kinds, followed.strict),
            FAILED_LOOSE: _join_failed(kinds, followed.loose),
        }
        return replace(
            sample,
            answer=replace(
                sample.answer, extracted=extracted, verdict=_choose_verdict(sample, followed, prompt)
            ),
            question=prompt.prompt,
            gold=prompt.gold,
            cluster=kinds[0] if self.cluster is ClusterKey.kind else None,
        )

    def check_sample_follows_instructions(self, sample: Sample) -> FollowedInstructions:
        prompt, response = self.prompts[sample.index], _get_response(sample)
        known = self._checked.get(sample.index)
        if known is None or known[0] != response:
            known = response, check_response(response, prompt)
            self._checked[sample.index] = known
        return known[1]

    def has_same_question(self, sample: Sample) -> bool:
        prompt = self.prompts.get(sample.index)
        return prompt is not None and (sample.question, sample.gold) == (prompt.prompt, prompt.gold)


def _get_response(sample: Sample) -> str:
    """Return the text after the thinking. Errors and answers cut off while thinking have none."""
    parts = sample.answer.parts
    return "" if parts.is_open or sample.answer.finish_reason is FinishReason.error else parts.answer


def _choose_verdict(sample: Sample, followed: FollowedInstructions, prompt: InstructionPrompt) -> Verdict:
    if all(followed.strict):
        return Verdict.correct
    response = _get_response(sample)
    if sample.answer.is_unfinished or (
        sample.answer.is_stuck_in_loop
        and all(check_response(_extend_response_by_repeating_loop(response), prompt).strict)
    ):
        return Verdict.cut_off
    return Verdict.wrong if response.strip() else Verdict.no_answer


def _extend_response_by_repeating_loop(response: str) -> str:
    """Return a response with its last loop continued, so that it is long enough for every number of words."""
    loop = find_loop_at_end(response)
    if loop is None:  # the thinking is a loop
        return response
    unit = "".join(WORD.findall(response)[-len(loop.unit.split()) :])
    return response + unit * (MAX_CONTINUED_CHARS // len(unit))


def _join_failed(kinds: list[str], followed: tuple[bool, ...]) -> str | None:
    return (
        ", ".join(kind for kind, is_followed in zip(kinds, followed, strict=True) if not is_followed) or None
    )
