"""Caches the results of a model's compatibility tests on disk, so that new processes skip the tests.

A file holds the results of one model: its files by their content, all keys that change
what is computed, our own code and kernels, the libraries' versions, the machine, and the
variables that choose backends. If any of these changes, another file is looked up, and
the trials run. Only successful results are stored.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from runner_base import machine, user_cache
from runner_base.notes import Note
from runner_engine.attention import register_attention
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.kernels import native
from runner_engine.kv_cache import KvCacheSpec, Window
from runner_engine.models.base_loading import LoadedModel
from runner_engine.quantization import CHOICES
from runner_engine.recurrent import StateShape

# the folders whose code the trials run
CODE = (
    *("attention", "decode", "kernels", "kv_cache", "local", "matmul", "memory", "models", "plan"),
    *("quantization", "recurrent", "sessions"),
)
# beginnings of variables
CHOOSING = ("RUNNER_", "ONEDNN_", "DNNL_", "ATEN_", "OMP_", "MKL_", "TORCH")


class TrialCache:
    """Cached results of a model's compatibility tests.

    Empty if the model's content is unknown or nothing can be stored.
    """

    def __init__(self, resolved: ResolvedModel, loaded: LoadedModel) -> None:
        """Read the cached results. The model must already be loaded, because the thread count is
        part of the cache key.
        """
        self.ways: dict[str, Note] = {}  # of products and of attention, which measurements have chosen
        self._file: Path | None = None
        kernels = native.load_kernels() if loaded.device.type == "cpu" else None
        spec, files = resolved.spec, resolved.files
        choices = spec.quantization, *spec.layer_mix.overrides.values()
        is_own = not any(CHOICES.find_plug_in_of_class(type(choice)) for choice in choices)  # no plug-in's
        is_own = bool(files.hashes) and not files.model.trust_remote_code and is_own
        if is_own and kernels is not None and kernels.is_kept:
            tried = (spec.model, spec.quantization, spec.lora, spec.rope, spec.generation.kv_cache)
            library = kernels.file.name.partition(".")[0]  # whichever of its units are built so far
            around = (
                machine.describe_hardware(),
                machine.library_versions(),
                torch.get_num_threads(),
                library,
                _hash_code_under_compatibility_test(),
            )
            chosen = sorted(pair for pair in os.environ.items() if pair[0].startswith(CHOOSING))
            layers = [] if spec.first_layers is None else [spec.first_layers]
            key = repr((sorted(files.hashes.items()), tried, around, chosen, *layers))
            self._file = kernels.file.with_name(
                f"trials-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
            )
        self._shown = {} if self._file is None else user_cache.read_cache_file(self._file)

    def load_kv_spec(self) -> KvCacheSpec | None:
        try:
            found = dict(self._shown["heads"])
            dtype = getattr(torch, found.pop("dtype"))
            zeroed = found.pop("note")
            windows = tuple(None if one is None else Window(**one) for one in found.pop("windows"))
            states = tuple(tuple(map(_parse_state_shape, of_layer)) for of_layer in found.pop("states"))
            known: dict[str, Any] = {
                "states": states,
                "stores": tuple(found.pop("stores")),
                "windows": windows,
                "note": None if zeroed is None else Note(**zeroed),
            }
            heads = KvCacheSpec(**found, **known, dtype=dtype, device=torch.device("cpu"))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        register_attention()  # as the trial does
        return heads

    def store_kv_spec(self, kv_spec: KvCacheSpec) -> KvCacheSpec:
        """Cache a KV cache spec that passed its test, and return the spec.

        Stored only if attention runs with C kernels on a CPU.
        """
        if kv_spec.device.type == "cpu" and not kv_spec.by_sdpa:
            names = "layers", "stores", "kv_heads", "group", "dim", "plain_softmax"
            found: dict[str, Any] = {name: getattr(kv_spec, name) for name in names}
            found["note"] = None if kv_spec.note is None else asdict(kv_spec.note)
            found["dtype"] = str(kv_spec.dtype).removeprefix("torch.")
            found["windows"] = [None if window is None else asdict(window) for window in kv_spec.windows]
            found["states"] = [
                [[shape.shape, str(shape.dtype).removeprefix("torch.")] for shape in of_layer]
                for of_layer in kv_spec.states
            ]
            self._store_test_result("heads", found)
        return kv_spec

    def is_fused_verified(self) -> bool:
        """Whether an earlier test with the same backends has verified the fused forward.

        Verified means that logits match the model's.
        """
        return self._shown.get("fused") == repr(self.ways)

    def store_fused_result(self, is_verified: bool) -> None:
        if is_verified:
            self._store_test_result("fused", repr(self.ways))

    def _store_test_result(self, test_name: str, result: Any) -> None:
        if self._file is None or self._shown.get(test_name) == result:
            return
        self._shown[test_name] = result
        user_cache.write_cache_file(self._file, self._shown)


def _parse_state_shape(stored_shape: Any) -> StateShape:
    sizes, dtype = stored_shape
    return StateShape(tuple(sizes), getattr(torch, dtype))


@cache
def _hash_code_under_compatibility_test() -> str:
    """Hash the code that compatibility tests run, so that a code change invalidates cached results."""
    whole = hashlib.sha256()
    for folder in CODE:
        for file in sorted((Path(__file__).parents[1] / folder).rglob("*.py")):
            whole.update(file.read_bytes())
    return whole.hexdigest()
