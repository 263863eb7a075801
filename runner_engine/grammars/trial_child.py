"""Child process that tests a grammar before the engine uses it.

grammar_cache.py starts this file by its path.

A few characters of a schema can take minutes and gigabytes. In this process the operating
system limits both. The trial does what the engine will do: compile the grammar, and
compute the token masks of an answer.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner_base.limited_forks import run_fork_server

WALKED = 24  # tokens of the answer that is tried


def prepare(serialized_setup: bytes) -> Callable[[bytes], bytes]:
    import llguidance

    given = json.loads(serialized_setup)
    tokenizer = llguidance.LLTokenizer(
        given["tokenizer"], n_vocab=given["vocab_size"], eos_token=given["stops"]
    )
    limits = llguidance.LLParserLimits(**given["limits"])

    def compile_grammar_and_measure_cost(message: bytes) -> bytes:
        before_mib = measure_private_memory_mib()
        matcher = llguidance.LLMatcher(tokenizer, message.decode(), log_level=0, limits=limits)
        # a warning names what is left out: then the answer would have another grammar
        reasons = [matcher.get_error() or "", *matcher.get_grammar_warnings()]
        found: dict[str, Any] = {"reason": next(filter(None, reasons), "")}
        if not found["reason"]:
            found["mask_s"], found["error"] = sample_grammar_answer(matcher)
            found["mib"] = measure_private_memory_mib() - before_mib
        return json.dumps(found).encode()

    return compile_grammar_and_measure_cost


def sample_grammar_answer(matcher: Any) -> tuple[float, str]:
    """Test a grammar by sampling tokens of an answer.

    Returns the CPU seconds of the slowest token mask, and an error text.

    The first mask is not timed. The error is empty if the answer can continue or has ended.
    """
    draw, slowest_s = random.Random(0), 0.0
    for place in range(WALKED):
        started = time.process_time()
        mask = matcher.compute_bitmask()
        if place:
            slowest_s = max(slowest_s, time.process_time() - started)
        if matcher.is_error():
            # a dead end behind other tokens is no reason to refuse
            error = str(matcher.get_error())
            return slowest_s, "" if place and error.startswith("NoExtension") else error
        rest = mask[draw.randrange(len(mask)) :].lstrip(b"\0") or mask.lstrip(b"\0")
        if not rest:
            break
        bits = [bit for bit in range(8) if rest[0] >> bit & 1]
        token = 8 * (len(mask) - len(rest)) + draw.choice(bits)
        if not matcher.consume_token(token) or matcher.is_stopped():
            break
    return slowest_s, ""


def measure_private_memory_mib() -> float:
    """Return the memory in MiB that this process does not share with its parent process."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


if __name__ == "__main__":
    run_fork_server(prepare)
