"""Attention over sequences in the KV cache: the names that forward passes import.

A decoding step on a GPU combines this package's parts and imports them from their
modules.
"""

from runner_engine.attention.attention import PassLayout, PrefixUse, Span
from runner_engine.attention.interface import (
    PLAIN,
    Softmax,
    register_attention,
    use_attention_function,
    wrap_with_layer_counter,
)
from runner_engine.attention.page_trial import find_kv_page_size

__all__ = [  # noqa: RUF022 - by what they are for
    # where tokens are, and what they see
    "PassLayout",  # where the tokens of one pass are in the KV cache, and what they see
    "PrefixUse",  # a prefix, and the tokens of a pass that see it
    "Span",  # neighbouring tokens of one row: each sees those before it
    # how the model comes to it
    "register_attention",  # registers the attention with transformers
    "use_attention_function",  # a context in which the layers of a model attend by a function
    "wrap_with_layer_counter",  # attention whose layers are numbered by their calls
    "Softmax",  # a layer's softmax: its cap and sinks
    "PLAIN",  # a softmax with neither
    "find_kv_page_size",  # the places of a page, where attention by pages passes its trial
]
