"""A small greedy scorer: the share of problems that a model solves, with the prompts of the
evaluation task."""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch

from runner.datasets.word_problems import Problem
from tools.embedded_model.data import task_prompt

FINAL_NUMBER = re.compile(r"#### (-?\d+)")
MAX_NEW_TOKENS = 200
Z_95 = 1.959964


@dataclass(frozen=True)
class Score:
    """How many of n were solved."""

    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """Return the share solved."""
        return self.correct / self.n

    def compute_interval(self) -> tuple[float, float]:
        """Return the 95 % Wilson interval of the share."""
        p, n, z2 = self.accuracy, self.n, Z_95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.compute_interval()
        return f"{100 * self.accuracy:.1f} % (95 % interval {100 * low:.1f}–{100 * high:.1f}, n = {self.n})"


def score(model: Any, tokenizer: Any, asked: list[Problem], batch_size: int = 100) -> Score:
    """Solve the problems greedily, zero-shot, and count the right ones."""
    prompts = ["".join(piece.text for piece in task_prompt(one.question)) for one in asked]
    texts = complete(model, tokenizer, prompts, batch_size)
    matches = [FINAL_NUMBER.search(text) for text in texts]
    right = sum(m is not None and m[1] == one.gold for m, one in zip(matches, asked, strict=True))
    return Score(right, len(asked))


def complete(
    model: Any, tokenizer: Any, prompts: list[str], batch_size: int = 100, max_new_tokens: int | None = None
) -> list[str]:
    """Continue each prompt greedily until the end of its turn."""
    texts = [""] * len(prompts)
    # Prompts of similar length are batched together: less padding, and a batch ends when its
    # longest answer does.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True)
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens or MAX_NEW_TOKENS)
        answers = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, answer in zip(chosen, answers, strict=True):
            texts[index] = answer
    return texts
