"""Limits the memory for keys and values of earlier prompts. Imports no torch.

The engine and the plan of a job read the same limits here.
"""

from __future__ import annotations

# of the memory that is free once the weights are loaded
SHARE_OF_FREE_MEMORY = 0.5  # for earlier prompts, where generation.prompt_cache_mib is null
SHARE_WITH_SEQUENCES = 0.75  # for earlier prompts and active sequences together; activations need the rest
CONVERSATION_SHARE = 0.25  # of the memory for active sequences is for conversations


def compute_prompt_cache_limit_mib(setting_mib: int | None, free_mib: float) -> float:
    """Return the limit that the prompt cache never exceeds.

    setting_mib: generation.prompt_cache_mib. free_mib: free memory after the weights are loaded.
    """
    return SHARE_OF_FREE_MEMORY * max(free_mib, 0.0) if setting_mib is None else float(setting_mib)


def predict_max_prompt_cache_mib(
    setting_mib: int | None, free_mib: float, sequence_share: float, only_conversations: bool
) -> float:
    """Return the most memory that earlier prompts can take while no sequence is active.

    sequence_share: share of the free memory for active sequences. only_conversations: the engine keeps
    whole conversations instead of blocks of prompts.
    """
    share = CONVERSATION_SHARE * sequence_share if only_conversations else SHARE_WITH_SEQUENCES
    return min(compute_prompt_cache_limit_mib(setting_mib, free_mib), share * max(free_mib, 0.0))
