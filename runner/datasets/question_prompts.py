"""Builds prompts from questions and worked examples, in a chat template or as plain text.

`lm_eval_5shot` is, byte for byte, what lm-evaluation-harness 0.4.13 sends for its task gsm8k:
five other examples before each question, drawn from the whole train split for one question
after the other, by one generator and seed.
"""

from __future__ import annotations

import hashlib
import re
from random import Random

from runner.config.examples import ExamplesConfig
from runner.config.wording import PromptStyle, WordingConfig
from runner.datasets.items import Item
from runner.datasets.questions import hash_questions, load_train_split, load_worked_examples
from runner_base import ConfigError, check_value
from runner_base.notes import Note, note
from runner_engine import GenerationConfig, Message, Prompt

TEXT = "Question: {question}\nAnswer:"
CHAT = "{question}\n\n{instruction}"
LM_EVAL_SHOTS, LM_EVAL_SEED = 5, 1234
MAX_DRAWN = 1_000_000  # questions: takes seconds, and no test split has as many
LM_EVAL_STOPS = ("Question:", "</s>", "<|im_end|>")
LM_EVAL_GENERATION = {"temperature": 0.0, "max_new_tokens": 256}


def load_few_shot_examples(task: ExamplesConfig, items: list[Item]) -> tuple[list[list[Item]], str]:
    """Return the worked examples of each question, and a hash of all examples from which they are drawn.

    Jobs with more of the same questions have the same hash, so they can reuse each other's answers.
    """
    if task.prompt is not PromptStyle.lm_eval_5shot:
        examples = load_worked_examples(task)
        return [examples] * len(items), hash_questions(examples)
    pool = load_train_split(task, f"task.prompt={task.prompt.value}")
    if len(pool) < LM_EVAL_SHOTS:
        raise ConfigError(
            f"the train split has only {len(pool)} examples",
            key="task.prompt",
            value=task.prompt.value,
            code="too_large",
        )
    generator, drawn = Random(LM_EVAL_SEED), {}
    places = [item.position for item in items]
    wanted = set(places)
    need = f"task.prompt=lm_eval_5shot draws {LM_EVAL_SHOTS} examples for at most {MAX_DRAWN:,} questions"
    check_value(max(wanted) < MAX_DRAWN, "task.offset", task.offset, need, code="too_large")
    for position in range(max(wanted) + 1):  # a question gets the same examples wherever the job begins
        shots = generator.sample(pool, LM_EVAL_SHOTS)
        if position in wanted:
            drawn[position] = shots
    # the place of question 0, also where task.only leaves it out
    first = places[0] - items[0].number
    in_order = all(item.position == first + item.number for item in items)
    drawn_for = f"{hash_questions(pool)} {first if in_order else places}"
    return [drawn[position] for position in places], hashlib.sha256(drawn_for.encode()).hexdigest()


def get_few_shot_stop_strings(task: ExamplesConfig) -> tuple[str, ...]:
    """Return the stop strings that end a completion before the model writes another question."""
    if task.prompt is PromptStyle.chat:
        return ()
    if task.prompt is PromptStyle.lm_eval_5shot:
        return LM_EVAL_STOPS
    begin, *_ = (task.template or TEXT).partition("{question}")[0].strip().splitlines() or [""]
    return (f"\n\n{begin.strip()}", f"\n{begin.strip()}") if begin else ()


def make_lm_eval_difference_notes(task: ExamplesConfig, generation: GenerationConfig) -> list[Note]:
    """Return a warning for each setting that differs from lm-eval, whose published scores would not be
    comparable.
    """
    if task.prompt is not PromptStyle.lm_eval_5shot:
        return []
    values = {key: (getattr(generation, key), usual) for key, usual in LM_EVAL_GENERATION.items()}
    return [
        note("unlike_lm_eval", "warning", key=f"generation.{key}", value=value, usual=usual)
        for key, (value, usual) in values.items()
        if value != usual
    ]


def build_question_prompt(task: WordingConfig, item: Item, examples: list[Item]) -> Prompt:
    """Build a prompt from worked examples and a question, as a chat or as plain text."""
    if task.prompt is not PromptStyle.chat:
        return "".join(
            [
                *(f"{_format_worked_example(task, shot)}\n\n" for shot in examples),
                _fill_question_template(task, item),
            ]
        )
    turns = [Message("system", task.system)] if task.system else []
    for shot in examples:
        turns += [Message("user", _fill_question_template(task, shot)), Message("assistant", shot.answer)]
    return (*turns, Message("user", _fill_question_template(task, item)))


def format_continuation(prompt: Prompt, answer: str) -> str:
    return answer if not isinstance(prompt, str) or prompt[-1].isspace() else f" {answer}"


def _format_worked_example(task: WordingConfig, example: Item) -> str:
    question = _fill_question_template(task, example)
    return question + format_continuation(question, example.answer)


def _fill_question_template(task: WordingConfig, item: Item) -> str:
    """Insert the question into the template. Braces in the question are not treated as
    placeholders.
    """
    usual = TEXT if task.prompt is not PromptStyle.chat else CHAT if task.instruction else "{question}"
    values = {"question": item.question, "instruction": task.instruction}
    return re.sub(r"\{(question|instruction)\}", lambda name: values[name[1]], task.template or usual)
