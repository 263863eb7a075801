"""Turns logits into tokens and answers: sampling, speculative decoding, stopping and scoring."""

from runner_engine.decode.tokens.ngram_speculation import NgramLookup, NgramSpeculator
from runner_engine.decode.tokens.sampling import (
    Sampler,
    create_random_generator,
    create_sampler,
    force_tokens,
)
from runner_engine.decode.tokens.scoring import (
    build_scored_completion,
    compute_max_scored_positions,
    prefill_and_score,
    score_tokens,
)
from runner_engine.decode.tokens.speculator import (
    Drafts,
    Speculator,
    count_accepted_tokens,
    get_unprocessed_tokens,
    verify_draft_tokens,
)
from runner_engine.decode.tokens.stopping import Stopping

__all__ = [  # noqa: RUF022 - by what they are for
    # the next token
    "Sampler",  # picks the next token of every row; rows come and go: take, keep
    "create_sampler",  # a sampler of new rows, which continues their random numbers
    "create_random_generator",  # a row's random numbers
    "force_tokens",  # leaves rows one token to choose from
    # guesses of several tokens, which one pass checks
    "Speculator",  # what the decoder asks of them
    "Drafts",  # the guess of each row
    "verify_draft_tokens",  # the new tokens of each row, from one pass over all guesses
    "get_unprocessed_tokens",  # the last tokens of a row that its next pass reads
    "count_accepted_tokens",  # how many tokens of a guess were right
    "NgramSpeculator",  # guesses for a few greedy rows, while they save time
    "NgramLookup",  # what followed a row's last tokens before
    # the end of an answer
    "Stopping",  # ends rows: accept, force, cancel, completion
    # continuations that are scored
    "prefill_and_score",  # reads pieces of prompts in one pass, and scores continuations
    "score_tokens",  # scores tokens by the logits before each
    "build_scored_completion",  # the completion of a scored row
    "compute_max_scored_positions",  # how many positions one pass may score
]
