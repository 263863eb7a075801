"""A mixture that does not fit as it is stored is loaded within what it takes quantized, and within its plan."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mixtures import mixture

from runner_engine.embedded import MODEL_DIR

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and marks of memory are Linux's")

ROOM_MIB = 115  # the file counts with its 75 MiB, as it is mapped; nf4 needs 20 more, and joined experts 75
SHAPE: dict[str, Any] = {
    "hidden_size": 512, "intermediate_size": 384, "num_hidden_layers": 4, "num_local_experts": 16,
}  # fmt: skip
PROGRAM = """
import json, resource, sys
from runner_base import MIB, is_memory_error, machine
from runner_engine import CHOICES, LocalModelConfig, ModelSpec, predict, resolve
from runner_engine.models.load import load_base

def job(name, quantization):
    model = LocalModelConfig(name=name, device="cpu", check_memory=False)
    return resolve(ModelSpec(model, CHOICES[quantization]()))

embedded, folder, quantization, room_mib = sys.argv[1:]
for name in ("nf4", "none"):
    load_base(job(embedded, name))  # what libraries take is there before
import transformers.models.mixtral.modeling_mixtral
machine.trim()
if int(room_mib):
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmData")]
    limit = int(line.split()[1]) * 1024 + int(room_mib) * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
before = machine.rss_mib()
try:
    base = load_base(job(folder, quantization))
except Exception as error:
    print(json.dumps({"error": is_memory_error(error), "said": str(error)[-300:]}))
else:
    print(json.dumps({
        "weights": sum(base.bytes_by_dtype.values()) / MIB,
        "peak": base.metrics["load_peak_rss_mib"] - before,
        "planned": predict(job(folder, quantization), (1, 16, 8)).load_mib,
    }))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mixture of 75 MiB in bfloat16."""
    made = tmp_path_factory.mktemp("mixture")
    mixture("mixtral", **SHAPE).to(torch.bfloat16).save_pretrained(made)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(MODEL_DIR / name, made / name)
    return made


def loaded(folder: Path, quantization: str, room_mib: int = 0) -> dict[str, Any]:
    """Return what a process that loads it says, if it may take so much more memory than before; 0: as it likes."""
    command = [sys.executable, "-c", PROGRAM, str(MODEL_DIR), str(folder), quantization, str(room_mib)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_no_two_copies_are_in_memory(folder: Path) -> None:
    said = loaded(folder, "nf4")
    assert 15 < said["weights"] < 25
    assert said["peak"] < said["planned"] < 50


@pytest.mark.thorough  # how much freed memory the heap still holds is chance: about half of the runs find too little
def test_within_a_limit_it_loads_quantized_and_not_as_it_is_stored(folder: Path) -> None:
    said = loaded(folder, "none", ROOM_MIB)
    assert said.get("error"), said
    said = loaded(folder, "nf4", ROOM_MIB)
    assert "error" not in said, said
