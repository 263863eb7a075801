"""Why C refuses a call, in words."""

from __future__ import annotations

from runner_engine.kernels.shared_numbers import MAX_DIM, MAX_GROUP, Refusal

_WORDS = {
    Refusal.NO_TOKENS: "there are no tokens, or no logits are wanted",
    Refusal.WRONG_HEADS: f"heads need 1 to {MAX_GROUP} queries each, and a width of 16, 32 … {MAX_DIM}",
    Refusal.WRONG_TOKEN_ID: "the embedding has no row for the id of token {at}",
    Refusal.WRONG_POSITION: "RoPE's table has no row for the position of token {at}",
    Refusal.WRONG_SLOT: "there is no such slot as that of token {at}, or it is not in whole blocks",
    Refusal.WRONG_PLACE: "the slot of token {at} has no such place",
    Refusal.WRONG_SEEN: "token {at} sees more places than its slot has, or too few",
    Refusal.WRONG_FIRST: "the window of token {at} begins before the first place",
    Refusal.WRONG_KEPT: "entry {at} of the tokens to keep is not a token of the pass",
    Refusal.WRONG_PART: "shared keys are not all in their arena",
    Refusal.WRONG_PART_TOKEN: "entry {at} of those that see shared keys is not a token of the pass",
    Refusal.WRONG_PART_ROW: "token {at} has no such row in a shared part",
    Refusal.WRONG_MATRIX: "matrix or layer {at} has sizes or a format that this processor cannot multiply",
    Refusal.SMALL_WORKSPACE: "the workspace is too small",
    Refusal.NO_MEMORY: "there is no memory for the rows of a product",
    Refusal.MISSING_UNIT: "the unit that it needs is not linked",
    Refusal.WRONG_STATE_SLOT: "there is no such slot of a state as that of segment {at}",
    Refusal.WRONG_SEGMENT: "segment {at} is not among the tokens of the pass",
    Refusal.WRONG_KV_LAYER: "layer {at} of the KV cache has a format, a rotation or a place that there is not",
    Refusal.WRONG_ADAPTER: "entry {at} of the tokens with adapters is not a token of the pass, or has no adapter",
    Refusal.WRONG_EXPERT: "choice {at} of the router has no expert",
}


def error_of(refusal: int, function: str) -> Exception:
    """Return what is wrong with a call, from the number that a function of C returned."""
    reason = Refusal(refusal >> 32)
    words = f"{function}: {_WORDS[reason].format(at=refusal & 0xFFFFFFFF)}"
    return MemoryError(words) if reason is Refusal.NO_MEMORY else IndexError(words)
