"""KV cache for sequences, for shared prefixes, and for earlier prompts."""

from runner_engine.kv_cache.kv_store import (
    KvCacheSpec,
    KvStore,
    get_attention_kernels_if_supported,
    kv_capacity_tokens,
    map_layers_to_kv_store_layers,
    round_up_positions,
)
from runner_engine.kv_cache.paged_slots import PagedSlots
from runner_engine.kv_cache.prefix import Prefix
from runner_engine.kv_cache.prefix_tree import ConversationCache, NewPrompt, PrefixTree
from runner_engine.kv_cache.prompt_cache import PromptCache
from runner_engine.kv_cache.sequence_kv import SequenceKv
from runner_engine.kv_cache.shared_kv import (
    SharedKv,
    compute_kv_store_size_tokens,
    copy_prefix_recurrent_state,
    create_kv_store,
)
from runner_engine.kv_cache.sliding_windows import MASK_PROBE, UnknownWindow, Window, record_attention_masks
from runner_engine.kv_cache.slots import SlotStore
from runner_engine.kv_cache.window_memory import create_resident_token_counter

__all__ = [  # noqa: RUF022 - by what they are for
    # how they are stored
    "KvCacheSpec",  # the shape of stored keys and values, their number format and device
    "map_layers_to_kv_store_layers",  # which layers attend to the keys and values of an earlier one
    "get_attention_kernels_if_supported",  # the kernels for such heads, if there are any
    "round_up_positions",  # a number of places in whole blocks
    "create_resident_token_counter",  # a function: what a row keeps of so many places, where layers have windows
    "kv_capacity_tokens",  # for how many tokens there is memory
    # stores
    "KvStore",  # the rows' own keys and values, by slot: enter, leave, lengthen, fill, write, stored
    "create_kv_store",  # makes such a store, of the kind that fits heads and kernels
    "copy_prefix_recurrent_state",  # lets a row continue from a prefix's state, where layers carry some
    "compute_kv_store_size_tokens",  # how many tokens of the budget rows with such needs take
    "SlotStore",  # a store with one tensor for each layer: for plain torch and GPUs
    "PagedSlots",  # slots of pages, which rows share
    "SharedKv",  # keys and values that many rows read
    # what rows have
    "SequenceKv",  # what one row has: its prefixes, copies, and own places
    "Prefix",  # tokens that several prompts begin with, and their keys and values
    "PrefixTree",  # all prefixes of the rows: arrange, note_read, copy, release
    "NewPrompt",  # a prompt whose prefixes are looked for
    # what is kept for later prompts
    "ConversationCache",  # the latest conversations: keep, find
    "PromptCache",  # blocks of earlier prompts and answers: find, copy, keep
    # windows of layers
    "Window",  # how far back a layer sees
    "UnknownWindow",  # raised where a layer's window cannot be read off its masks
    "record_attention_masks",  # a context in which masks are inspected
    "MASK_PROBE",  # the name of the attention that inspects masks
]
