"""What trials have shown is kept for the same model on the same machine, and tried again when
anything has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from opening import make_spec
from streams import PROMPTS

from runner_base import machine
from runner_base import user_cache as kept_file
from runner_base.dtypes import Dtype
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.decode import compat_probe
from runner_engine.kernels import native
from runner_engine.local import engine as engine_module
from runner_engine.local import trial_cache
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions import contract
from runner_engine.sessions.base import Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

kernels = native.load_kernels()
pytestmark = pytest.mark.skipif(kernels is None or not kernels.is_kept, reason="no kernels are kept here")
Run = Callable[..., tuple[list[str], list[str]]]


@pytest.fixture
def run(
    saved_family: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch
) -> Run:  # fmt: skip
    """Return a function that answers prompts with a new engine, and returns the answers and what
    was tried."""
    assert kernels is not None
    folder, read, keep = tmp_path / "kept", kept_file.read_cache_file, kept_file.write_cache_file
    folder.mkdir()
    # no other process keeps its trials there
    monkeypatch.setattr(kept_file, "read_cache_file", lambda file: read(folder / file.name))
    monkeypatch.setattr(kept_file, "write_cache_file", lambda file, shown: keep(folder / file.name, shown))
    tried: list[str] = []
    probe_heads, probe_fused = (
        compat_probe.infer_and_test_kv_cache_spec,
        compat_probe.build_and_verify_fused_forward,
    )

    def noted_heads(loaded: object) -> object:
        tried.append("heads")
        return probe_heads(loaded)  # type: ignore[arg-type]

    def noted_fused(loaded: object, heads: object, packed: object, experts: object, is_right: bool) -> object:
        if not is_right:
            tried.append("fused")
        return probe_fused(loaded, heads, packed, experts, is_right)  # type: ignore[arg-type]

    monkeypatch.setattr(engine_module, "infer_and_test_kv_cache_spec", noted_heads)
    monkeypatch.setattr(engine_module, "build_and_verify_fused_forward", noted_fused)

    def answers(
        family: str = "llama", identified: bool = True, **generation: object
    ) -> tuple[list[str], list[str]]:
        tried.clear()
        folder = saved_family(family, max_position_embeddings=512)
        spec = make_spec(
            model=LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32),
            generation=GenerationConfig(max_new_tokens=12, **generation),  # type: ignore[arg-type]
        )
        resolved = resolve_model(spec)
        if identified:
            resolved.files.hash_files(tmp_path / "hashes.json")
        engine = LocalEngine(resolved)
        texts = [
            it.answer.text
            for it in contract.complete_requests(engine, [Request(at, it) for at, it in enumerate(PROMPTS)])
        ]
        engine.close()
        return texts, list(tried)

    return answers


def kept(tmp_path: Path) -> Path:
    return max((tmp_path / "kept").glob("trials-*"), key=lambda file: file.stat().st_mtime_ns)


@pytest.mark.thorough
def test_the_second_engine_tries_nothing_and_answers_the_same(run: Run) -> None:
    first, tried = run()
    assert tried == ["heads", "fused"]
    assert run() == (first, [])


@pytest.mark.thorough
def test_a_model_that_was_not_identified_is_tried_each_time(run: Run) -> None:
    assert run(identified=False)[1] == ["heads", "fused"]
    assert run(identified=False)[1] == ["heads", "fused"]


@pytest.mark.thorough
def test_attention_as_on_a_gpu_is_tried_each_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept does not say that it is by SDPA: a second engine would attend by kernels."""
    monkeypatch.setenv("RUNNER_ATTENTION", "sdpa")
    assert [run()[1][0] for _ in range(2)] == ["heads", "heads"]


@pytest.mark.thorough
@pytest.mark.parametrize("change", ["variable", "machine", "version", "code", "threads", "key", "model"])
def test_a_change_is_tried_again(run: Run, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    if change == "variable":
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    if change == "machine":
        monkeypatch.setattr(machine, "describe_hardware", lambda: "another")
    if change == "version":
        monkeypatch.setattr(machine, "library_versions", lambda: {"torch": "9.9"})
    if change == "code":
        monkeypatch.setattr(trial_cache, "_hash_code_under_compatibility_test", lambda: "changed")
    if change == "threads":
        monkeypatch.setattr("torch.get_num_threads", lambda: 77)
    more = {"kv_cache": "int8"} if change == "key" else {}
    assert "heads" in run("qwen2" if change == "model" else "llama", **more)[1]


@pytest.mark.thorough
@pytest.mark.parametrize("damage", ["", "{", '{"heads": 5}', "changed"])
def test_a_damaged_file_is_tried_again_and_replaced(run: Run, damage: str, tmp_path: Path) -> None:
    first, _ = run()
    file = kept(tmp_path)
    whole = file.read_text()
    shown = json.loads(whole)
    shown["heads"]["kv_heads"] *= 2
    file.write_text(json.dumps(shown) if damage == "changed" else damage)
    assert run() == (first, ["heads", "fused"])
    assert file.read_text() == whole
