"""Reads prompts in IFEval's format from a file, a folder or the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from runner.datasets.items import QuestionSource, iter_question_rows, parse_json_row
from runner.datasets.row_layouts import RowKeys
from runner.options.instructions.kinds import KINDS, Instruction, InstructionPrompt
from runner_base import DataError, format_unknown_choice_message

KEYS = ("key", "prompt", "instruction_id_list", "kwargs")


def iter_ifeval_prompts(data: str, split: str) -> Iterator[InstructionPrompt]:
    """Yield the prompts of a split. Raises DataError with the line of a malformed record."""
    source = QuestionSource(data, split, "task.data", RowKeys())
    for location, row in iter_question_rows(source, _select_columns):
        try:
            yield _parse_prompt(parse_json_row(row))
        except ValueError as error:
            end = "" if str(error).endswith("?") else "."
            raise DataError(
                f"{error}{end} Correct or remove this record. Its keys must be {', '.join(KEYS)}",
                key=location,
                code="damaged",
            ) from error


def _select_columns(names: list[str]) -> list[str]:
    if missing := [key for key in KEYS if key not in names]:
        raise ValueError(f"the column {missing[0]} is missing. IFEval has the columns {', '.join(KEYS)}")
    return [*KEYS]


def _parse_prompt(row: dict[str, Any]) -> InstructionPrompt:
    if missing := [key for key in KEYS if key not in row]:
        raise ValueError(f"the key {missing[0]} is missing")
    kinds, arguments, prompt = row["instruction_id_list"], row["kwargs"], row["prompt"]
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("prompt must be a text")
    if not isinstance(kinds, Sequence) or isinstance(kinds, str) or not kinds:
        raise ValueError("instruction_id_list must be a list of instruction ids")
    if not isinstance(arguments, Sequence) or isinstance(arguments, str) or len(arguments) != len(kinds):
        raise ValueError(f"kwargs must be a list of {len(kinds)} objects, one for each instruction")
    instructions = [_parse_instruction(*pair) for pair in zip(kinds, arguments, strict=True)]
    return InstructionPrompt(str(row["key"]), prompt, tuple(instructions))


def _parse_instruction(kind: Any, arguments: Any) -> Instruction:
    if kind not in KINDS:
        raise ValueError(format_unknown_choice_message("instruction", str(kind), KINDS, show_choices=False))
    if not isinstance(arguments, dict):
        raise ValueError(f"kwargs of {kind} must be an object")
    return Instruction.from_arguments(kind, arguments)
