"""What the tests of the stream share: prompts with beginnings in common, and transformers' own answers to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from runner.engines import base
from runner.engines.base import Completion, Engine, Request

SYSTEM = "You are one of several agents who work on a task together; answer in few words, and think before you do. "
AGENTS = ("Agent one reads the numbers, and only those. ", "Agent two checks what the others have said so far. ")
QUESTIONS = ("Ann has 3 apples.", "How many pens are left?", "1+1=", "x")
PROMPTS = [
    *(SYSTEM + agent + question for agent in AGENTS for question in QUESTIONS),  # two prefixes inside another
    SYSTEM + AGENTS[0] + QUESTIONS[0],  # the same again
    SYSTEM + AGENTS[0],  # one inside others
    "Nothing in common with anybody.",
    "y",
]
NEW_TOKENS = 20
# Random weights know no word, but each step's first choice has to be clear: float noise is about 1e-6 of the spread of
# the logits, so at this distance between first and second it turns no choice around.
CLEAR = 2e-5


def requests(prompts: Sequence[str] = PROMPTS, **keys: Any) -> list[Request]:
    """One request a prompt."""
    return [Request(index, prompt, **keys) for index, prompt in enumerate(prompts)]


def tokens_of(completions: Iterable[Completion]) -> dict[Any, list[int]]:
    """The tokens of each completion; none may have ended in an error."""
    done = {}
    for completion in completions:
        assert completion.error is None, completion.error
        assert completion.id not in done, f"request {completion.id} was answered twice"
        done[completion.id] = completion.token_ids
    return done


def complete(engine: Engine, asked: Sequence[Request], batch_size: int | None = None) -> dict[Any, list[int]]:
    """The tokens that an engine answers with."""
    done = tokens_of(base.complete(engine, asked, batch_size))
    assert sorted(done) == sorted(request.id for request in asked)
    return done


def generated(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] = PROMPTS,
    new_tokens: int = NEW_TOKENS,
    clear: float = CLEAR,
    **keys: Any,
) -> dict[Any, list[int]]:
    """What transformers' own generate says to one prompt at a time; every step of it was a clear choice."""
    answers = {}
    for index, prompt in enumerate(prompts):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens,
            return_dict_in_generate=True, output_scores=True, **keys,
        )  # fmt: skip
        answers[index] = out.sequences[0, ids.shape[1] :].tolist()
        scores = torch.stack(out.scores)[:, 0]
        scores = scores.where(scores.isfinite(), scores[scores.isfinite()].min())
        best = scores.topk(2, dim=-1).values
        margin = ((best[:, 0] - best[:, 1]) / scores.std(dim=-1)).min()
        assert float(margin) >= clear, f"prompt {index}: a toss-up, {margin:.1e} between first and second"
    return answers
