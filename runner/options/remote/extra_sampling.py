"""Builds request fields for sampling parameters that OpenAI's API lacks, under the names that each server
uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.options.remote.keys import ApiExtensions
from runner_engine.settings.sampling import PARAMETERS

# llama.cpp has other defaults, and draws before it applies the temperature: what is not sent would be its own
NEUTRAL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]
WHOLE_TEXT = 2**17  # tokens that a penalty looks back at: by itself llama.cpp's sees the last 64


def build_extra_sampling_fields(
    extensions: ApiExtensions, sampling: Mapping[str, Any], ignore_eos: bool
) -> dict[str, Any]:
    """Return request fields for sampling parameters that OpenAI's API lacks. The keys of `sampling` are
    the runner's names.
    """
    if extensions not in (ApiExtensions.vllm, ApiExtensions.llama_cpp):
        return {}
    extra = {name: value for name, value in sampling.items() if not PARAMETERS[name].in_openai}
    if extensions is ApiExtensions.llama_cpp:
        if (penalty := extra.pop("repetition_penalty", None)) is not None:
            extra["repeat_penalty"] = penalty
        known = {name: value for name, value in sampling.items() if name in NEUTRAL}
        extra = NEUTRAL | known | extra
        has_penalty = extra["repeat_penalty"] != NEUTRAL["repeat_penalty"]
        extra |= {"samplers": SAMPLERS, "repeat_last_n": WHOLE_TEXT if has_penalty else 0}
    return extra | ({"ignore_eos": True} if ignore_eos else {})
