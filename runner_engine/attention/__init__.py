"""Attention over rows of a KV cache. These names are what forward passes need of this folder.

A decoding step on a GPU is made of the folder's parts, and takes these from their modules.
"""

from runner_engine.attention.attention import PassLayout, PrefixUse, Span
from runner_engine.attention.interface import PLAIN, Softmax, in_call_order, register, running
from runner_engine.attention.page_trial import page_of

__all__ = [  # noqa: RUF022 - by what they are for
    # where tokens are, and what they see
    "PassLayout",  # where the tokens of one pass are in the KV cache, and what they see
    "PrefixUse",  # a prefix, and the tokens of a pass that see it
    "Span",  # neighbouring tokens of one row: each sees those before it
    # how the model comes to it
    "register",  # registers the attention with transformers
    "running",  # a context in which the layers of a model attend by a function
    "in_call_order",  # attention whose layers are numbered by their calls
    "Softmax",  # a layer's softmax: its cap and sinks
    "PLAIN",  # a softmax with neither
    "page_of",  # the places of a page, where attention by pages passes its trial
]
