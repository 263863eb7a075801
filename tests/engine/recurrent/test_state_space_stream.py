"""Each family of state spaces in the stream: the tokens of `generate`, with prefixes that are
shared, whoever enters or leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hybrids import STATE_SPACES, save_hybrid
from opening import make_spec, open_engine
from streams import AGENTS, PROMPTS, QUESTIONS, SYSTEM, chosen, complete, generated
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner_base.dtypes import Dtype
from runner_engine.kernels import native
from runner_engine.local.engine import LocalEngine
from runner_engine.recurrent import create_mixer
from runner_engine.recurrent.sequence_states import SequenceStates
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

pytestmark = pytest.mark.slow

LENGTHS = (20, 3, 11, 20, 7, 1, 16, 5, 9, 13, 2, 18)
LONG = 500


@pytest.fixture(scope="module", params=list(STATE_SPACES))
def saved(request: pytest.FixtureRequest, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_hybrid(tmp_path_factory.mktemp(request.param), request.param, tiny_llama)


@pytest.fixture(scope="module")
def family(saved: Path) -> tuple[Any, Any]:
    """The model by transformers' own code, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(saved, dtype="float32").eval()
    model.register_forward_pre_hook(_forget, with_kwargs=True)
    return model, AutoTokenizer.from_pretrained(saved)


def _forget(model: Any, _: Any, named: dict[str, Any]) -> None:
    """Drop what a block of RecurrentGemma keeps of the last prompt: a prompt of a single token
    would go on from there."""
    cache = named.get("past_key_values")
    if cache is not None and cache.get_seq_length() == 0:
        for module in model.modules():
            if hasattr(module, "conv1d_state"):
                module.conv1d_state = None


def opened(saved: Path, new_tokens: int) -> LocalEngine:
    model = LocalModelConfig(name=str(saved), device="cpu", dtype=Dtype.float32)
    return open_engine(make_spec(model=model, generation=GenerationConfig(max_new_tokens=new_tokens)))


def asked() -> list[Request]:
    return [Request(at, prompt, max_new_tokens=LENGTHS[at]) for at, prompt in enumerate(PROMPTS)]


@pytest.mark.sampled(1)
def test_rows_enter_and_leave_and_share_prefixes(
    saved: Path, family: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {at: answer[: LENGTHS[at]] for at, answer in generated(*family, clear=5e-6).items()}
    engine = opened(saved, 20)
    for rows in (None, 3):
        assert complete(engine, asked(), rows) == expected
    assert engine.stats.notes == []
    assert engine.stats.shared_tokens > 0
    monkeypatch.setattr(
        SequenceStates,
        "copy_states_from",
        lambda self, slot, other, of_slot=0: self.read.__setitem__(slot, other.read[of_slot]),
    )
    assert complete(engine, asked()) != expected  # the control: a prefix's state is not copied
    engine.close()


@pytest.mark.thorough
def test_five_hundred_tokens(saved: Path, family: tuple[Any, Any]) -> None:
    prompts = [SYSTEM + AGENTS[0] + QUESTIONS[0], SYSTEM + AGENTS[1], "y"]
    engine = opened(saved, LONG)
    some = [Request(at, prompt, ignore_eos=True) for at, prompt in enumerate(prompts)]
    answers = complete(engine, some, 2)
    assert engine.stats.notes == []
    engine.close()
    assert [len(answer) for answer in answers.values()] == [LONG] * len(prompts)
    assert answers == chosen(*family, prompts, answers, clear=1e-6)


@pytest.mark.thorough  # most of the time is that of generate
def test_five_hundred_tokens_are_those_of_generate(saved: Path, family: tuple[Any, Any]) -> None:
    prompts = [SYSTEM + AGENTS[0] + QUESTIONS[0], SYSTEM + AGENTS[1], "y"]
    expected = generated(*family, prompts, LONG, clear=1e-6, eos_token_id=300)
    engine = opened(saved, LONG)
    some = [Request(at, prompt, ignore_eos=True) for at, prompt in enumerate(prompts)]
    assert complete(engine, some, 2) == expected
    engine.close()


def test_the_layers_compute_in_C(family: tuple[Any, Any]) -> None:
    if native.load_kernels() is None:
        pytest.skip("no C compiler is here")
    mixers = [mixer for module in family[0].modules() if (mixer := create_mixer(module)) is not None]
    assert mixers
    for mixer in mixers:
        assert (getattr(mixer, "compiled", None) or getattr(mixer, "recurrence", None)) is not None
