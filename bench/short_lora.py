"""Trains a small LoRA adapter for a real model on the problems that ship, in minutes, for the study of adapters.

`python bench/short_lora.py BASE FOLDER [--steps 40]`: all linear layers of the last third of the model's layers,
rank 8, float32, from a fixed seed. The problems are practice ones, of up to four steps, which no split has.
"""

from __future__ import annotations

import argparse
import time
import warnings
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from runner.datasets.word_problems import practice_problem

STEPS_OF_PROBLEMS = (1, 2, 3, 4)
RANK, RATE, BATCH = 8, 2e-3, 2
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def texts(tokenizer: Any, count: int) -> list[tuple[list[int], int]]:
    """Return so many problems with their worked answers as tokens, and where each answer begins."""
    made = []
    for index, steps in zip(range(count), cycle(STEPS_OF_PROBLEMS), strict=False):
        problem = practice_problem(steps, index)
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.question}],
            tokenize=False,
            add_generation_prompt=True,
        )
        ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
        answer = tokenizer(problem.answer, add_special_tokens=False)["input_ids"]
        made.append(([*ids, *answer, tokenizer.eos_token_id], len(ids)))
    return made


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    base = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    layers = base.config.num_hidden_layers
    config = LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR,
        layers_to_transform=[*range(2 * layers // 3, layers)],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(base, config)
    trained = [numbers for numbers in model.parameters() if numbers.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    made, started = texts(tokenizer, options.steps * BATCH), time.process_time()
    for step in range(options.steps):
        total = 0.0
        for ids, begin in made[step * BATCH : (step + 1) * BATCH]:
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
        print(
            f"step {step}: {total:.3f} nats a token, {time.process_time() - started:.0f} s",
            flush=True,
        )
    model.save_pretrained(options.folder)


if __name__ == "__main__":
    main()
