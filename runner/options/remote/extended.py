"""The parameters that servers take beside OpenAI's own, in the words of each kind of server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.options.remote.keys import Extensions
from runner_engine.settings.sampling import PARAMETERS

# llama.cpp has other defaults, and draws before it applies the temperature: what is not sent would be its own
NEUTRAL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]
WHOLE_TEXT = 2**17  # tokens that a penalty looks back at: by itself llama.cpp's sees the last 64


def extra_body(extensions: Extensions, sampled: Mapping[str, Any], ignore_eos: bool) -> dict[str, Any]:
    """Return what a request's body has beside OpenAI's keys; sampled: the parameters in our
    words."""
    if extensions not in (Extensions.vllm, Extensions.llama_cpp):
        return {}
    extra = {name: value for name, value in sampled.items() if not PARAMETERS[name].in_openai}
    if extensions is Extensions.llama_cpp:
        if (penalty := extra.pop("repetition_penalty", None)) is not None:
            extra["repeat_penalty"] = penalty
        known = {name: value for name, value in sampled.items() if name in NEUTRAL}
        extra = NEUTRAL | known | extra
        has_penalty = extra["repeat_penalty"] != NEUTRAL["repeat_penalty"]
        extra |= {"samplers": SAMPLERS, "repeat_last_n": WHOLE_TEXT if has_penalty else 0}
    return extra | ({"ignore_eos": True} if ignore_eos else {})
