"""Memory that runs out during a trial of a model is reported as a shortage, not as an unsupported
model."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import torch
from opening import make_spec, open_engine

from runner_base.errors import is_out_of_memory_error
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.models.base_loading import load_base_model
from runner_engine.settings.model import Attention, LocalModelConfig

SHORT: dict[str, Callable[[], BaseException]] = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "a processor": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "the system": lambda: OSError(errno.ENOMEM, "in another language"),
    "cuBLAS": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
    ),
    "the model's code": lambda: from_another(ValueError("no cache could be made"), MemoryError()),
    "a library": lambda: from_another(TypeError("no kernel"), torch.OutOfMemoryError("CUDA out of memory.")),
}


def from_another(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def test_other_errors_are_none_of_memory() -> None:
    assert not is_out_of_memory_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory_error(from_another(ValueError("x"), KeyError("y")))


# the stream's trial, and the batches'
@pytest.mark.sampled(4)
@pytest.mark.parametrize("attention", [Attention.auto, Attention.eager])
@pytest.mark.parametrize("who", SHORT)
def test_a_passing_shortage_does_not_decide_how_a_model_is_decoded(
    tiny_model: LocalModelConfig, who: str, attention: Attention
) -> None:
    tiny_model.attention = attention
    spec, bases = make_spec(model=tiny_model), BaseModelCache()
    base, _ = bases.get_or_load_base_model(spec.base_key, lambda: load_base_model(resolve_model(spec)))
    engine = open_engine(spec, bases)
    error = SHORT[who]()

    def run_out(*_: object) -> None:
        raise error

    hook = base.model.get_input_embeddings().register_forward_pre_hook(run_out)
    with pytest.raises(type(error)) as raised:
        engine.load()
    assert raised.value is error
    hook.remove()
    assert engine.load().facts["decoding"] == (
        "continuous batching" if attention is Attention.auto else "static batching"
    )
    assert engine.stats.row_shortages == []
    engine.close()
