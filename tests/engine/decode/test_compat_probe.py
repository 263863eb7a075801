"""Models that the stream cannot serve: static batching, a note, equal answers; and machines that
lack something."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import warm_process
from opening import adapt, load_base, make_spec, open_engine
from streams import NEW_TOKENS, PROMPTS, SYSTEM, complete, generated, requests
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    Phi3Config,
)

from runner_base.dtypes import Dtype
from runner_base.notes import Note, note
from runner_engine.decode import compat_probe
from runner_engine.kernels import building, native, token_selection
from runner_engine.kv_cache.sliding_windows import MaskRecorder, UnknownWindow
from runner_engine.models import gguf_blocks, gguf_types
from runner_engine.models.gguf_blocks import GgufLinear
from runner_engine.quantization.gguf import GgufConfig
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.spec import ModelSpec
from tools import embedded_gguf

pytestmark = pytest.mark.slow

Saved = Callable[..., Path]
GREEDY = GenerationConfig(max_new_tokens=NEW_TOKENS)
QUICKLY_BUILT = building.FLAGS.replace("-O3", "-O0")  # the same functions, built in a second

NO_BEAMS: dict[str, Any] = {"vocab_size": 259, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 2}
NO_INTERFACE = "attention_elsewhere"
OTHERS: dict[str, tuple[Any, str | None]] = {  # and why they go in static batches, if they do
    "learned positions": (
        GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=512, initializer_range=0.3, **NO_BEAMS),
        None,
    ),
    "softcapped scores": (
        Gemma2Config(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            intermediate_size=96, max_position_embeddings=512, sliding_window=64, initializer_range=0.3, **NO_BEAMS,
        ),
        None,
    ),
    "alibi": (BloomConfig(hidden_size=64, n_layer=2, n_head=4, initializer_range=0.3, **NO_BEAMS), NO_INTERFACE),
    "half of each head turned": (
        GPTNeoXConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, initializer_range=0.3,
            max_position_embeddings=512, **NO_BEAMS,
        ),
        None,
    ),
}  # fmt: skip


def slow(reason: Note, batching: str = "static batching") -> Note:
    """Return the note on rows that are decoded in batches."""
    return note("slow_decoding", batching=batching, reason=reason, also=None)


def configure(folder: Path, attention: Attention = Attention.auto, **groups: Any) -> ModelSpec:
    model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32, attention=attention)
    return make_spec(**({"model": model, "generation": GREEDY} | groups))


def by_generate(folder: Path, prompts: list[str] = PROMPTS) -> dict[int, list[int]]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return generated(model, AutoTokenizer.from_pretrained(folder), prompts)


@pytest.mark.thorough
@pytest.mark.parametrize("what", OTHERS)
def test_other_architectures_answer_as_generate(tiny_llama: Path, tmp_path: Path, what: str) -> None:
    settings, reason = OTHERS[what]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "model")
    engine = open_engine(configure(tmp_path / "model"))
    assert complete(engine, requests()) == by_generate(tmp_path / "model")
    assert complete(engine, requests(), 3) == by_generate(tmp_path / "model")
    if reason is None:
        assert engine.stats.notes == []
        assert engine.stats.shared_tokens > 0
    else:
        assert len(engine.stats.notes) == 1, "said once"
        assert engine.stats.notes == [slow(note(reason))]
        assert engine.stats.shared_tokens == 0
    engine.close()


@pytest.mark.thorough
def test_a_window_that_no_mask_tells_of_is_minded_as_soon_as_it_slides(
    saved_family: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MaskRecorder, "find_sliding_window_of_mask", masks_of_its_own)
    folder = saved_family("mistral", sliding_window=64, max_position_embeddings=512)
    prompts = ["x", "Ann has 3 apples.", "How many pens are left?"]
    engine = open_engine(configure(folder))
    assert complete(engine, requests(prompts)) == by_generate(folder, prompts)
    assert engine.stats.notes == [], "all within the window"
    assert complete(engine, requests()) == by_generate(folder)
    longest = max(map(len, PROMPTS)) + NEW_TOKENS
    assert engine.stats.notes == [slow(note("attention_slides", over=64, requested=longest))]
    wide = saved_family("mistral", max_position_embeddings=512, sliding_window=None)
    assert by_generate(wide) != by_generate(folder), "the window matters"
    engine.close()


def masks_of_its_own(*_: Any) -> None:
    """Behave as for a model whose masks transformers does not build."""
    raise UnknownWindow


def longrope(tmp_path: Path, tokenizer: Path) -> Path:
    """Save a Phi-3 whose rotary embedding changes at the 111th position."""
    factors = {"short_factor": [1.0] * 8, "long_factor": [1.0 + 3 * place for place in range(8)]}
    settings = Phi3Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
        max_position_embeddings=512, original_max_position_embeddings=110, initializer_range=0.3, sliding_window=None,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, **factors}, **NO_BEAMS,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(settings).save_pretrained(tmp_path / "phi3")
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(tmp_path / "phi3")
    return tmp_path / "phi3"


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rows_that_turn_otherwise_from_some_length_on_go_through_generate(
    saved_family: Saved, tiny_llama: Path, tmp_path: Path, kind: str
) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    if kind == "dynamic":
        folder = saved_family("llama", max_position_embeddings=110, rope_parameters=rope)
    else:
        folder = longrope(tmp_path, tiny_llama)
    longest = max(map(len, PROMPTS))
    # while they are decoded
    crossing = [SYSTEM[: 110 - NEW_TOKENS // 2], SYSTEM[: 105 - NEW_TOKENS // 2]]
    prompts = [*PROMPTS, *crossing]
    engine = open_engine(configure(folder))
    # a fresh model for each: a rotary embedding may remember the longest row so far, generate or
    # not
    expected = {number: by_generate(folder, [prompt])[0] for number, prompt in enumerate(prompts)}
    assert complete(engine, requests(prompts)) == expected
    assert complete(engine, requests(prompts[::-1])) == {
        len(prompts) - 1 - number: tokens for number, tokens in expected.items()
    }
    changes = note("rope_changes", after=110, requested=longest + NEW_TOKENS)
    assert engine.stats.notes == [slow(changes, "transformers' generate, equal lengths")]
    short = [prompt for prompt in prompts if len(prompt) + NEW_TOKENS <= 110]
    assert short
    fresh = open_engine(configure(folder))
    assert complete(fresh, requests(short)) == by_generate(folder, short)
    assert fresh.stats.notes == [], "the others go in the stream"
    engine.close()
    fresh.close()


@pytest.mark.thorough
@pytest.mark.parametrize("attention", [Attention.eager, Attention.sdpa])
def test_an_attention_that_is_named_is_the_one_that_runs(saved_family: Saved, attention: Attention) -> None:
    folder = saved_family("llama", max_position_embeddings=512)
    engine = open_engine(configure(folder, attention))
    for batch_size in (64, 3, 1):
        assert complete(engine, requests(), batch_size) == by_generate(folder)
    assert engine.stats.notes == [slow(note("attention_requested", attention=attention.value))]
    assert engine.stats.shared_tokens == 0
    engine.close()


# --------------------------------------------------------------------------------- no compiler, a
# broken cache


@pytest.fixture
def fresh_kernels() -> Iterator[None]:
    """Forget the kernels before and after."""
    native.load_kernels.cache_clear()
    yield
    native.load_kernels.cache_clear()


def test_a_trial_unpacks_weights_only_where_their_products_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = embedded_gguf.write(tmp_path / "model.gguf", "Q8_0")
    spec = make_spec(model=LocalModelConfig(name=str(file), device="cpu"), quantization=GgufConfig())
    loaded = adapt(load_base(spec), spec)
    layers = [module for module in loaded.model.modules() if isinstance(module, GgufLinear)]
    unpack, calls = gguf_types.dequantize_blocks, []

    def counted(stored: torch.Tensor, kind: str, inputs: int) -> torch.Tensor:
        calls.append(stored.shape)
        return unpack(stored, kind, inputs)

    monkeypatch.setattr(gguf_blocks, "dequantize_blocks", counted)
    heads = compat_probe.infer_and_test_kv_cache_spec(loaded)
    assert heads.layers == loaded.model.config.num_hidden_layers
    # the model's own, and three of the scheduler; those for shapes only read rows, too
    passes, of_embedding = (4, 6)
    assert len(calls) == passes * len(layers) + of_embedding
    assert all("forward" not in vars(layer) for layer in layers)


@pytest.mark.thorough
@pytest.mark.usefixtures("fresh_kernels")
@pytest.mark.parametrize(
    "environment", [{"RUNNER_NATIVE": "0"}, {"CC": "/nonexistent"}, {"CC": "false"}], ids=str
)
def test_without_a_compiler_answers_are_the_same(
    saved_family: Saved, environment: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    for name, value in (environment | {"XDG_CACHE_HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    folder = saved_family("llama", max_position_embeddings=512)
    with caplog.at_level(logging.INFO, logger="runner_engine.kernels.native"):
        assert native.load_kernels() is None
        engine = open_engine(configure(folder))
        assert complete(engine, requests()) == by_generate(folder)
    assert engine.stats.notes == []
    assert engine.stats.shared_tokens > 0, "it is the stream, without compiled kernels"
    engine.close()
    if "CC" in environment:
        assert "torch" in caplog.text
        assert "slower" in caplog.text or "more slowly" in caplog.text


@pytest.mark.usefixtures("fresh_kernels")
def test_a_broken_library_in_the_cache_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if native.load_kernels() is None:
        pytest.skip("no C compiler is here")
    whole, compiler = (
        building.ensure_compiled_library(str(shutil.which(os.environ.get("CC", "cc")))),
        tmp_path / "cc",
    )
    # builds in no time: it copies
    compiler.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp "{whole}" "$2"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = building.ensure_compiled_library(str(compiler))
    broken.write_bytes(whole.read_bytes()[:100])
    native.load_kernels.cache_clear()
    kernels = native.load_kernels()
    assert kernels is not None
    assert token_selection.argmax(torch.tensor([[0.0, 1.0, -1.0]])).tolist() == [1]
    assert native.load_kernels() is kernels
    kept = {path.name for path in (tmp_path / "runner").iterdir() if path.suffix != ".o"}
    assert kept == {broken.name, building.LOCK}
    assert broken.read_bytes() == whole.read_bytes()


@pytest.mark.thorough
def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    script = (
        "import sys; from runner_engine.kernels import building, native\n"
        "building.FLAGS = sys.argv[1]; sys.exit(native.load_kernels() is None)"
    )
    if native.load_kernels() is None:
        pytest.skip("no C compiler is here")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    several = [
        warm_process.popen([sys.executable, "-c", script, QUICKLY_BUILT], env=environment) for _ in range(2)
    ]
    assert [process.wait(timeout=300) for process in several] == [0, 0]
    suffixes = sorted(path.suffix for path in (tmp_path / "runner").iterdir() if path.name != building.LOCK)
    units = [unit for unit, features in building.UNITS.items() if not features]
    assert suffixes == [".o"] * len(units) + [".so"], "one library, and nothing half done"


# -------------------------------------------------------------------------------------------- bare
# machines

BARE = """
import json, sys
for name in ("hydra", "omegaconf", "mlflow", "bitsandbytes", "torchao", "rich"):
    sys.modules[name] = None  # an import of it fails
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_base.dtypes import Dtype
from runner_engine.spec import ModelSpec
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.local.engine import LocalEngine

spec = ModelSpec(LocalModelConfig(name=sys.argv[1], device="cpu", dtype=Dtype.float32),
    generation=GenerationConfig(max_new_tokens=int(sys.argv[3])))
engine = LocalEngine(resolve_model(spec))
asked = [Request(index, prompt) for index, prompt in enumerate(json.loads(sys.argv[2]))]
print(json.dumps({done.id: done.answer.token_ids for done in complete_requests(engine, asked)}))
"""


@pytest.mark.thorough
def test_the_engine_needs_neither_hydra_nor_mlflow_nor_bitsandbytes(saved_family: Saved) -> None:
    folder = saved_family("llama", max_position_embeddings=512)
    command = [sys.executable, "-W", "error", "-c", BARE, str(folder), json.dumps(PROMPTS), str(NEW_TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    tokens = {int(index): ids for index, ids in json.loads(done.stdout).items()}
    assert tokens == by_generate(folder)
