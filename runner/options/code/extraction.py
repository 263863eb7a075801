"""Finds the program in an answer: in fenced blocks, between prose, or as the rest of a function."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from runner.options.code.problems import CodeProblem

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n`]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.DOTALL | re.M)
_CODE_BEGINS = re.compile(r"^(?:import |from \w|def |async def |class |@|[A-Za-z_]\w*\s*(?::[^=\n]+)?= ?)")
_MAX_TRIMMED_LINES = 400


def extract_program(answer: str, problem: CodeProblem) -> str | None:
    """Return the whole program of an answer. None if the answer does not contain the function.

    The first fenced block that defines the function counts. Without one, the text around the definition
    counts, and then a block or text that continues the function of the prompt.
    """
    answer = answer.replace("\r\n", "\n")
    blocks = [found[1] for found in _FENCE.finditer(answer)]
    sources = [*blocks, answer]
    for source in sources:
        if _defines(source, problem.entry_point):
            is_whole = source is not answer and _is_valid(source)
            program = source if is_whole else _trim_prose(source, problem.entry_point)
            return _add_preamble(program, problem)
    if problem.is_described:
        return None
    for source in sources:
        if (body := _append_function_body_to_prompt(source, problem)) is not None:
            return body
    return None


def _defines(text: str, name: str) -> bool:
    pattern = rf"^(?:(?:async\s+)?def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*="
    return re.search(pattern, text, re.M) is not None


def _trim_prose(text: str, name: str) -> str:
    """Return the longest valid program around a definition. An invalid program is returned as it is."""
    lines = text.split("\n")
    defined = next(number for number, line in enumerate(lines) if _defines(line, name))
    begins = [number for number in range(defined) if _CODE_BEGINS.match(lines[number])] + [defined]
    for begin in begins[:20]:
        for program in _iter_shorter(lines[begin:], defined - begin + 1):
            if _is_valid(program):
                return program
    return "\n".join(lines[begins[0] :]).strip("\n")


def _append_function_body_to_prompt(text: str, problem: CodeProblem) -> str | None:
    """Return the prompt with the text as the function's body. None if the text is no such body."""
    lines = text.strip("\n").split("\n")
    is_indented = lines[0][:1].isspace()
    variants = [lines]
    if not is_indented:  # the spaces before the first line, or before all lines, are missing
        variants = [
            [f"    {lines[0]}", *lines[1:]],
            [f"    {line}" if line.strip() else line for line in lines],
        ]
    bodies = [
        body
        for variant in variants
        for body in _iter_shorter(variant, 1)
        if body.strip() and _is_valid(problem.prompt + body) and (is_indented or _is_inside(body))
    ]
    program = problem.prompt + max(bodies, key=lambda body: body.count("\n"), default="")
    return program if bodies and _has_function_with_statements(program, problem.entry_point) else None


def _is_inside(body: str) -> bool:
    """Return whether all lines of a body are indented."""
    return all(line[:1].isspace() for line in body.split("\n") if line.strip())


def _has_function_with_statements(program: str, name: str) -> bool:
    """Return whether a function contains more than texts and single names, such as words of prose."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            plain = (ast.Constant, ast.Name, ast.Tuple)
            return any(
                not (isinstance(each, ast.Expr) and isinstance(each.value, plain)) for each in node.body
            )
    return False


def _iter_shorter(lines: list[str], fewest: int) -> Iterator[str]:
    for count in range(len(lines), max(fewest, len(lines) - _MAX_TRIMMED_LINES) - 1, -1):
        yield "\n".join(lines[:count])


def _is_valid(program: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(program)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _add_preamble(program: str, problem: CodeProblem) -> str:
    """Put the imports and helper functions of the prompt before a program, as HumanEval does."""
    preamble = problem.preamble.strip("\n")
    if not preamble or program.lstrip().startswith(preamble):
        return program
    return f"{preamble}\n\n\n{program}"


def build_completion_prompt(problem: CodeProblem) -> str:
    """Return the beginning of a Python file that the model continues."""
    if not problem.is_described:
        return problem.prompt
    return f'"""\n{problem.prompt.strip()}\n{problem.shown_tests}\n"""\n'


def build_chat_message(problem: CodeProblem, instruction: str) -> str:
    if problem.is_described:
        text = f"{problem.prompt.strip()}\nIt must pass these tests:\n```python\n{problem.shown_tests}\n```"
    else:
        text = f"```python\n{problem.prompt.strip()}\n```"
    return f"{instruction}\n\n{text}" if instruction else text


def list_stop_strings(problem: CodeProblem) -> tuple[str, ...]:
    """Return what ends a completion: the next statement outside the function."""
    ends = ("\nclass ", "\nif __name__", "\nprint(", "\nassert ", '\n"""', "\n```")
    return ends if problem.is_described else ("\ndef ", "\n#", "\n@", *ends)
