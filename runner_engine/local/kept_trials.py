"""What trials of a model have shown, kept beside the kernels, so that a process that starts need
not try it again.

A file holds what was tried with one model: its files by their content, all keys that change what is
computed, our own code and kernels, the libraries' versions, the machine and the variables that
choose between ways. If any of these changes, another file is looked for, and the trials run. Only
what a trial has found to be right is kept.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from runner_base import kept, machine
from runner_base.notes import Note
from runner_engine.attention import register
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.kernels import native
from runner_engine.kv_cache import Heads, Window
from runner_engine.models.load import Loaded
from runner_engine.quantization import CHOICES
from runner_engine.recurrent import StateShape

# the folders whose code the trials run
CODE = (
    *("attention", "decode", "kernels", "kv_cache", "local", "matmul", "memory", "models", "plan"),
    *("quantization", "recurrent", "sessions"),
)
# beginnings of variables
CHOOSING = ("RUNNER_", "ONEDNN_", "DNNL_", "ATEN_", "OMP_", "MKL_", "TORCH")


class KeptTrials:
    """What trials of a model have shown; nothing where the model's content is not known or nothing
    can be kept."""

    def __init__(self, resolved: ResolvedModel, loaded: Loaded) -> None:
        """Read what is kept; the load has set the number of threads."""
        self.ways: dict[str, Note] = {}  # of products and of attention, which measurements have chosen
        self._file: Path | None = None
        kernels = native.kernels() if loaded.device.type == "cpu" else None
        spec, files = resolved.spec, resolved.files
        choices = spec.quantization, *spec.mix.overrides.values()
        is_own = not any(CHOICES.of(type(choice)) for choice in choices)  # no plug-in's
        is_own = bool(files.hashes) and not files.model.trust_remote_code and is_own
        if is_own and kernels is not None and kernels.is_kept:
            tried = (spec.model, spec.quantization, spec.lora, spec.rope, spec.generation.kv_cache)
            library = kernels.file.name.partition(".")[0]  # whichever of its units are built so far
            around = machine.name(), machine.versions(), torch.get_num_threads(), library, _code()
            chosen = sorted(pair for pair in os.environ.items() if pair[0].startswith(CHOOSING))
            layers = [] if spec.first_layers is None else [spec.first_layers]
            key = repr((sorted(files.hashes.items()), tried, around, chosen, *layers))
            self._file = kernels.file.with_name(
                f"trials-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
            )
        self._shown = {} if self._file is None else kept.read(self._file)

    def heads(self) -> Heads | None:
        """Return the shape of the model's attention that a trial has found right; None if it must
        be tried."""
        try:
            found = dict(self._shown["heads"])
            dtype = getattr(torch, found.pop("dtype"))
            zeroed = found.pop("note")
            windows = tuple(None if one is None else Window(**one) for one in found.pop("windows"))
            states = tuple(tuple(map(_shape, of_layer)) for of_layer in found.pop("states"))
            known: dict[str, Any] = {
                "states": states,
                "stores": tuple(found.pop("stores")),
                "windows": windows,
                "note": None if zeroed is None else Note(**zeroed),
            }
            heads = Heads(**found, **known, dtype=dtype, device=torch.device("cpu"))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        register()  # as the trial does
        return heads

    def keep_heads(self, heads: Heads) -> Heads:
        """Keep the shape that a trial has found right, on a CPU by its kernels, and return it."""
        if heads.device.type == "cpu" and not heads.by_sdpa:
            names = "layers", "stores", "kv_heads", "group", "dim", "plain_softmax"
            found: dict[str, Any] = {name: getattr(heads, name) for name in names}
            found["note"] = None if heads.note is None else asdict(heads.note)
            found["dtype"] = str(heads.dtype).removeprefix("torch.")
            found["windows"] = [None if window is None else asdict(window) for window in heads.windows]
            found["states"] = [
                [[shape.shape, str(shape.dtype).removeprefix("torch.")] for shape in of_layer]
                for of_layer in heads.states
            ]
            self._keep("heads", found)
        return heads

    def is_fused_right(self) -> bool:
        """Whether the forward pass in a single call, by these ways, has given the model's
        logits."""
        return self._shown.get("fused") == repr(self.ways)

    def keep_fused(self, is_right: bool) -> None:
        if is_right:
            self._keep("fused", repr(self.ways))

    def _keep(self, name: str, shown: Any) -> None:
        if self._file is None or self._shown.get(name) == shown:
            return
        self._shown[name] = shown
        kept.keep(self._file, self._shown)


def _shape(kept_shape: Any) -> StateShape:
    """Return the shape of a state that was kept as its sizes and the name of its numbers'
    format."""
    sizes, dtype = kept_shape
    return StateShape(tuple(sizes), getattr(torch, dtype))


@cache
def _code() -> str:
    """Return a hash of the code that the trials run: a change of it may change what they show."""
    whole = hashlib.sha256()
    for folder in CODE:
        for file in sorted((Path(__file__).parents[1] / folder).rglob("*.py")):
            whole.update(file.read_bytes())
    return whole.hexdigest()
