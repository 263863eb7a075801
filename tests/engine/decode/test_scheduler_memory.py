"""Memory that runs out: it is noted, fewer rows continue, and no answer is lost or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_pass import CUDA_SAYS, forwards
from opening import make_spec, open_engine
from streams import NEW_TOKENS, PROMPTS, complete, requests

from runner_base import machine
from runner_base.dtypes import Dtype
from runner_base.result import FinishReason
from runner_engine.decode import kv_budget
from runner_engine.decode.scheduler import Scheduler
from runner_engine.decode.tokens import sampling
from runner_engine.decode.tokens.sampling import Sampler
from runner_engine.kernels import token_selection
from runner_engine.memory import memory_guard
from runner_engine.sessions import contract
from runner_engine.sessions.contract import Engine
from runner_engine.sessions.shortages import SequenceShortage
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig

pytestmark = pytest.mark.slow  # as a group: `make test-fast` leaves them out

GREEDY = GenerationConfig(max_new_tokens=NEW_TOKENS)
SAMPLING = GenerationConfig(max_new_tokens=NEW_TOKENS, temperature=0.9, repetition_penalty=1.2)


@pytest.fixture(params=[GREEDY, SAMPLING], ids=lambda generation: generation.name)
def engine(saved_family: Callable[..., Path], request: pytest.FixtureRequest) -> Iterator[Engine]:
    folder = saved_family("llama", max_position_embeddings=512)
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32)
    engine = open_engine(make_spec(model=model, generation=request.param))
    yield engine
    engine.close()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "failing", [(1,), (2,), (3,), (4,), (5, 6), (9,), (12, 13, 14), (5, 15, 25)], ids=str
)
def test_out_of_memory_at_any_pass_changes_no_answer(engine: Engine, failing: tuple[int, ...]) -> None:
    """Forward 1 and 2 read prefixes, the next prompts, later ones give each row a token."""
    expected = complete(engine, requests())
    assert engine.stats.row_shortages == []
    alive = []

    def fail(number: int, running: Scheduler, ids: list[int]) -> None:
        if number in failing:
            alive.append(len(running.rows.active))
            raise torch.OutOfMemoryError(CUDA_SAYS)

    with forwards(fail):
        assert complete(engine, requests()) == expected
    assert len(alive) == len(failing) == len(engine.stats.row_shortages)
    for shortage, rows in zip(engine.stats.row_shortages, alive, strict=True):
        assert shortage.ran_out
        if rows > 1:
            assert (shortage.asked_rows, shortage.rows) == (rows, rows // 2)
    assert complete(engine, requests()) == expected, "and the next time it begins with all again"


@pytest.mark.thorough
def test_prompts_that_do_not_fit_together_enter_by_halves(engine: Engine) -> None:
    """The first prompts come in together, before any row is on its way: half of these go on, and
    not one."""
    expected = complete(engine, requests())
    failed = 0

    def fail(number: int, running: Scheduler, ids: list[int]) -> None:
        nonlocal failed
        if running.kv.own is not None and not running.rows.active and failed < 2:
            failed += 1
            raise MemoryError

    with forwards(fail):
        assert complete(engine, requests()) == expected
    count = len(PROMPTS)
    assert engine.stats.row_shortages == [
        SequenceShortage(rows=before // 2, asked_rows=before, ran_out=True) for before in (count, count // 2)
    ]


def test_a_shared_beginning_that_cannot_be_read_is_said(engine: Engine) -> None:
    expected = complete(engine, requests())

    def fail(number: int, running: Scheduler, ids: list[int]) -> None:
        if number <= 3:
            raise MemoryError

    with forwards(fail):
        assert complete(engine, requests(), 64) == expected
    assert engine.stats.row_shortages == [
        SequenceShortage(rows=rows, asked_rows=0, ran_out=True) for rows in (32, 16, 8)
    ]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("room", "error"),
    [
        (1, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")),
        (2, RuntimeError("could not create a primitive")),  # oneDNN
        (3, OSError(12, "Cannot allocate memory")),
        (5, RuntimeError("std::bad_alloc")),
    ],
    ids=str,
)
def test_no_more_rows_at_once_than_there_is_memory_for(engine: Engine, room: int, error: Exception) -> None:
    expected = complete(engine, requests())
    seen = []

    def fail(number: int, running: Scheduler, ids: list[int]) -> None:
        if len(running.rows.active) > room:
            raise error
        seen.append(len(running.rows.active))

    with forwards(fail):
        assert complete(engine, requests()) == expected
    assert max(seen) <= room
    assert engine.stats.row_shortages


@pytest.mark.sampled(1)
@pytest.mark.parametrize("failing", [1, 2, 3, 6])
def test_memory_may_run_out_between_the_passes(
    engine: Engine, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors are also allocated when rows leave: rows that have ended by then are answered once,
    and unchanged."""
    expected = complete(engine, requests())
    real, calls = Sampler.keep_sequences_at_indices, []

    def keep(self: Sampler, rows: Sequence[int]) -> None:
        calls.append(len(rows))
        if len(calls) == failing:
            raise torch.OutOfMemoryError(CUDA_SAYS)
        real(self, rows)

    limits = [replace(request, max_new_tokens=2 + int(request.id) // 2) for request in requests()]
    monkeypatch.setattr(Sampler, "keep_sequences_at_indices", keep)
    assert complete(engine, limits) == {
        index: tokens[: limits[index].max_new_tokens] for index, tokens in expected.items()
    }
    assert len(engine.stats.row_shortages) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("attention", [Attention.auto, Attention.sdpa], ids=["stream", "batches"])
@pytest.mark.parametrize("failing", [1, 2, 5])
def test_memory_may_run_out_between_two_groups_of_sampled_rows(
    tiny_model: LocalModelConfig, monkeypatch: pytest.MonkeyPatch,
    attention: Attention, failing: int
) -> None:  # fmt: skip
    """Random numbers are drawn for all rows before a GPU samples each group of equal settings."""
    model = replace(tiny_model, attention=attention)
    engine = open_engine(make_spec(model=model, generation=replace(SAMPLING, repetition_penalty=None)))
    mixed = [
        replace(request, sampling=replace(request.sampling, temperature=0.8 + 0.1 * (number % 2)))
        for number, request in enumerate(requests())
    ]
    monkeypatch.setattr(token_selection, "get_kernels_for_logits", lambda _: None)  # as on a GPU
    expected = complete(engine, mixed)
    real, calls = sampling._sample_by_inverse_cdf, 0

    def draw(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2 * failing:
            raise torch.OutOfMemoryError(CUDA_SAYS)
        return real(*arguments)

    monkeypatch.setattr(sampling, "_sample_by_inverse_cdf", draw)
    assert complete(engine, mixed) == expected
    assert len(engine.stats.row_shortages) > 0
    engine.close()


def test_a_row_that_does_not_fit_alone_is_an_error_of_its_own(engine: Engine) -> None:
    expected = complete(engine, requests())
    poison = engine.encode(requests(["y"])[0])[1][0]
    alone = PROMPTS.index("y")

    def fail(number: int, running: Scheduler, ids: list[int]) -> None:
        if (
            ids[-1] == poison
            and running.kv.own is not None
            and 1 <= len(ids) <= 2
            and not running.rows.active
        ):
            raise torch.OutOfMemoryError(CUDA_SAYS)
        if len(running.rows.active) > 0 and any(row.request.id == alone for row in running.rows.active):
            raise torch.OutOfMemoryError(CUDA_SAYS)

    with forwards(fail):
        done = {completion.id: completion for completion in contract.complete_requests(engine, requests())}
    assert sorted(done) == sorted(expected)
    assert done[alone].answer.finish_reason is FinishReason.error
    assert "this request alone, with 1 tokens, needs more memory than is available" in str(done[alone].error)
    assert all(done[index].answer.token_ids == tokens for index, tokens in expected.items() if index != alone)


@pytest.mark.thorough
def test_other_errors_go_on_their_way(engine: Engine) -> None:
    expected = complete(engine, requests())

    def fail(number: int, running: Scheduler, ids: list[int]) -> None:
        if number == 7:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with forwards(fail), pytest.raises(RuntimeError, match="mat1 and mat2"):
        complete(engine, requests())
    assert engine.stats.row_shortages == []
    assert (engine.stats.rows_alive, engine.stats.rows_waiting) == (0, 0)
    assert complete(engine, requests()) == expected, "the engine is whole"


@pytest.mark.thorough
@pytest.mark.parametrize("tokens", [1, 150, 400, 900])
def test_rows_at_once_stay_within_the_budget(
    engine: Engine, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefixes and the needs of all rows stay within the budget; a row that needs more than the
    budget runs alone."""
    expected = complete(engine, requests())
    monkeypatch.setattr(kv_budget, "kv_capacity_tokens", lambda *_: tokens)
    most = 0

    def look(number: int, running: Scheduler, ids: list[int]) -> None:
        nonlocal most
        rows = running.rows.active
        most = max(most, len(rows))
        held = {id(one): len(one.tokens) for row in rows for one in (row.kv.path if row.kv.prefix else [])}
        assert len(rows) <= 1 or sum(row.max_kv_tokens for row in rows) + sum(held.values()) <= tokens
        assert (
            len(rows) <= 1 or running.kv.compute_kv_cost_tokens([row.max_kv_tokens for row in rows]) <= tokens
        )

    with forwards(look):
        assert complete(engine, requests()) == expected
    assert engine.stats.row_shortages == [], "nobody had asked for more"
    assert most == 1 if tokens == 1 else most > 1


@pytest.mark.sampled(1)
def test_a_batch_that_was_asked_for_and_does_not_fit_is_said(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = complete(engine, requests())
    monkeypatch.setattr(kv_budget, "kv_capacity_tokens", lambda *_: 400)
    assert complete(engine, requests(), batch_size=2) == expected
    assert engine.stats.row_shortages == []
    complete(engine, requests(), batch_size=12)
    [shortage] = engine.stats.row_shortages
    assert shortage == SequenceShortage(shortage.rows, asked_rows=12, kv_tokens=400)
    assert 0 < shortage.rows < 12


# ----------------------------------------------------------------------- memory that ends in a
# kill, not in an error


@pytest.fixture
def free_mib(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose last entry is the free memory from now on; it is read before each
    pass."""
    free = [10_000.0]
    monkeypatch.setattr(memory_guard, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(machine, "available_memory_mib", lambda: free[-1])
    return free


def test_rows_are_set_back_before_the_kernel_ends_the_process(engine: Engine, free_mib: list[float]) -> None:
    expected = complete(engine, requests())

    def take(number: int, running: Scheduler, ids: list[int]) -> None:
        free_mib[-1] = 10.0 if len(running.rows.active) > 3 else 10_000.0

    with forwards(take):
        assert complete(engine, requests()) == expected
    assert engine.stats.row_shortages
    assert all(shortage.ran_out for shortage in engine.stats.row_shortages)


def test_rows_wait_while_others_take_the_memory_and_enter_when_it_is_back(
    engine: Engine, free_mib: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = complete(engine, requests())
    monkeypatch.setattr(memory_guard, "MARGIN_MIB", 0.0)
    rows: dict[bool, int] = {}  # at most, while memory was short, and afterwards

    def take(number: int, running: Scheduler, ids: list[int]) -> None:
        is_short = number < 10
        rows[is_short] = max(rows.get(is_short, 0), len(running.rows.active))
        free_mib[-1] = 0.2 if is_short else 10_000.0

    free_mib[-1] = 0.2
    with forwards(take):
        assert complete(engine, requests()) == expected
    assert engine.stats.row_shortages == []
    assert 1 <= rows[True] < rows[False]
