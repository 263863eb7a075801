"""Runs programs with tests in the sandbox. The result is an outcome such as passed, failed or timeout."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from runner.sandbox import program_tests_child
from runner.sandbox.sandbox import LONGEST_CODE, ProcessOutput, Sandbox, StopKind
from runner_base.child_process import describe_exit_code

NUMPY = "numpy"


class TestOutcome(StrEnum):
    """What came of a program with tests."""

    __test__ = False  # no class of tests for pytest

    passed = "passed"
    failed = "failed"  # an assertion failed
    error = "error"  # another exception, or the process ended
    timeout = "timeout"
    out_of_memory = "out_of_memory"
    too_much_output = "too_much_output"
    refused = "refused"  # the sandbox blocked something


@dataclass(frozen=True)
class TestedProgram:
    """Outcome of a program with tests, and the reason if it has not passed."""

    __test__ = False

    outcome: TestOutcome
    reason: str = ""


STOPS = {
    StopKind.timeout: TestOutcome.timeout,
    StopKind.disk_full: TestOutcome.refused,
    StopKind.wrote_to_pipe: TestOutcome.refused,
}


def run_program_with_tests(
    sandbox: Sandbox, program: str, tests: str, names: Sequence[str] = (), functions: Sequence[str] = ()
) -> TestedProgram:
    """Run a program, then its tests. The tests see the given names of the program, or all names.

    `functions` are the names that the tests only call. What they return is checked, even if they are classes.
    Several threads may call this function with the same sandbox.
    """
    if len(program) > LONGEST_CODE:
        return TestedProgram(TestOutcome.refused, f"the program is longer than {LONGEST_CODE} characters")
    sandbox.detect_protections()
    token = secrets.token_hex(16)
    packages = _find_numpy_folder() if NUMPY in program or NUMPY in tests else ()
    output = sandbox.run_process(
        (program,),
        sandbox.limits,
        tests=tests,
        names=tuple(names),
        functions=(*names, *functions),
        token=token,
        packages=packages,
        test_runner=_compile_test_runner(),
    )
    return _classify_test_output(output, sandbox, token)


def _classify_test_output(output: ProcessOutput, sandbox: Sandbox, token: str) -> TestedProgram:
    if output.stop is not None:
        return TestedProgram(STOPS[output.stop], output.stop_reason)
    if not output.is_complete:
        if output.exceeded_cpu_limit(sandbox.limits):
            return TestedProgram(TestOutcome.timeout, f"more than {sandbox.limits.cpu_s} s of CPU time")
        if output.data:
            return TestedProgram(TestOutcome.refused, "wrote to the result pipe")
        return TestedProgram(
            TestOutcome.error, f"{describe_exit_code(output.exit_code)} before the tests ended"
        )
    _, answer, reason, _ = output.fields
    if secrets.compare_digest(answer.encode(), token.encode()):
        return TestedProgram(TestOutcome.passed)
    known = {TestOutcome.failed, TestOutcome.out_of_memory, TestOutcome.refused}
    if answer in known:
        return TestedProgram(TestOutcome(answer), reason[:400])
    is_flood = not answer and reason.startswith("printed more than")
    return TestedProgram(TestOutcome.too_much_output if is_flood else TestOutcome.error, reason[:400])


@cache
def _compile_test_runner() -> object:
    path = Path(program_tests_child.__file__)
    return compile(path.read_text(encoding="utf-8"), path.name, "exec", dont_inherit=True)


@cache
def _find_numpy_folder() -> tuple[str, ...]:
    """Return the folder that contains the package numpy, without importing it. Empty if there is none."""
    spec = importlib.util.find_spec(NUMPY)
    return () if spec is None or spec.origin is None else (str(Path(spec.origin).parents[1]),)
