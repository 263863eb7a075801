"""Scores given tokens on a llama.cpp server by forcing it to generate them, one token at a time.

llama.cpp reports none for prompts (llama.cpp issue 27174). A logit bias forces each token
of a continuation to be the next token. The server reports the token's log-probability
without the bias, and the likeliest token's. The server caches the prefix, so each token
costs one decoding step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from runner.options.remote.faults import RequestFault
from runner.options.remote.scoring import Scorer, TokenizedPrompt
from runner.options.remote.token_scores import ScoredContinuation, parse_logprob
from runner_base import ConfigError

BIAS = 1e6  # far above any difference of logits


class ForcedScorer(Scorer):
    """Scores a continuation one token at a time.

    A logit bias forces the server to generate the given token.
    """

    NEEDED = "/tokenize, /apply-template and, in /completion, n_probs and logit_bias, as llama.cpp has"

    async def _tokenize(self, **parameters: Any) -> TokenizedPrompt:
        text = str(parameters["prompt"])
        body = {"content": text, "add_special": True, "parse_special": True}
        answer = await self._post_outside_openai_api("tokenize", body)
        return TokenizedPrompt(self._parse_token_ids(answer), text)

    async def _tokenize_chat(self, messages: list[dict[str, Any]]) -> TokenizedPrompt:
        answer = await self._post_outside_openai_api("apply-template", {"messages": messages})
        text = answer.get("prompt") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            raise RequestFault(
                f"{self.model.base_url} answered /apply-template without a text", "sent no valid answer"
            )
        return await self._tokenize(prompt=text)

    async def _score_tokens(self, prefix: list[int], continuation: list[int]) -> ScoredContinuation:
        logprobs, greedy = [], []
        for at, token in enumerate(continuation):  # an earlier text's keys would change the last bits
            own, best = await self._get_given_and_likeliest_logprobs(
                prefix + continuation[:at], token, use_cache=at > 0
            )
            logprobs.append(own)
            greedy.append(own >= best)
        return ScoredContinuation(len(prefix), continuation, logprobs, greedy)

    async def _get_given_and_likeliest_logprobs(
        self, prefix: list[int], token: int, use_cache: bool
    ) -> tuple[float, float]:
        """Return the log-probabilities of the given token and of the likeliest token after a prefix."""
        url = self.model.base_url
        told = parse_forced_token(
            url,
            await self._post_outside_openai_api("completion", build_forced_request(prefix, token, use_cache)),
            token,
        )
        return parse_logprob(url, told.logprob), parse_logprob(url, told.best)


class ForcedToken(NamedTuple):
    """Server response to a forced token: its log-probability, and the likeliest token with its
    log-probability.
    """

    logprob: Any
    first: Any  # the token that it would have chosen
    best: Any  # the log-probability of that one


def build_forced_request(prefix: Sequence[int], token: int, use_cache: bool = True) -> dict[str, Any]:
    """Return a /completion request body that forces llama.cpp to generate a given token after a prefix.

    use_cache: continue from the KV cache of the previous request.
    """
    return {
        "prompt": [*prefix],
        "n_predict": 1,
        "n_probs": 1,
        "temperature": 0,
        "cache_prompt": use_cache,
        "logit_bias": [[token, BIAS]],
        "samplers": ["temperature"],
    }


def parse_forced_token(url: str, response: Any, token: int) -> ForcedToken:
    """Parse the log-probabilities of a forced token. Raises RequestFault if missing, ConfigError if
    logit_bias was ignored.
    """
    told = response.get("completion_probabilities") if isinstance(response, dict) else None
    if not isinstance(told, list) or not told or not isinstance(told[0], dict):
        raise RequestFault(f"{url} returned no log-probability for the forced token", "sent no valid answer")
    (top, *_) = told[0].get("top_logprobs") or [{}]
    if told[0].get("id") != token:
        raise ConfigError(
            (
                f"{url} ignores logit_bias, so it cannot score answers. The request forced "
                f"token {token}, but the answer has {told[0].get('id')}"
            ),
            code="unsupported",
        )
    return ForcedToken(told[0].get("logprob"), top.get("id"), top.get("logprob"))
