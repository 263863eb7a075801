"""All cases of a job as they are asked, each as long as its length allows in the model's own
tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from runner.config.wording import PromptStyle
from runner.tasks import ResolvedJob, kind_of
from runner.tasks.recall.cases import Asked, Recipe
from runner.tasks.recall.fillers import Filler, draw_haystack, measured
from runner.tasks.recall.fitting import Group, fit
from runner.tasks.recall.judging import Placed
from runner.tasks.recall.keys import RecallConfig
from runner.tasks.recall.kinds import drawn_by, is_of_ruler
from runner_base import ClusterUnit, ConfigError
from runner_compare.statistics import MIN_CLUSTERS
from runner_engine import Message, Prompt

ROOM = "generation.max_new_tokens"
TOKENS_A_LINE = 25  # of a text that is its own, about


def written(task: RecallConfig, units: Sequence[str], resolved: ResolvedJob) -> dict[int, Placed]:
    """Return every case by its number; only the tokenizer is loaded.

    The shortest length has the first numbers, so that more lengths change no number. Haystacks are asked one after
    another, so that one at a time is cached.
    """
    kind = kind_of(resolved.config.model)

    def count_texts(texts: Sequence[str]) -> list[int]:
        return [len(ids) for _, ids in kind.encoded(resolved, texts)]

    def count_asked(asked: Sequence[Asked]) -> list[int]:
        return [len(ids) for _, ids in kind.encoded(resolved, [prompt_of(task, case) for case in asked])]

    filler = measured(units, count_texts)
    answer = resolved.config.generation.most_new_tokens
    groups = [*_groups(task, filler, answer)]
    fit(groups, lambda group, tokens: _guess(group, filler, tokens), count_asked, ROOM)
    cases = [
        Placed(
            case.kind,
            group.length,
            case.depth,
            case.number,
            case.at(group.size),
            group.text,
            ClusterUnit.text
            if group.text is not None and task.haystacks >= MIN_CLUSTERS
            else ClusterUnit.question,
        )
        for group in groups
        for case in group.cases
    ]
    check_values(cases, resolved)
    return dict(sorted(enumerate(cases), key=lambda numbered: numbered[1].text or 0))


def prompt_of(task: RecallConfig, asked: Asked) -> Prompt:
    """Return a case's prompt: a turn of a chat, or plain text that ends in the beginning of an
    answer."""
    if task.prompt is PromptStyle.text:
        return f"{asked.text} {asked.beginning}"
    turns = [Message("system", task.system)] if task.system else []
    return (*turns, Message("user", asked.text))


def check_values(cases: Sequence[Placed], resolved: ResolvedJob) -> None:
    """Reject a tokenizer that does not give asked values back as they were: no answer could be
    right."""
    values = [*dict.fromkeys(value for case in cases for value in case.asked.gold)]
    kind = kind_of(resolved.config.model)
    encoded = kind.encoded(resolved, [f"It is {value}." for value in ("green", *values)])
    decode = kind.decoder(resolved)
    back = [decode(ids) for _, ids in encoded]
    if "green" not in back[0]:  # an engine whose tokens have no text of their own
        return
    for value, text in zip(values, back[1:], strict=True):
        if value not in text:
            raise ConfigError(
                f"this model's tokenizer turns {f'It is {value}.'!r} into {text!r}, so that no answer "
                "could be right: choose numbers, words or uuids, whichever it keeps",
                key="task.values",
                code="unsupported",
            )


def _groups(task: RecallConfig, filler: Filler, answer: int) -> Iterator[Group]:
    count = task.haystacks
    haystacks = [draw_haystack(filler, text, task.cases_seed) for text in range(count)]
    for length in task.tokens:
        for kind in task.kinds:
            recipe = Recipe(
                kind,
                task.cases_seed,
                task.cases,
                task.depths,
                task.values.value,
                task.needles,
                filler,
                length,
            )
            if is_of_ruler(kind):  # each case has its own text, or RULER's noise
                yield from (Group(length, length - answer, [case]) for case in drawn_by(kind)(recipe))
                continue
            for text, haystack in enumerate(haystacks):
                in_text = replace(recipe, filler=haystack, text=text, texts=count)
                cases = [*drawn_by(kind)(in_text)]
                yield Group(length, length - answer, cases, text=text if count > 1 else None)


def _guess(group: Group, filler: Filler, tokens: int) -> int:
    """Return about how large a text of so many tokens is."""
    return tokens // TOKENS_A_LINE if group.cases[0].has_own_size else filler.size_of(max(0, tokens))
