"""Shared by the tests of the stream: prompts with common prefixes, and transformers' own answers to
them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Request
from runner_engine.sessions.contract import Engine

SYSTEM = "You are one of several agents who work on a task together; answer in few words, and think before you do. "
AGENTS = (
    "Agent one reads the numbers, and only those. ",
    "Agent two checks what the others have said so far. ",
)
QUESTIONS = ("Ann has 3 apples.", "How many pens are left?", "1+1=", "x")
PROMPTS = [
    # two prefixes inside another
    *(SYSTEM + agent + question for agent in AGENTS for question in QUESTIONS),
    SYSTEM + AGENTS[0] + QUESTIONS[0],  # the same again
    SYSTEM + AGENTS[0],  # one inside others
    "Nothing in common with anybody.",
    "y",
]
NEW_TOKENS = 20
# With random weights, too, each step's first choice must be clear: float noise is about 1e-6 of the
# spread of the logits, so at this distance between first and second it changes no choice.
CLEAR = 2e-5


def requests(prompts: Sequence[str] = PROMPTS, **keys: Any) -> list[Request]:
    """Return one request per prompt."""
    return [Request(index, prompt, **keys) for index, prompt in enumerate(prompts)]


def tokens_of(completions: Iterable[Completion]) -> dict[Any, list[int]]:
    """Return the tokens of each completion; none may have ended in an error."""
    done = {}
    for completion in completions:
        assert completion.error is None, completion.error
        assert completion.id not in done, f"request {completion.id} was answered twice"
        done[completion.id] = completion.answer.token_ids
    return done


def complete(
    engine: Engine, requests_to_run: Sequence[Request], batch_size: int | None = None
) -> dict[Any, list[int]]:
    """Return the tokens of an engine's answers."""
    done = tokens_of(contract.complete_requests(engine, requests_to_run, batch_size))
    assert sorted(done) == sorted(request.id for request in requests_to_run)
    return done


def generated(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] = PROMPTS,
    new_tokens: int = NEW_TOKENS,
    clear: float = CLEAR,
    **keys: Any,
) -> dict[Any, list[int]]:
    """Return the answers of transformers' own generate, one prompt at a time; every step must be a
    clear choice."""
    answers = {}
    for index, prompt in enumerate(prompts):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens,
            return_dict_in_generate=True, output_scores=True, **keys,
        )  # fmt: skip
        answers[index] = out.sequences[0, ids.shape[1] :].tolist()
        _check_clear(torch.stack(out.scores)[:, 0], index, clear)
    return answers


def chosen(
    model: Any, tokenizer: Any, prompts: Sequence[str], answers: dict[Any, list[int]], clear: float = CLEAR
) -> dict[Any, list[int]]:
    """Return what transformers' own pass chooses behind each token of given answers, in one pass
    for each prompt.

    These are the answers if, and only if, each of their tokens is the model's choice: then generate
    gives them, too.
    """
    choices = {}
    for index, prompt in enumerate(prompts):
        ids = tokenizer(prompt)["input_ids"]
        with torch.inference_mode():
            scores = model(torch.tensor([[*ids, *answers[index][:-1]]])).logits[0, len(ids) - 1 :]
        choices[index] = scores.argmax(-1).tolist()
        _check_clear(scores, index, clear)
    return choices


def _check_clear(scores: torch.Tensor, prompt: int, clear: float) -> None:
    scores = scores.where(scores.isfinite(), scores[scores.isfinite()].min())
    best = scores.topk(2, dim=-1).values
    margin = ((best[:, 0] - best[:, 1]) / scores.std(dim=-1)).min()
    assert float(margin) >= clear, f"prompt {prompt}: a toss-up, {margin:.1e} between first and second"
