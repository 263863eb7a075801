"""Trains a small LoRA adapter for a real model in minutes, for the studies of adapters and of calls of functions.

`python bench/short_lora.py BASE FOLDER [--texts problems --steps 40]`: all linear layers of the last third of the
model's layers (`--texts calls`: of all of them), rank 8, float32, from a fixed seed. The problems are practice ones, of
up to four steps, which no split has. The calls are of the functions of task=tools, which are offered as
`task.tool_placement=system` does, with other questions than those that ship.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from itertools import count, cycle, islice
from pathlib import Path
from random import Random
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from heading import parse_arguments

from runner.datasets.word_problems import generate_practice_problem
from runner.tasks.tools.cases import read_installed_tool_cases
from runner.tasks.tools.distractors import create_distractors
from runner_engine import tool_calls
from tools.tool_calls_data import MAKERS
from tools.tool_functions import FUNCTIONS

STEPS_OF_PROBLEMS = (1, 2, 3, 4)
RANK, RATE, BATCH = 8, 2e-3, 2
MOST_DISTRACTORS = 2  # beside the functions of a question
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def problems() -> Iterator[tuple[list[dict[str, str]], str]]:
    """Yield problems as chats, with their worked answers."""
    for index, steps in zip(count(), cycle(STEPS_OF_PROBLEMS), strict=False):
        problem = generate_practice_problem(steps, index)
        yield [{"role": "user", "content": problem.question}], problem.answer


def calls() -> Iterator[tuple[list[dict[str, str]], str]]:
    """Yield questions that offer functions, and the calls that are right, or words where none is."""
    known = {function.name: function.schema for function in FUNCTIONS}
    form = tool_calls.import_tool_call_format(tool_calls.USUAL)
    shipped = {case.question for case in read_installed_tool_cases()}
    for index, category in zip(count(), cycle(MAKERS), strict=False):
        case = MAKERS[category](Random(f"practice/{index}"))
        if case["question"] in shipped:
            continue
        further = create_distractors(index % (MOST_DISTRACTORS + 1), index)
        offered = [*further, *(known[name] for name in case["functions"])]
        wanted = [
            {"name": name, "arguments": {key: some[0] for key, some in allowed.items() if some[0] != ""}}
            for name, allowed in case["calls"]
        ]
        chat = [
            {"role": "system", "content": tool_calls.append_tools_to_system_message(offered, form, None)},
            {"role": "user", "content": case["question"]},
        ]
        yield chat, json.dumps(wanted) if wanted else "None of these functions does that."


TEXTS = {"problems": problems, "calls": calls}


def as_tokens(
    tokenizer: Any, chats: Iterator[tuple[list[dict[str, str]], str]]
) -> Iterator[tuple[list[int], int]]:
    """Yield chats with their answers as tokens, and where each answer begins."""
    for chat, right in chats:
        asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
        answer = tokenizer(right, add_special_tokens=False)["input_ids"]
        yield [*ids, *answer, tokenizer.eos_token_id], len(ids)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--texts", choices=TEXTS, default="problems")
    parser.add_argument("--steps", type=int, default=40)
    options = parse_arguments(parser)
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    base = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    layers = base.config.num_hidden_layers
    first = 0 if options.texts == "calls" else 2 * layers // 3
    config = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR,
        layers_to_transform=[*range(first, layers)],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(base, config)
    trained = [numbers for numbers in model.parameters() if numbers.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    made, started = as_tokens(tokenizer, TEXTS[options.texts]()), time.process_time()
    for step in range(options.steps):
        total = 0.0
        for ids, begin in islice(made, BATCH):
            tokens = torch.tensor([ids])
            labels = tokens.clone()
            labels[:, :begin] = -100
            loss = model(input_ids=tokens, labels=labels).loss / BATCH
            loss.backward()
            total += float(loss)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 5) * (1 - step / options.steps)
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: {total:.3f} nats a token, {time.process_time() - started:.0f} s", flush=True)
    model.save_pretrained(options.folder)


if __name__ == "__main__":
    main()
