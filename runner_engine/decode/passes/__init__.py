"""Forward passes of continuous batching. Each pass takes a flat list of tokens and returns logits."""

from runner_engine.decode.passes.async_step import AsyncStep
from runner_engine.decode.passes.chunk_size import ChunkSizer
from runner_engine.decode.passes.forward import Forward, HiddenStateReader, TokenSpan

__all__ = [  # noqa: RUF022 - by what they are for
    "Forward",  # sends tokens through a model: a prefix, pieces of prompts, one token of each row
    "HiddenStateReader",  # is told what the head reads of every token
    "TokenSpan",  # neighbouring tokens of a row in a pass, and where logits are wanted
    "ChunkSizer",  # how many tokens of a long prompt are read at once while other rows decode
    "AsyncStep",  # the active rows' step; on a GPU it begins before the last one's tokens are read
]
