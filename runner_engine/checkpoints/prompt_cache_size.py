"""Shares of free memory for keys and values, and the limit of those of earlier prompts. Imports no torch.

The engine and the plan of a job read the same limits here.
"""

from __future__ import annotations

# of the memory that is free once the weights are loaded
SEQUENCE_SHARE = 0.5  # for active sequences; activations need memory, too
COMBINED_SHARE = 0.75  # for active sequences and earlier prompts together
# for earlier prompts, if generation.prompt_cache_mib is null; a GPU's slots take memory before they are filled
PROMPT_SHARES = {"cpu": 0.5, "cuda": COMBINED_SHARE - SEQUENCE_SHARE}
CONVERSATION_SHARE = 0.25  # of the share for active sequences is for conversations


def resolve_prompt_cache_setting_mib(setting_mib: int | None, free_mib: float, device: str) -> float:
    """Return the limit that earlier prompts never exceed.

    setting_mib: generation.prompt_cache_mib. free_mib: free memory after the weights are loaded.
    """
    if setting_mib is not None:
        return float(setting_mib)
    return PROMPT_SHARES.get(device, PROMPT_SHARES["cpu"]) * max(free_mib, 0.0)


def compute_max_prompt_cache_mib(
    setting_mib: int | None, free_mib: float, device: str, has_only_conversations: bool
) -> float:
    """Return the most memory that earlier prompts can take while no sequence is active.

    has_only_conversations: whole conversations are stored instead of blocks of prompts.
    """
    share = CONVERSATION_SHARE * SEQUENCE_SHARE if has_only_conversations else COMBINED_SHARE
    return min(resolve_prompt_cache_setting_mib(setting_mib, free_mib, device), share * max(free_mib, 0.0))
