"""A grammar that would take minutes or gigabytes is refused, and kept ones wait for no other."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from grammar_walks import allowed, begun
from raising import raises
from transformers import AutoTokenizer

from runner_base import ConfigError
from runner_base.limited_forks import ForkLimits
from runner_base.notes import note
from runner_engine import embedded
from runner_engine.grammars import GrammarCache
from runner_engine.render.notes import render_engine_note
from runner_engine.tool_calls import build_json_rule

LIMITS = ForkLimits(cpu_s=1.0, memory_mib=64, wall_s=60.0, idle_s=0.5)
COSTLY: dict[str, dict[str, Any]] = {
    "multiple": {"type": "integer", "multipleOf": 9_999_991},
    "patterns": {"allOf": [{"type": "string", "pattern": f"[ab]*a[ab]{{{n}}}"} for n in range(5, 25)]},
    "nested repeats": {"type": "string", "pattern": "^((a{100}){100}){100}$"},
}  # fmt: skip


@pytest.fixture
def grammars() -> Iterator[GrammarCache]:
    tokenizer = AutoTokenizer.from_pretrained(embedded.MODEL_DIR)
    made = GrammarCache(tokenizer, len(tokenizer), frozenset([tokenizer.eos_token_id]), LIMITS)
    yield made
    made.stop_trial_process()


def of(schema: dict[str, Any]) -> str:
    return f"start: {build_json_rule(schema)}"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_grammar_is_refused_within_its_limits(grammars: GrammarCache, name: str) -> None:
    grammars.compile_grammar_to_initial_state(of({"type": "integer"}))  # starts the process
    own_s = time.process_time()
    with raises(ConfigError, "too_large"):
        grammars.compile_grammar_to_initial_state(of(COSTLY[name]))
    assert time.process_time() - own_s < 1.0  # of CPU time here: the trial took the rest
    with raises(ConfigError, "too_large"):  # kept: no second trial
        grammars.compile_grammar_to_initial_state(of(COSTLY[name]), lambda: False)


@pytest.mark.thorough
def test_a_kept_grammar_does_not_wait_for_a_costly_one(grammars: GrammarCache) -> None:
    grammars.compile_grammar_to_initial_state(of({"type": "integer"}))
    slow = threading.Thread(target=begin_and_ignore, args=(grammars, of(COSTLY["multiple"])))
    slow.start()
    waits = []
    while slow.is_alive():
        started = time.thread_time()
        grammars.compile_grammar_to_initial_state(of({"type": "integer"}))
        waits.append(time.thread_time() - started)
        time.sleep(0.01)
    assert len(waits) > 5
    assert max(waits) < 0.5


def begin_and_ignore(grammars: GrammarCache, text: str) -> None:
    with pytest.raises(ConfigError):
        grammars.compile_grammar_to_initial_state(text)


def test_compiling_ends_when_nobody_waits(grammars: GrammarCache) -> None:
    grammars.compile_grammar_to_initial_state(of({"type": "integer"}))
    asked = []

    def is_wanted() -> bool:
        asked.append(1)
        return len(asked) < 3

    with raises(ConfigError, "failed"):
        grammars.compile_grammar_to_initial_state(of(COSTLY["multiple"]), is_wanted)
    assert len(asked) >= 3
    with raises(ConfigError, "too_large"):  # and the next one gets a trial of its own
        grammars.compile_grammar_to_initial_state(of(COSTLY["multiple"]))


def test_several_callers_share_one_trial(grammars: GrammarCache) -> None:
    held: list[Any] = []
    text = of({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    threads = [threading.Thread(target=lambda: held.append(begun(grammars, text))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 4
    assert len({tuple(allowed(one)) for one in held}) == 1
    held[0].update([allowed(held[0])[0]])  # each has a state of its own
    assert len(allowed(held[1])) >= 1


@pytest.mark.thorough
def test_the_process_ends_when_idle_and_another_one_starts(grammars: GrammarCache) -> None:
    grammars.compile_grammar_to_initial_state(of({"type": "integer"}))
    assert grammars._trials is not None
    first = grammars._trials.pid
    assert first is not None
    end = time.monotonic() + 60
    while grammars._trials.pid is not None:
        assert time.monotonic() < end
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    grammars.compile_grammar_to_initial_state(of({"type": "boolean"}))
    assert grammars._trials.pid not in (None, first)


def test_a_killed_process_is_replaced(grammars: GrammarCache) -> None:
    grammars.compile_grammar_to_initial_state(of({"type": "integer"}))
    assert grammars._trials is not None
    pid = grammars._trials.pid
    assert pid is not None
    os.kill(pid, 9)
    grammars.compile_grammar_to_initial_state(of({"type": "boolean"}))


def test_a_grammar_that_is_too_long_is_refused_at_once(grammars: GrammarCache) -> None:
    with raises(ConfigError, "too_large"):
        grammars.compile_grammar_to_initial_state("start: " + '"a" ' * 200_000)
    assert grammars._trials is None


def test_a_grammar_without_any_text_is_refused(grammars: GrammarCache) -> None:
    with raises(ConfigError, "bad_value") as refused:
        grammars.compile_grammar_to_initial_state(of({"$ref": "#"}))
    assert render_engine_note(note("no_text_fits")) in str(refused.value)
    assert "state" not in str(refused.value)
