"""Files with any content that a user may name: one message, no traceback, no code run, nothing
written elsewhere.

corpus.py makes the files. Most commands run in this process, as `runner` runs them: an error that
is not shown as one message is raised, and fails the test. Memory is the peak of the process
(ru_maxrss) after the libraries are imported: it never falls, so each test limits what its command
adds.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import corpus
import pyarrow as pa
import pytest
from arena import GSM8K, MODEL, Arena
from corpus import many

from runner.datasets import tables

pytestmark = [pytest.mark.slow, pytest.mark.smoke(5)]


# ------------------------------------------------------------------------------------------- a
# model's files


@many(corpus.JSONS)
def test_config_json(arena: Arena, tiny_llama: Path, case: str) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    (model / "config.json").write_bytes(corpus.JSONS[case])
    assert "config.json" in arena.give(*MODEL, *GSM8K)


@pytest.mark.parametrize(
    "keys",
    [
        {"num_hidden_layers": "many"},
        {"num_hidden_layers": 10**15},
        {"hidden_size": -1},
        {"vocab_size": None},
        {"torch_dtype": "float9", "dtype": "float9"},
        {"dtype": ["float32"]},
        {"model_type": "../../etc"},
        {"model_type": 7},
        {"quantization_config": 3},
        {"quantization_config": {"quant_method": {"a": 1}}},
        {"rope_parameters": "x", "rope_scaling": "x"},
        {"text_config": []},
        {"num_attention_heads": 0},
    ],
    ids=repr,
)
def test_values_of_config_json(arena: Arena, tiny_llama: Path, keys: dict[str, Any]) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    settings = json.loads((model / "config.json").read_text()) | keys
    (model / "config.json").write_text(json.dumps(settings))
    arena.give(*MODEL, *GSM8K, fails=None)


def test_code_in_auto_map_does_not_run_untrusted(arena: Arena, tiny_llama: Path) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    names = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.Tok", None],
    }
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((model / name).read_text()) | {"auto_map": names, "model_type": "evil"}
        (model / name).write_text(json.dumps(settings))
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(arena.mark)!r})\n")
    arena.give(*MODEL, *GSM8K)


@many(corpus.JSONS)
def test_tokenizer_json(arena: Arena, tiny_llama: Path, case: str) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    (model / "tokenizer.json").write_bytes(corpus.JSONS[case])
    arena.give(*MODEL, *GSM8K)


@many(corpus.CHAT_TEMPLATES)
def test_chat_templates(arena: Arena, tiny_llama: Path, case: str) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    (model / "chat_template.jinja").write_text(corpus.CHAT_TEMPLATES[case])
    arena.give(*MODEL, *GSM8K, fails=None)


@many(corpus.SAFETENSORS)
def test_safetensors(arena: Arena, tiny_llama: Path, case: str) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    (model / "model.safetensors").write_bytes(corpus.SAFETENSORS[case])
    assert "model.safetensors" in arena.give(*MODEL, *GSM8K)


@pytest.mark.parametrize("end", ["safetensors", "bin"])
@pytest.mark.parametrize("name", ["../canary", "/etc/passwd", "", 7, None, ["a"]], ids=repr)
def test_names_in_an_index(arena: Arena, tiny_llama: Path, end: str, name: Any) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    (model / "model.safetensors").unlink()
    index = "model.safetensors.index.json" if end == "safetensors" else "pytorch_model.bin.index.json"
    (model / index).write_text(json.dumps({"weight_map": {"w": name}}))
    assert "a bare file name" in arena.give(*MODEL, *GSM8K)


@many(corpus.PICKLES)
def test_bin_files(arena: Arena, tiny_llama: Path, case: str) -> None:
    model = corpus.copy_model(tiny_llama, arena.folder)
    (model / "model.safetensors").unlink()
    corpus.PICKLES[case](model / "pytorch_model.bin", arena.mark)
    arena.give(*MODEL, *GSM8K, fails=None if case in ("too short", "huge view") else True)


def test_wrapped_weights_are_not_invented(arena: Arena, tiny_llama: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model = corpus.copy_model(tiny_llama, arena.folder)
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    torch.save({"model_state_dict": weights, "epoch": 3}, model / "pytorch_model.bin")
    assert (
        "the tensors are under model_state_dict: transformers does not search nested dictionaries"
        in arena.give(*MODEL, *GSM8K)
    )


@many(corpus.GGUF)
def test_gguf(arena: Arena, case: str) -> None:
    (arena.folder / "m.gguf").write_bytes(corpus.GGUF[case])
    arena.give("model=local", "model.name=m.gguf", "quantization=gguf", *GSM8K)


# ----------------------------------------------------------------------------------------- adapters


@many(corpus.PICKLES)
def test_pth_adapters(arena: Arena, case: str) -> None:
    corpus.PICKLES[case](arena.folder / "a.pth", arena.mark)
    assert "a.pth" in arena.give("model=embedded", "lora=pth", "lora.path=a.pth", *GSM8K)


@pytest.mark.parametrize("case", ["code", "packed tensor", "torn"])
def test_bin_in_a_peft_folder(arena: Arena, case: str) -> None:
    adapter = corpus.put_adapter(arena.folder)
    (adapter / "adapter_model.safetensors").unlink()
    corpus.PICKLES[case](adapter / "adapter_model.bin", arena.mark)
    arena.give("model=embedded", "lora=peft", "lora.path=./adapter", *GSM8K)


@pytest.mark.parametrize("case", ["empty", "endless header", "deep", "overlap", "dtype is a list"])
def test_safetensors_in_a_peft_folder(arena: Arena, case: str) -> None:
    adapter = corpus.put_adapter(arena.folder)
    (adapter / "adapter_model.safetensors").write_bytes(corpus.SAFETENSORS[case])
    assert "adapter_model.safetensors" in arena.give(
        "model=embedded", "lora=peft", "lora.path=./adapter", *GSM8K
    )


@many(corpus.JSONS)
def test_adapter_config(arena: Arena, case: str) -> None:
    adapter = corpus.put_adapter(arena.folder)
    (adapter / "adapter_config.json").write_bytes(corpus.JSONS[case])
    arena.give("model=embedded", "lora=peft", "lora.path=./adapter", *GSM8K)


# --------------------------------------------------------------------------------------- data and
# prompts


@many(corpus.LINES)
def test_lines_of_questions_and_prompts(arena: Arena, case: str) -> None:
    (arena.folder / "x.jsonl").write_bytes(
        b'{"question": "a", "answer": "#### 1", "prompt": "a"}\n' + corpus.LINES[case]
    )
    if case == "utf-16":
        (arena.folder / "x.jsonl").write_bytes(corpus.LINES[case])
    where = "x.jsonl" if case == "utf-16" else "x.jsonl, line 2: "
    assert where in arena.give("model=stub", "task.data=x.jsonl", "task.limit=null")
    assert where in arena.give("model=stub", "task=generate", "task.prompts=x.jsonl")


@many(corpus.PARQUETS)
def test_parquet(arena: Arena, case: str) -> None:
    corpus.PARQUETS[case](arena.folder / "x.parquet")
    assert "x.parquet" in arena.give("model=stub", "task.data=x.parquet", "task.limit=null")
    shutil.copyfile(arena.folder / "x.parquet", arena.folder / "x.jsonl")
    assert "x.jsonl" in arena.give("model=stub", "task.data=x.jsonl", "task.limit=null")
    assert "x.jsonl" in arena.give("model=stub", "task=generate", "task.prompts=x.jsonl")


def test_a_parquet_with_more_text_than_is_read(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_BYTES", 1000)
    rows = [f"{number}?" for number in range(400)]
    corpus.put_parquet(arena.folder / "x.parquet", pa.table({"question": rows, "answer": rows}))
    assert "the decompressed text has" in arena.give("model=stub", "task.data=x.parquet", "task.limit=null")


def test_in_a_grid_only_the_job_with_the_bad_file_fails(arena: Arena) -> None:
    (arena.folder / "good.jsonl").write_text('{"question": "a", "answer": "#### 1"}\n')
    for case in ("no utf-8", "surrogate", "deep"):
        (arena.folder / f"{case.replace(' ', '-')}.jsonl").write_bytes(corpus.LINES[case])
    names = "good.jsonl,no-utf-8.jsonl,surrogate.jsonl,deep.jsonl"
    printed = arena.start("-m", "model=stub", f"task.data={names}", code=2)
    assert len(list(arena.folder.glob("outputs/jobs/*/result.json"))) == 1, printed


# ------------------------------------------------------------------------------- files of earlier
# runs


@pytest.mark.parametrize("name", ["result.json", "samples.jsonl"])
@many(
    {
        **corpus.JSONS,
        "no result": b'{"result": null, "status": "FINISHED"}',
        "lists": b'{"result": {"metrics": []}}',
    }
)
def test_evidence(arena: Arena, name: str, case: str) -> None:
    bad = {**corpus.JSONS, "no result": b'{"result": null}', "lists": b'{"result": {"metrics": []}}'}[case]
    arena.give("model=stub", "task.limit=2", fails=False)
    (file,) = arena.folder.glob(f"outputs/jobs/*/{name}")
    file.write_bytes(bad + b"\n" * bool(bad))
    if name == "samples.jsonl":
        (file.parent / "result.json").unlink()
    if bad:
        assert name in arena.give("model=stub", "task.limit=2")
    else:  # as after a power cut: what is missing is made again
        arena.give("model=stub", "task.limit=2", fails=False)
    if name == "result.json":
        with warnings.catch_warnings():
            assert "left out" not in arena.give("--output-dir", "outputs", module="sync", fails=False)


def test_a_cache_of_hashes(arena: Arena) -> None:
    for content in corpus.JSONS.values():
        (arena.folder / "outputs").mkdir(exist_ok=True)
        (arena.folder / "outputs" / ".hashes.json").write_bytes(content)
        arena.give("model=embedded", *GSM8K, fails=False)
