"""Log-probabilities from a server of llama.cpp, which tells those of new tokens only, and not of a
prompt's (its issue 27174).

So each token of a continuation is asked for as the next one: a bias of its logit makes it the
likeliest, and the server tells the log-probability that it has without the bias, and the likeliest
token's. What is before it stays in the server's cache: each token costs one step of decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from runner.options.remote.faults import Fault
from runner.options.remote.scoring import Scorer, Tokens
from runner.options.remote.token_scores import ScoredContinuation, logarithm
from runner_base import ConfigError

BIAS = 1e6  # far above any difference of logits


class ForcedScorer(Scorer):
    """Asks for each token as the next one."""

    NEEDED = "/tokenize, /apply-template and, in /completion, n_probs and logit_bias, as llama.cpp has"

    async def _tokenize(self, **parameters: Any) -> Tokens:
        """Return a text's tokens; the server adds special tokens to each text that it completes,
        and to a rendered chat, too."""
        text = str(parameters["prompt"])
        body = {"content": text, "add_special": True, "parse_special": True}
        answer = await self._post("tokenize", body)
        return Tokens(self._ids(answer), text)

    async def _tokenize_chat(self, turns: list[dict[str, Any]]) -> Tokens:
        answer = await self._post("apply-template", {"messages": turns})
        text = answer.get("prompt") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            raise Fault(
                f"{self.model.base_url} answered /apply-template without a text", "sent no valid answer"
            )
        return await self._tokenize(prompt=text)

    async def _score(self, before: list[int], given: list[int]) -> ScoredContinuation:
        logprobs, greedy = [], []
        for at, token in enumerate(given):  # an earlier text's keys would change the last bits
            own, best = await self._forced(before + given[:at], token, caches=at > 0)
            logprobs.append(own)
            greedy.append(own >= best)
        return ScoredContinuation(len(before), given, logprobs, greedy)

    async def _forced(self, before: list[int], token: int, caches: bool) -> tuple[float, float]:
        """Return the log-probability of a token behind others, and that of the likeliest one."""
        url = self.model.base_url
        told = forced_answer(url, await self._post("completion", forced_body(before, token, caches)), token)
        return logarithm(url, told.logprob), logarithm(url, told.best)


class Forced(NamedTuple):
    """What a server tells of a token that it was made to choose."""

    logprob: Any
    first: Any  # the token that it would have chosen
    best: Any  # the log-probability of that one


def forced_body(before: Sequence[int], token: int, caches: bool = True) -> dict[str, Any]:
    """Return the body of a request to /completion for a token behind others.

    caches: continue from what the server computed for the request before.
    """
    return {
        "prompt": [*before],
        "n_predict": 1,
        "n_probs": 1,
        "temperature": 0,
        "cache_prompt": caches,
        "logit_bias": [[token, BIAS]],
        "samplers": ["temperature"],
    }


def forced_answer(url: str, answer: Any, token: int) -> Forced:
    """Return what is told of the token; Fault if nothing is, ConfigError if it is of another."""
    told = answer.get("completion_probabilities") if isinstance(answer, dict) else None
    if not isinstance(told, list) or not told or not isinstance(told[0], dict):
        raise Fault(f"{url} sent no log-probability for a token", "sent no valid answer")
    (top, *_) = told[0].get("top_logprobs") or [{}]
    if told[0].get("id") != token:
        raise ConfigError(
            f"{url} ignores logit_bias: asked for the token {token}, it answered {told[0].get('id')}, so nothing can "
            "be scored by it",
            code="unsupported",
        )
    return Forced(told[0].get("logprob"), top.get("id"), top.get("logprob"))
