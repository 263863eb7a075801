"""Answers that a grammar holds: which tokens may come next. These names are what others need of
this folder."""

from runner_engine.grammars.compiling import Grammars
from runner_engine.grammars.held import Held, leave_allowed

__all__ = [
    "Grammars",  # grammars for one tokenizer: begin
    "Held",  # where a row stands in its grammar
    "leave_allowed",  # leaves rows of logits the tokens that their grammars allow
]
