"""The questions of benchmarks: GSM8K's or those of the embedded generator, as prompts, and the
options for them."""

from __future__ import annotations

import argparse

from engines import ROOT

from runner.config.wording import PromptStyle
from runner.datasets.question_prompts import build_question_prompt, load_few_shot_examples
from runner.datasets.questions import load_questions
from runner.tasks.gsm8k.keys import Gsm8kConfig


def load_prompts(data: str, limit: int, shots: int) -> list[str]:
    """Return the prompts as text: worked examples and the question."""
    task = Gsm8kConfig(data=data, limit=limit, prompt=PromptStyle.text, shots=shots)
    items = load_questions(task)
    prompts = (
        build_question_prompt(task, item, shots)
        for item, shots in zip(items, load_few_shot_examples(task, items)[0], strict=True)
    )
    return [prompt for prompt in prompts if isinstance(prompt, str)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of questions and runs."""
    add_questions(parser)
    parser.add_argument("--repeats", type=int, default=3)


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Add the options of questions."""
    add_data(parser)
    parser.add_argument("--shots", type=int, default=5, help="worked examples where prompts are plain text")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, help="default: as our engine decides, for all")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of which questions, how many, and the number format that answers them."""
    given = ROOT.parent / "shared" / "data" / "gsm8k"
    data = str(given) if given.is_dir() else ""
    parser.add_argument(
        "--gsm8k", default=data, help="folder with GSM8K's JSONL files; '': the embedded generator"
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--questions", type=int, default=128)
