"""Models with recurrent layers in the stream: the tokens of `generate`, whoever enters and leaves,
and what breaks them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hybrids import HYBRIDS, save_hybrid
from opening import make_spec, open_engine
from streams import AGENTS, PROMPTS, QUESTIONS, SYSTEM, chosen, complete, generated, requests
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_engine.checkpoints import pass_memory
from runner_engine.decode import cache_probe
from runner_engine.decode.passes.forward import Forward
from runner_engine.kernels import native
from runner_engine.local.engine import LocalEngine
from runner_engine.recurrent import sequence_states
from runner_engine.recurrent.mixers import gated_delta
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

pytestmark = pytest.mark.slow

# of the answers, so that rows leave and enter all the time
LENGTHS = (20, 3, 11, 20, 7, 1, 16, 5, 9, 13, 2, 18)
LONG = 500
NO_END = 300  # no token of the model


class Model:
    """A saved model, and what transformers' own code says to prompts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.answers = generated(self.model, self.tokenizer)

    def expected(self, lengths: dict[int, int]) -> dict[int, list[int]]:
        """Return the answers, each up to so many tokens."""
        return {at: answer[: lengths[at]] for at, answer in self.answers.items()}


@pytest.fixture(scope="module", params=list(HYBRIDS))
def hybrid(
    request: pytest.FixtureRequest, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Model:
    return Model(save_hybrid(tmp_path_factory.mktemp(request.param), request.param, tiny_llama))


def opened(hybrid: Model, new_tokens: int = 20, **generation: Any) -> LocalEngine:
    model = LocalModelConfig(name=str(hybrid.folder), device="cpu", dtype=Dtype.float32)
    return open_engine(
        make_spec(model=model, generation=GenerationConfig(max_new_tokens=new_tokens, **generation))
    )


@pytest.fixture
def engine(hybrid: Model) -> Iterator[LocalEngine]:
    one = opened(hybrid)
    yield one
    one.close()


def asked(**keys: Any) -> list[Request]:
    """Return requests that end one after another."""
    return [
        Request(at, prompt, max_new_tokens=length, **keys)
        for at, (prompt, length) in enumerate(zip(PROMPTS, LENGTHS, strict=False))
    ]


def lengths(some: list[Request]) -> dict[int, int]:
    return {int(one.id): one.max_new_tokens or 0 for one in some}


@pytest.mark.thorough
@pytest.mark.parametrize("rows", [None, 1, 3])
def test_rows_enter_and_leave_and_share_prefixes(
    engine: LocalEngine, hybrid: Model, rows: int | None
) -> None:
    some = asked()
    assert complete(engine, some, rows) == hybrid.expected(lengths(some))
    assert native.load_kernels() is None or engine.fused is not None
    assert engine.stats.notes == []
    assert engine.stats.shared_tokens > 0


@pytest.mark.thorough
@pytest.mark.parametrize("token_by_token", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_five_hundred_tokens(hybrid: Model, token_by_token: bool) -> None:
    prompts = [SYSTEM + AGENTS[0] + QUESTIONS[0], SYSTEM + AGENTS[1], "y"]
    engine = opened(hybrid, LONG)
    answers = complete(engine, requests(prompts, ignore_eos=True), 2)
    engine.close()
    assert [len(answer) for answer in answers.values()] == [LONG] * len(prompts)
    assert answers == chosen(hybrid.model, hybrid.tokenizer, prompts, answers, clear=1e-6)
    wrong = answers | {2: [*answers[2][:-2], answers[2][-2] ^ 1, answers[2][-1]]}
    assert wrong != chosen(hybrid.model, hybrid.tokenizer, prompts, wrong, clear=0), (
        "the control: another token"
    )
    if token_by_token:
        assert answers == generated(
            hybrid.model, hybrid.tokenizer, prompts, LONG, clear=1e-6, eos_token_id=NO_END
        )


@pytest.mark.thorough
def test_prompts_are_read_in_pieces(
    engine: LocalEngine, hybrid: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefixes, and prefixes of prefixes, too."""
    monkeypatch.setitem(pass_memory.PREFILL_TOKENS, "cpu", 64)
    some = asked()
    assert complete(engine, some) == hybrid.expected(lengths(some))


@pytest.mark.thorough
@pytest.mark.parametrize("failing", [(1,), (2,), (4,), (5, 6), (9,), (5, 12, 13)], ids=str)
def test_a_shortage_of_memory_sets_states_back(
    engine: LocalEngine, hybrid: Model, failing: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass fails when its states are half changed."""
    expected = hybrid.expected(lengths(asked()))
    assert complete(engine, asked()) == expected
    real, count = Forward._run_model, 0

    def fail(self: Forward, *arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        logits = real(self, *arguments)
        if count in failing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits

    monkeypatch.setattr(Forward, "_run_model", fail)
    assert complete(engine, asked()) == expected
    assert len(engine.stats.row_shortages) == len(failing)


@pytest.mark.thorough
def test_continuations_are_scored(engine: LocalEngine, hybrid: Model) -> None:
    continuations = (" yes", " no, not at all, and nobody has ever said so.", "7")
    pairs = [(prompt, continuation) for prompt in PROMPTS[:6] for continuation in continuations]
    some = [Request(at, prompt, continuation=more) for at, (prompt, more) in enumerate(pairs)]
    for completion in contract.complete_requests(engine, some):
        prompt, more = pairs[int(completion.id)]
        ids = hybrid.tokenizer(prompt)["input_ids"], hybrid.tokenizer(more)["input_ids"]
        with torch.inference_mode():
            logits = hybrid.model(torch.tensor([[*ids[0], *ids[1]]])).logits[0, len(ids[0]) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(ids[1])[:, None])[:, 0]
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=2e-4)


@pytest.mark.thorough
def test_choices_of_a_request_do_not_depend_on_the_others(hybrid: Model) -> None:
    engine = opened(hybrid, temperature=0.8)
    some = [Request(at, prompt, n=4) for at, prompt in enumerate(PROMPTS[:3])]

    def answers(rows: int | None) -> dict[Any, list[int]]:
        done = contract.complete_requests(engine, some, rows)
        return {(one.id, one.choice): one.answer.token_ids for one in done}

    together = answers(None)
    assert len({tuple(tokens) for tokens in together.values()}) > 6
    assert answers(1) == together == answers(5)
    engine.close()


@pytest.mark.thorough
def test_a_conversation_goes_on(engine: LocalEngine, hybrid: Model) -> None:
    """Its state is kept at the end of the turn, and is used where the next prompt goes on from
    there."""
    first = hybrid.tokenizer(PROMPTS[0])["input_ids"]
    said = complete(engine, [Request(0, tuple(first), keep=True, ignore_eos=True)])[0]
    second = [*first, *said, *hybrid.tokenizer(" And then?")["input_ids"]]
    other = [*first, *said[:5], *hybrid.tokenizer(" And then?")["input_ids"]]
    for ids, shared in ((other, 0), (second, len(first) + len(said) - 1)):
        before = engine.stats.prefill_tokens
        out = hybrid.model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=20)[
            0, len(ids) :
        ].tolist()
        assert complete(engine, [Request(1, tuple(ids), keep=True)])[1] == out
        assert engine.stats.prefill_tokens - before == len(ids) - shared


@pytest.mark.thorough
def test_recurring_prompts_are_answered_alike(engine: LocalEngine, hybrid: Model) -> None:
    some = asked(recurring=True)
    for _ in range(2):
        assert complete(engine, some, 4) == hybrid.expected(lengths(some))


@pytest.mark.sampled(2)
def test_a_beginning_that_came_twice_is_kept(engine: LocalEngine, hybrid: Model) -> None:
    """The second prompt finds what it has in common with the first, and leaves the state there; the
    third one uses it."""
    some = [at for at, prompt in enumerate(PROMPTS) if prompt.startswith(SYSTEM + AGENTS[0])][:4]
    shared, read = [], []
    for at in some:
        before = engine.stats.prefill_tokens
        assert complete(engine, [Request(at, PROMPTS[at], recurring=True)]) == {at: hybrid.answers[at]}
        read.append(engine.stats.prefill_tokens - before)
        shared.append(len(PROMPTS[at]) - read[-1])
    assert shared[:2] == [0, 0]
    assert shared[2:] == [len(SYSTEM + AGENTS[0])] * 2
    assert complete(engine, requests()) == hybrid.answers


# ----------------------------------------------------------------------------------------- controls


@pytest.mark.thorough
def test_a_wrong_decay_is_found_by_the_trial(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hybrid = Model(save_hybrid(tmp_path / "model", "qwen3_5", tiny_llama))
    real = gated_delta.PROJECTIONS["Qwen3_5GatedDeltaNet"]

    def wrong(module: Any, hidden: torch.Tensor) -> gated_delta.Projected:
        projected = real(module, hidden)
        return projected._replace(decay=2 * projected.decay)

    monkeypatch.setitem(gated_delta.PROJECTIONS, "Qwen3_5GatedDeltaNet", wrong)
    engine = opened(hybrid)
    assert complete(engine, asked()) == hybrid.expected(lengths(asked()))
    assert engine.stats.notes[0].values["reason"].code == "logits_off"
    engine.close()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("broken", ["entering", "prefix", "moving"])
def test_a_state_that_is_not_set_changes_the_answers(
    engine: LocalEngine, hybrid: Model, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load()  # after the trial, which finds some of this, too
    real_enter = sequence_states.SequenceStates.insert_slots

    def enter(self: sequence_states.SequenceStates, at: int, count: int, most: int) -> None:
        before = [tensor.clone() for tensor in self._all_state_tensors]
        real_enter(self, at, count, most)
        for tensor, old in zip(self._all_state_tensors, before, strict=True):
            tensor[at : at + count] = 0.5 if at >= len(old) else old[at : at + count].mean()

    def put(
        self: sequence_states.SequenceStates,
        slot: int,
        other: sequence_states.SequenceStates,
        of_slot: int = 0,
    ) -> None:
        self.read[slot] = other.read[of_slot]  # and nothing else

    if broken == "entering":
        monkeypatch.setattr(sequence_states.SequenceStates, "insert_slots", enter)
    elif broken == "prefix":
        monkeypatch.setattr(sequence_states.SequenceStates, "copy_states_from", put)
    else:
        monkeypatch.setattr(sequence_states.SequenceStates, "_copy_slot", lambda self, source, target: None)
    assert complete(engine, asked()) != hybrid.expected(lengths(asked()))


@pytest.mark.sampled(2)
def test_a_state_of_other_tokens_is_an_error(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.load()
    monkeypatch.setattr(
        sequence_states.SequenceStates, "copy_states_from", lambda self, slot, other, of_slot=0: None
    )
    with pytest.raises(RuntimeError, match=r"^the state in slot \d+ is at token 0, "):
        complete(engine, asked())


@pytest.mark.thorough
def test_no_library_is_recommended_for_what_is_computed_here(hybrid: Model) -> None:
    hints = logging.getLogger(cache_probe.HINTS)
    said: list[str] = []
    hints.addHandler(handler := logging.Handler())
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    hints.filters.clear()
    tried = "`causal_conv1d_fn` is falling back to its reference PyTorch implementation"
    try:
        hints.warning(tried)
        one = opened(hybrid)
        complete(one, requests(PROMPTS[:2]))
        one.close()
        hints.warning(tried)
        hints.warning("another message")
    finally:
        hints.removeHandler(handler)
    assert said[0] == tried  # before: nothing is left out where no such model is loaded
    assert said[1:] == ["another message"]
