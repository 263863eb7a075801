"""What a new user mistypes: each is one line with the likely fix, before anything is imported that
takes long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]  # the fixture `runner`: takes arguments, returns a finished command


@pytest.mark.sampled(13)
@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("-m quantization=none, int8 plan=true", "Write quantization=none,int8"),
        ("-m quantization=none ,int8,nf4", "Write quantization=none,int8,nf4"),
        ("-m seed=1, 2, 3 task.limit=2", "Write seed=1,2,3"),
        ("task.prompts=Hello, world", "Write \"task.prompts='Hello, world'\" if it is one text"),
        ("chat", "did you mean task=chat or generation=chat?"),
        ("gsm8k", "did you mean task=gsm8k?"),
        ("task.limit = 3", "Write task.limit=3"),
        ("task.limit =3 model=stub", "Write task.limit=3"),
        ("model=stub task.limit= 3", "Write task.limit=3"),
        ("--task gsm8k", "Write task=gsm8k"),
        ("--task.limit=3", "Write task.limit=3"),
        ("--multrun seed=1,2", "Did you mean --multirun?"),
        ("task.limt=3", "Did you mean task.limit?"),
        ("hello", "write KEY=VALUE or GROUP=CHOICE (all keys: --help)"),
    ],
)
def test_a_mistake_is_one_line_with_the_likely_fix(runner: Run, words: str, fix: str) -> None:
    done = runner(*words.split(), database=False)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.endswith(f"{fix}\n")
    assert done.err.count("\n") == 1


@pytest.mark.thorough
def test_values_that_look_like_mistakes_are_left_alone(runner: Run) -> None:
    stub = ("model=stub", "task.limit=1", "tracking=none", "print=none")
    assert runner(*stub, "task.instruction=").code == 0, "an empty value before an option"
    assert runner("-m", *stub, "seed=1,2", "plan=true").code == 0
    assert runner("task.instruction=Think, then answer", *stub).code == 0


@pytest.mark.thorough
def test_a_mistake_imports_no_torch(runner: Run) -> None:
    done = runner("--task", "gsm8k", process=True, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert done.code == 2
    assert "hydra" in imported
    assert not imported & {"torch", "mlflow", "numpy", "transformers"}


@pytest.mark.parametrize(
    ("module", "words", "fix"),
    [
        ("runner_compare", "--margn 2", "--margn: unknown option. Did you mean --margin?"),
        (
            "runner_compare",
            "--output-dir a --output-dir b",
            "runner-compare: --output-dir a --output-dir b: ",
        ),
        ("runner.tracking.sync", "--ouput-dir x", "Did you mean --output-dir?"),
    ],
)
def test_options_of_other_commands(runner: Run, module: str, words: str, fix: str) -> None:
    done = runner(*words.split(), module=module)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert fix in done.err
