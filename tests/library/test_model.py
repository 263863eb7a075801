"""All ways to use a model object: single prompts, lists, threads, asyncio tasks, and calls that are
abandoned."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from raising import raises

import runner
from runner import Answer, Model, load
from runner.library.answers import Unanswered
from runner_base.errors import Code, ConfigError, JobFailed
from runner_base.result import FinishReason

QUESTION = "Tom has 8 pens. Tom buys 5 more. How many pens does Tom have now?"
PROMPTS = [
    f"Ann has {number} eggs. Ann finds 2 more. How many eggs does Ann have now?" for number in range(3, 11)
]
WAIT_S = 30


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """The embedded model, whose answers end by themselves."""
    with load(device="cpu", dtype="float32") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def rambling(tiny_llama: Path) -> Iterator[Model]:
    """A model whose answers always reach the limit."""
    with load(tiny_llama, device="cpu", dtype="float32", generation={"max_new_tokens": 480}) as loaded:
        yield loaded


def becomes_true(condition: Callable[[], bool]) -> bool:
    """Wait for a condition; return whether it came true."""
    end = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def is_idle(model: Model) -> bool:
    return model._driver.num_active == 0


@pytest.mark.thorough
def test_the_same_call_gives_the_same_scores_where_rows_of_a_pass_are_quantized_together() -> None:
    """With int8, a row's outliers affect all rows of its forward pass: a call's rows must be
    submitted together."""
    continuations = [f"After buying, 8+5={number}." for number in range(10, 40)]
    with load(device="cpu", quantization="int8") as int8:
        first = int8.logprobs(QUESTION, continuations)
        assert all(int8.logprobs(QUESTION, continuations) == first for _ in range(9))


def test_an_answer_is_a_text_with_its_tokens_and_finish_reason(model: Model) -> None:
    answer = model.generate(QUESTION)
    assert answer.startswith("After buying, 8+5=13.")
    assert answer.finish_reason is FinishReason.stop
    assert (answer.prompt_tokens, answer.choices) == (37, [answer])
    assert len(answer.token_ids) > 10
    assert repr(model) == "<model embedded: LlamaForCausalLM, cpu, float32 12.13 MiB>"
    copy = pickle.loads(pickle.dumps(answer))
    assert (copy, copy.token_ids, copy.finish_reason) == (answer, answer.token_ids, answer.finish_reason)


def test_a_prompt_that_is_too_long_is_one_error_and_no_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(device="cpu") as fresh:  # a tokenizer warns only once
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
        with raises(Unanswered, "failed"):
            fresh.generate("word " * 2000)
    assert caplog.messages == []


@pytest.mark.thorough
def test_a_list_is_one_batch_and_each_answer_is_its_own(model: Model) -> None:
    before, system = model.stats, "Be brief. " * 20
    answers = model.generate(PROMPTS, system=system)
    assert (model.stats - before).shared_tokens > 0  # the common beginning, prefilled once
    assert [model.generate(prompt, system=system) for prompt in PROMPTS] == answers
    assert model.generate([]) == []


@pytest.mark.thorough
def test_sampling_repeats_itself_and_follows_the_seed(model: Model) -> None:
    sampled = model.generate(PROMPTS, temperature=1.5, seed=3)
    assert (
        model.generate(PROMPTS, temperature=1.5, seed=3)
        == sampled
        != model.generate(PROMPTS, temperature=1.5, seed=4)
    )
    assert model.generate(PROMPTS[0], temperature=1.5, seed=3) == sampled[0]
    several = model.generate(PROMPTS[0], temperature=1.5, seed=3, n=3)
    assert several == sampled[0] == several.choices[0]
    assert len(set(several.choices)) == 3
    assert model.generate(QUESTION, stop="=", max_new_tokens=50) == "After buying, 8+5"
    assert model.generate(QUESTION, max_new_tokens=2).finish_reason is FinishReason.length


@pytest.mark.thorough
def test_the_same_answers_as_a_job(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("\n".join(PROMPTS))
    keys = ["task=generate", "task.prompts=prompts.txt", "task.system=Be brief.", "tracking=none"]
    new: dict[str, Any] = {"min_p": 0.3, "frequency_penalty": 0.5, "presence_penalty": -0.5}
    sampling = [
        "generation=sampling",
        "generation.temperature=4",
        "seed=5",
        *(f"generation.{name}={value}" for name, value in new.items()),
    ]
    record = runner.evaluate(keys, "model.dtype=float32", "model.device=cpu", *sampling)
    by_job = [row["completion"] for row in record.result.rows]
    how: dict[str, Any] = {"temperature": 4, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.1}
    how |= {"seed": 5, "max_new_tokens": 512, "system": "Be brief."}
    assert model.generate(PROMPTS, **how, **new) == by_job != model.generate(PROMPTS, **how)


def test_the_next_turn_of_a_conversation_prefills_only_what_is_new(model: Model) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    first = model.chat(messages)
    messages += [
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Tom loses 3. How many now?"},
    ]
    before = model.stats
    second = model.chat(messages)
    cost = model.stats - before
    assert second.prompt_tokens == cost.prefill_tokens + cost.shared_tokens
    assert cost.shared_tokens >= first.prompt_tokens + len(first.token_ids) - 1
    assert model.chat(messages) == second


def test_a_stream_is_the_answer_in_pieces(model: Model) -> None:
    pieces = list(model.stream(QUESTION))
    assert "".join(pieces) == model.generate(QUESTION)
    assert len(pieces) > 5
    assert "".join(model.stream([{"role": "user", "content": QUESTION}])) == "".join(pieces)


def test_an_abandoned_stream_cancels_its_request(rambling: Model) -> None:
    for _ in rambling.stream("go on"):
        break
    assert becomes_true(lambda: is_idle(rambling))
    assert rambling.stats.rows_alive == 0


def test_logprobs_are_those_of_the_models_own_answer(model: Model) -> None:
    answer = model.generate(QUESTION)
    scores = model.logprobs(QUESTION, answer)
    assert scores.token_ids == answer.token_ids[: len(scores.token_ids)]
    assert all(scores.greedy)
    other = model.logprobs(QUESTION, [answer, "Fifty."])
    assert [other[0].total, other[0].token_ids] == [pytest.approx(scores.total, abs=1e-3), scores.token_ids]
    assert other[1].total < scores.total
    assert model.logprobs("2+2=", "4", format="raw").total < 0


@pytest.mark.thorough
def test_threads_share_a_model(model: Model) -> None:
    alone = model.generate(PROMPTS)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(model.generate, PROMPTS * 4)) == alone * 4


def test_tasks_of_a_running_loop_share_a_model(model: Model) -> None:
    async def notebook() -> None:
        assert model.generate(QUESTION).startswith("After")  # a cell without await
        each = await asyncio.gather(*(model.agenerate(prompt) for prompt in PROMPTS))
        assert list(each) == await model.agenerate(PROMPTS)
        pieces = [piece async for piece in model.astream(PROMPTS[0])]
        assert "".join(pieces) == each[0] == await model.achat([{"role": "user", "content": PROMPTS[0]}])
        scores = await model.alogprobs(PROMPTS[0], ["one", "two"])
        assert [one.total for one in scores] == [pytest.approx(one.total, abs=1e-3) for one in model.logprobs(PROMPTS[0], ["one", "two"])]  # fmt: skip

    asyncio.run(notebook())


def test_a_cancelled_task_cancels_its_requests(rambling: Model) -> None:
    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(rambling.agenerate(["go on"] * 64), 0.2)
        async for _ in rambling.astream("go on"):
            break

    asyncio.run(leave())
    assert becomes_true(lambda: is_idle(rambling))


def test_ctrl_c_in_a_cell_cancels_its_requests(rambling: Model) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a notebook's kernel

    def interrupt() -> None:
        assert becomes_true(lambda: rambling.stats.rows_alive > 0)
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                rambling.generate(["go on"] * 256)
            sent.result(WAIT_S)
    finally:
        signal.signal(signal.SIGINT, before)
    assert becomes_true(lambda: is_idle(rambling))
    assert len(rambling.generate("go on", max_new_tokens=3).token_ids) == 3


@pytest.mark.parametrize(
    ("ask", "code", "key"),
    [
        (lambda it: it.generate("x", temprature=1), "unknown_choice", "temprature"),
        (lambda it: it.generate("x", temperature="hot"), "bad_value", "temperature"),
        (lambda it: it.generate("x", temperature=50), "bad_value", "temperature"),
        (lambda it: it.generate("x", n=0), "bad_value", "request.n"),
        (lambda it: it.generate("x", max_new_tokens=0), "bad_value", "request.max_new_tokens"),
        (lambda it: it.generate("x", stop=[""]), "bad_value", ""),
        (lambda it: it.generate(""), "bad_value", ""),
        (lambda it: it.generate([{"role": "user", "content": "x"}]), "bad_value", ""),
        (lambda it: it.generate("x", format="plain"), "bad_value", "format"),
        (lambda it: it.generate("x", format="raw", system="y"), "conflict", "system"),
        (lambda it: it.chat("x"), "bad_value", "messages"),
        (lambda it: it.chat([]), "bad_value", "messages"),
        (lambda it: it.chat([{"role": "robot", "content": "x"}]), "bad_value", "messages"),
        (lambda it: it.chat([{"role": "user"}]), "bad_value", "messages"),
        (lambda it: list(it.stream("x", n=2)), "unsupported", "n"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message(model: Model, ask: Callable[[Model], Any], code: Code, key: str) -> None:
    with raises(ConfigError, code, key) as caught:
        ask(model)
    assert "sampling." not in str(caught.value), "a key is named as it was given"
    assert is_idle(model)


def test_a_failed_request_does_not_affect_the_others(model: Model) -> None:
    long = "eggs " * 2000
    with raises(Unanswered, "failed") as caught:
        model.generate([PROMPTS[0], long])
    assert caught.value.answers == [model.generate(PROMPTS[0]), None]
    assert isinstance(caught.value.answers[0], Answer)
    with raises(Unanswered, "failed"):
        model.generate(long)


def engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "engine"}


@pytest.mark.thorough
def test_close_with_and_garbage_collection_free_the_model() -> None:
    before = engine_threads()
    with load(device="cpu") as one:
        answer = one.generate(QUESTION)
    assert engine_threads() == before
    with raises(JobFailed, "failed"):
        one.generate(QUESTION)
    one.close()  # twice does no harm

    two = load(device="cpu")
    assert two.generate(QUESTION) == answer  # again in the same process
    two.close()
    assert engine_threads() == before

    three = load(device="cpu")
    assert three.generate(QUESTION) == answer
    del three
    gc.collect()
    assert becomes_true(lambda: engine_threads() == before)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_program_can_exit_while_requests_are_running(tiny_llama: Path) -> None:
    program = (
        "import sys, threading, time\nfrom runner import load\n"
        "model = load(sys.argv[1], device='cpu', dtype='float32', generation={'max_new_tokens': 480})\n"
        "threading.Thread(target=lambda: model.generate(['go on'] * 200), daemon=True).start()\n"
        "while not model.stats.rows_alive: time.sleep(0.01)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_llama)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "terminate" not in done.stderr


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("at", ["torch", "transformers", "safetensors.torch"])
def test_an_interrupted_load_ends_without_an_error(at: str) -> None:
    """Ctrl-C comes when the load begins to import a module."""
    program = f"""
import os, signal, sys
from runner import load

class Interrupt:
    def find_spec(self, name, *_):
        if name == {at!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
try:
    load(device="cpu")
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    # torch may print something when its import is interrupted
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.mark.thorough
def test_a_call_that_waits_when_the_model_is_closed_gets_an_error(tiny_llama: Path) -> None:
    model = load(tiny_llama, device="cpu", dtype="float32", generation={"max_new_tokens": 480})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(model.generate, ["go on"] * 256)
        assert becomes_true(lambda: model.stats.rows_alive > 0)
        model.close()
        with raises(JobFailed, "failed"):
            waiting.result(WAIT_S)
