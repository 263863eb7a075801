"""Old and new names of config keys. Records and configs with an old name stay readable.

A field that had another name declares it with `renamed_from`: the job id keeps the old name, so that
recorded answers stay valid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

# group → old name → new name; a test compares the table with the fields of the config classes
RENAMED_KEYS: Mapping[str, Mapping[str, str]] = {
    "model": {
        "answer_s": "request_timeout_s",
        "connect_s": "connect_timeout_s",
        "cpu_moe": "n_cpu_moe",
        "first_token_s": "first_token_timeout_s",
        "start_s": "start_timeout_s",
        "thinking_budget": "thinking_budget_dialect",
    },
    "quantization": {"int8_rows": "int8_activations", "unpacked": "dequantize"},
    "task": {
        "arrival_s": "arrival_duration_s",
        "contexts": "context_lengths",  # task=likelihood
        "drain_s": "drain_timeout_s",
        "evaluation": "check_overlap_with",
        "fill": "context_lengths",  # task=tools
        "form": "tool_call_format",  # task=tools
        "gold": "answer_type",
        "gold_after": "answer_marker",
        "idle_s": "idle_timeout_s",
        "offer": "tool_placement",  # task=tools
        "repeat": "repeat_index",
        "texts": "num_texts",
        "tool_form": "tool_call_format",  # task=serve
        "tool_offer": "tool_placement",  # task=serve
        "without": "unscored",
        "write_s": "write_timeout_s",
    },
}
INNER_MODELS = ("student", "teacher")  # of model=hybrid
LAYER_CHOICES = "quantization.overrides"  # its values contain keys of the group, too
OLD_LAYER_KEY = re.compile(rf"\b({'|'.join(RENAMED_KEYS['quantization'])})\b(?=['\"]?\s*:)")


@cache
def get_current_key_name(key: str) -> str:
    """Return the current name of a full config key such as task.without. Other keys are returned
    unchanged.
    """
    group, _, rest = key.partition(".")
    parent, dot, name = rest.rpartition(".")
    is_in_group = parent in ("", *INNER_MODELS) or key.startswith(f"{LAYER_CHOICES}.")
    new = RENAMED_KEYS.get(group, {}).get(name) if is_in_group else None
    return key if new is None else f"{group}.{parent}{dot}{new}"


def update_renamed_param_keys(params: Mapping[str, str]) -> dict[str, str]:
    """Return recorded params with the current names of their keys."""
    renamed = {get_current_key_name(key): value for key, value in params.items()}
    if LAYER_CHOICES in renamed:
        new_names = RENAMED_KEYS["quantization"]
        renamed[LAYER_CHOICES] = OLD_LAYER_KEY.sub(lambda old: new_names[old[1]], renamed[LAYER_CHOICES])
    return renamed
