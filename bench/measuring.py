"""Measurements within a process, for both sides of the engine's benchmarks: see engines.py."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from engines import Job, Outcome
from torch import nn

from runner_base import machine
from runner_engine.local.machine_rates import measure_matmul_gflop_per_s

PROBE_ROWS = 1024
PROBE_TRIES = 8


class Run:
    """Times and counts the forward passes of a loaded model, and its calls of `generate`."""

    def __init__(self, model: Any, dtype: str, load_s: float, hooks: bool = True) -> None:
        self.load_s, self.dtype = load_s, getattr(torch, dtype)
        self.shapes, self.layer_parameters, self.head_parameters = sizes(model)
        self.device = next(model.parameters()).device
        self.rates = measure_matmul_gflop_per_s(self.shapes, self.dtype, PROBE_ROWS, PROBE_TRIES, self.device)
        self.positions = self.logit_rows = 0
        self.prefill_s = self.decode_s = self.started = self.total_s = self.peak_mib = 0.0
        self.first_s = 0.0  # when the first pass of this call of `generate` was done
        self.calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # ids, mask, sequences
        self._generate = model.generate
        if hooks:
            model.register_forward_hook(self._after_pass, with_kwargs=True)
        self.loaded_mib = machine.rss_mib()

    def start(self) -> None:
        """Start the clock, and the high-water mark of memory."""
        machine.reset_peak_rss()
        self.started = time.perf_counter()

    def stop(self) -> None:
        """Stop both."""
        self.total_s = time.perf_counter() - self.started
        self.peak_mib = machine.peak_rss_mib()

    def generate(self, **settings: Any) -> Any:
        """Generate, and record the time: up to the end of the first pass it is prefill."""
        self.first_s = 0.0
        started = time.perf_counter()
        sequences = self._generate(**settings)
        ended = time.perf_counter()
        self.prefill_s += self.first_s - started
        self.decode_s += ended - self.first_s
        self.calls.append((settings["input_ids"], settings["attention_mask"], sequences))
        return sequences

    def outcome(self, **what: Any) -> Outcome:
        """Return the measurements and outputs; products are timed again, and the better time
        counts."""
        after = measure_matmul_gflop_per_s(self.shapes, self.dtype, PROBE_ROWS, PROBE_TRIES, self.device)
        measured: dict[str, Any] = {"prefill_s": self.prefill_s, "decode_s": self.decode_s, "notes": []}
        return Outcome(
            threads=torch.get_num_threads(),
            load_s=self.load_s,
            total_s=self.total_s,
            loaded_mib=self.loaded_mib,
            peak_mib=self.peak_mib,
            positions=self.positions,
            logit_rows=self.logit_rows,
            layer_parameters=self.layer_parameters,
            head_parameters=self.head_parameters,
            gflop_per_s={name: max(rate, after[name]) for name, rate in self.rates.items()},
            **(measured | what),
        )

    def _after_pass(self, _model: Any, _positional: Any, named: dict[str, Any], output: Any) -> None:
        self.first_s = self.first_s or time.perf_counter()
        self.note_pass(named["input_ids"].numel(), output.logits.shape[0] * output.logits.shape[1])

    def note_pass(self, positions: int, logit_rows: int) -> None:
        """Count a pass."""
        self.positions += positions
        self.logit_rows += logit_rows


def sizes(model: Any) -> tuple[Counter[tuple[int, int]], int, int]:
    """Return the shapes of the linear layers, their parameters, and the output layer's, which is
    none of them."""
    head = model.get_output_embeddings()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer is not head]
    shapes = Counter((layer.out_features, layer.in_features) for layer in layers)
    return shapes, sum(layer.weight.numel() for layer in layers), head.weight.numel()


def sha256_ids(ids: Sequence[int]) -> str:
    """Fingerprint of token ids."""
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def sha256_prompts(prompts: Sequence[Any]) -> str:
    """Fingerprint of all prompts, as texts or as token ids."""
    return hashlib.sha256(json.dumps(prompts, ensure_ascii=False).encode()).hexdigest()


def cut(tokens: list[int], ends: set[int]) -> list[int]:
    """Return the tokens up to and with the first stop token; behind it is padding."""
    at = next((at for at, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: at + 1]


def read_job() -> Job:
    """Read what to do from the file that the first argument names."""
    return Job(**json.loads(Path(sys.argv[1]).read_text()))


def answer(outcome: Outcome) -> None:
    """Write what came out to the file that the second argument names."""
    Path(sys.argv[2]).write_text(json.dumps(asdict(outcome)))
