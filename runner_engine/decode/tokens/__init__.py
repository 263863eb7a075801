"""From logits to tokens and answers. These names are what those who decode need of this folder."""

from runner_engine.decode.tokens.guesses import Drafts, Guesses, check_guesses, right_ones, unread_tokens
from runner_engine.decode.tokens.sampling import Sampler, generator_of, leave_only, sampler_of
from runner_engine.decode.tokens.scoring import most_positions, read_and_score, score, scored
from runner_engine.decode.tokens.speculation import Lookup, Speculation
from runner_engine.decode.tokens.stopping import Stopping

__all__ = [  # noqa: RUF022 - by what they are for
    # the next token
    "Sampler",  # picks the next token of every row; rows come and go: take, keep
    "sampler_of",  # a sampler of new rows, which continues their random numbers
    "generator_of",  # a row's random numbers
    "leave_only",  # leaves rows one token to choose from
    # guesses of several tokens, which one pass checks
    "Guesses",  # what the decoder asks of them
    "Drafts",  # the guess of each row
    "check_guesses",  # the new tokens of each row, from one pass over all guesses
    "unread_tokens",  # the last tokens of a row that its next pass reads
    "right_ones",  # how many tokens of a guess were right
    "Speculation",  # guesses for a few greedy rows, while they save time
    "Lookup",  # what followed a row's last tokens before
    # the end of an answer
    "Stopping",  # ends rows: accept, force, cancel, completion
    # continuations that are scored
    "read_and_score",  # reads pieces of prompts in one pass, and scores continuations
    "score",  # scores tokens by the logits before each
    "scored",  # the completion of a scored row
    "most_positions",  # how many positions one pass may score
]
