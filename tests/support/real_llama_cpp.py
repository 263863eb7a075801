"""The real llama.cpp: xllamacpp in an environment of its own, after `make llama_cpp` or a benchmark
that needs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import embedded_gguf

ROOT = Path(__file__).resolve().parents[2]
PLACES = (ROOT / ".llama_cpp", ROOT / "outputs" / ".xllamacpp")
HEAD = 64  # numbers of a head of the embedded model
PYTHON = next((place / "bin" / "python" for place in PLACES if (place / "bin" / "python").exists()), None)  # fmt: skip
needs_llama_cpp = pytest.mark.skipif(PYTHON is None, reason="llama.cpp is not installed here: make llama_cpp")


def embedded_file(folder: Path, kind: str = "F16") -> Path:
    """Return the embedded model as a .gguf file."""
    folder.mkdir(parents=True, exist_ok=True)
    return embedded_gguf.write(folder / f"embedded-{kind}.gguf", kind)


def real_keys(model: Path, *more: str) -> tuple[str, ...]:
    """Return the keys of a job with it, on one thread."""
    where = f"model.python={PYTHON}"
    return ("model=llama_cpp", f"model.name={model}", where, "model.threads=1", *more)


def with_outliers(folder: Path, scale: float = 300.0) -> Path:
    """Return the embedded model with a few large numbers among the keys, and queries as much
    smaller: the same model, whose keys cannot be stored in blocks of 4 bits."""
    import shutil

    from safetensors.torch import load_file, save_file

    from runner_engine.embedded import MODEL_DIR

    source = folder / "outliers"
    shutil.copytree(MODEL_DIR, source, ignore=shutil.ignore_patterns("*.safetensors"))
    for shard in MODEL_DIR.glob("*.safetensors"):
        tensors = load_file(shard)
        for name, tensor in tensors.items():
            is_key = name.endswith("k_proj.weight")
            if is_key or name.endswith("q_proj.weight"):
                rows = tensor.view(-1, 2, HEAD // 2, tensor.shape[1])  # halves rotate as pairs
                rows[:, :, -1] *= scale if is_key else 1 / scale
        save_file(tensors, source / shard.name)
    return embedded_gguf.write(folder / "outliers-F32.gguf", "F32", source)
