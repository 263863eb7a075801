"""Forward passes: flat lists of tokens in, logits out. These names are what others need of this
folder."""

from runner_engine.decode.passes.ahead import Ahead
from runner_engine.decode.passes.forward import Forward, HiddenReader, TokenSpan
from runner_engine.decode.passes.piece_pace import PiecePace

__all__ = [  # noqa: RUF022 - by what they are for
    "Forward",  # sends tokens through a model: a prefix, pieces of prompts, one token of each row
    "HiddenReader",  # is told what the head reads of every token
    "TokenSpan",  # neighbouring tokens of a row in a pass, and where logits are wanted
    "PiecePace",  # how many tokens of a long prompt are read at once while other rows decode
    "Ahead",  # the active rows' step; on a GPU it begins before the last one's tokens are read
]
