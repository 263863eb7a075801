"""Creates all recall cases of a job, and adjusts the texts to the configured lengths in
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from runner.config.wording import PromptStyle
from runner.tasks import ResolvedJob, get_model_kind
from runner.tasks.recall.cases import CaseSettings, RenderedCase
from runner.tasks.recall.fillers import Filler, build_filler, vary_filler_for_haystack
from runner.tasks.recall.fitting import SizeGroup, set_largest_fitting_text_sizes
from runner.tasks.recall.judging import PlacedCase
from runner.tasks.recall.keys import RecallConfig
from runner.tasks.recall.kinds import is_ruler_kind, load_case_generator
from runner_base import ClusterUnit, ConfigError
from runner_compare.statistics import MIN_CLUSTERS
from runner_engine import Message, Prompt

ROOM = "generation.max_new_tokens"
TOKENS_A_LINE = 25  # of a text that is its own, about


def render_cases_with_fitting_filler(
    task: RecallConfig, filler_units: Sequence[str], resolved: ResolvedJob
) -> dict[int, PlacedCase]:
    """Return all cases by number, with filler text that fits the configured lengths. Loads only the
    tokenizer.

    The shortest length has the first numbers, so that more lengths change no number. Haystacks
    follow one another, so that one haystack at a time is cached.
    """
    kind = get_model_kind(resolved.config.model)

    def count_text_tokens(texts: Sequence[str]) -> list[int]:
        return [len(ids) for _, ids in kind.encode_prompts(resolved, texts)]

    def count_case_tokens(cases: Sequence[RenderedCase]) -> list[int]:
        return [
            len(ids)
            for _, ids in kind.encode_prompts(resolved, [build_case_prompt(task, case) for case in cases])
        ]

    filler = build_filler(filler_units, count_text_tokens)
    answer = resolved.config.generation.max_total_new_tokens
    groups = [*_create_recall_cases_by_length(task, filler, answer)]
    set_largest_fitting_text_sizes(
        groups, lambda group, tokens: _estimate_text_size(group, filler, tokens), count_case_tokens, ROOM
    )
    cases = [
        PlacedCase(
            case.kind,
            group.length,
            case.depth,
            case.number,
            case.at(group.size),
            group.text,
            ClusterUnit.text
            if group.text is not None and task.num_haystacks >= MIN_CLUSTERS
            else ClusterUnit.question,
        )
        for group in groups
        for case in group.cases
    ]
    reject_lossy_tokenizer(cases, resolved)
    return dict(sorted(enumerate(cases), key=lambda numbered: numbered[1].text or 0))


def build_case_prompt(task: RecallConfig, case: RenderedCase) -> Prompt:
    """Return a case's prompt: a chat message, or plain text that ends with the beginning of the answer."""
    if task.prompt is PromptStyle.text:
        return f"{case.prompt_text} {case.beginning}"
    turns = [Message("system", task.system)] if task.system else []
    return (*turns, Message("user", case.prompt_text))


def reject_lossy_tokenizer(cases: Sequence[PlacedCase], resolved: ResolvedJob) -> None:
    """Raise ConfigError if the tokenizer does not reproduce a requested value exactly."""
    values = [*dict.fromkeys(value for case in cases for value in case.asked.gold)]
    kind = get_model_kind(resolved.config.model)
    encoded = kind.encode_prompts(resolved, [f"It is {value}." for value in ("green", *values)])
    decode = kind.create_decoder(resolved)
    back = [decode(ids) for _, ids in encoded]
    if "green" not in back[0]:  # an engine whose tokens have no text of their own
        return
    for value, text in zip(values, back[1:], strict=True):
        if value not in text:
            raise ConfigError(
                (
                    f"this model's tokenizer changes {f'It is {value}.'!r} to {text!r}, so every "
                    "answer would be wrong. Choose another type: numbers, words or uuids"
                ),
                key="task.values",
                code="unsupported",
            )


def _create_recall_cases_by_length(
    task: RecallConfig, filler: Filler, answer_tokens: int
) -> Iterator[SizeGroup]:
    count = task.num_haystacks
    haystacks = [vary_filler_for_haystack(filler, text, task.cases_seed) for text in range(count)]
    for length in task.tokens:
        for kind in task.kinds:
            recipe = CaseSettings(
                kind,
                task.cases_seed,
                task.cases,
                task.depths,
                task.values.value,
                task.needles,
                filler,
                length,
            )
            if is_ruler_kind(kind):  # each case has its own text, or RULER's noise
                yield from (
                    SizeGroup(length, length - answer_tokens, [case])
                    for case in load_case_generator(kind)(recipe)
                )
                continue
            for text, haystack in enumerate(haystacks):
                in_text = replace(recipe, filler=haystack, text=text, texts=count)
                cases = [*load_case_generator(kind)(in_text)]
                yield SizeGroup(length, length - answer_tokens, cases, text=text if count > 1 else None)


def _estimate_text_size(group: SizeGroup, filler: Filler, num_tokens: int) -> int:
    return (
        num_tokens // TOKENS_A_LINE
        if group.cases[0].has_own_size
        else filler.count_units_for_tokens(max(0, num_tokens))
    )
