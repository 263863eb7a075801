"""Keys and values of rows, of prefixes that rows share, and of earlier prompts.

These names are what those who compute with them need of this folder.
"""

from runner_engine.kv_cache.behind_windows import kept_tokens
from runner_engine.kv_cache.kv_cache import Heads, OwnKv, kernels_for, room_tokens, rounded, stores_of
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.prefix_tree import ConversationCache, NewPrompt, Prefixes
from runner_engine.kv_cache.prompt_cache import PromptCache
from runner_engine.kv_cache.row_kv import RowKv
from runner_engine.kv_cache.shared_kv import SharedKv, own_cost, own_kv, put_state
from runner_engine.kv_cache.slots import Slots
from runner_engine.kv_cache.windows import MASK_PROBE, Unknown, Window, probing_masks

__all__ = [  # noqa: RUF022 - by what they are for
    # how they are stored
    "Heads",  # the shape of stored keys and values, their number format and device
    "stores_of",  # which layers attend to the keys and values of an earlier one
    "kernels_for",  # the kernels for such heads, if there are any
    "rounded",  # a number of places in whole blocks
    "kept_tokens",  # a function: what a row keeps of so many places, where layers have windows
    "room_tokens",  # for how many tokens there is memory
    # stores
    "OwnKv",  # the rows' own keys and values, by slot: enter, leave, lengthen, fill, write, stored
    "own_kv",  # makes such a store, of the kind that fits heads and kernels
    "put_state",  # lets a row continue from a prefix's state, where layers carry some
    "own_cost",  # how many tokens of the budget rows with such needs take
    "Slots",  # a store with one tensor for each layer: for plain torch and GPUs
    "PagedSlots",  # slots of pages, which rows share
    "SharedKv",  # keys and values that many rows read
    # what rows have
    "RowKv",  # what one row has: its prefixes, copies, and own places
    "Prefix",  # tokens that several prompts begin with, and their keys and values
    "Prefixes",  # all prefixes of the rows: arrange, note_read, copy, release
    "NewPrompt",  # a prompt whose prefixes are looked for
    # what is kept for later prompts
    "ConversationCache",  # the latest conversations: keep, find
    "PromptCache",  # blocks of earlier prompts and answers: find, copy, keep
    # windows of layers
    "Window",  # how far back a layer sees
    "Unknown",  # raised where a layer's window cannot be read off its masks
    "probing_masks",  # a context in which masks are inspected
    "MASK_PROBE",  # the name of the attention that inspects masks
]
