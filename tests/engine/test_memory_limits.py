"""Real memory limits, on real processes: all requests are answered, with fewer concurrent rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Real memory, of another process: its limit is a little more than what it uses while the first rows
# decode. The arenas of longer rows, which come then, do not fit beside the others.
LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from runner_engine.checkpoints.resolved_model import resolve_model
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_base import machine
from runner_base.dtypes import Dtype
from runner_engine.spec import ModelSpec
from runner_engine.local.engine import LocalEngine
from runner_engine.sessions.base import Completion, Request
from runner_engine.sessions.contract import complete_requests

model = LocalModelConfig(name=sys.argv[1], device="cpu", dtype=Dtype.float32)
spec = ModelSpec(model, generation=GenerationConfig(max_new_tokens=90, batch_size=48))
asked = [Request(n, (5 + n, 6, 7, 8 + n), max_new_tokens=4 if n < 6 else None, ignore_eos=True) for n in range(48)]
long = [Request(n, tuple((n * i) % 50 + 5 for i in range(600)), ignore_eos=True) for n in range(48, 54)]

def run(extra_mib):
    engine, tokens = LocalEngine(resolve_model(spec)), {}
    complete_requests(engine, asked[:2])  # threads and buffers of the libraries are there
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    with engine.open() as session:
        for one in asked:
            session.submit(one)
        while not session.is_idle:
            ended = [event for event in session.step() if isinstance(event, Completion)]
            if ended and not tokens:
                if extra_mib is not None:
                    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                    resource.setrlimit(resource.RLIMIT_AS, (size + extra_mib * 2**20, unlimited[1]))
                for one in long:
                    session.submit(one)
            for done in ended:
                assert done.error is None, done.error
                tokens[done.id] = done.answer.token_ids
    resource.setrlimit(resource.RLIMIT_AS, unlimited)
    shortages = [(shortage.asked_rows, shortage.rows) for shortage in engine.stats.row_shortages]
    engine.close()
    return {"tokens": tokens, "shortages": shortages}

print(json.dumps([run(None), run(8)]))
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds memory on Linux only")
@pytest.mark.slow
def test_a_memory_limit_that_falls_during_the_run(saved_family: Callable[..., Path]) -> None:
    folder = saved_family(
        "llama", head_dim=128, num_key_value_heads=2, num_hidden_layers=4, max_position_embeddings=1024
    )
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder)],
        env=os.environ
        | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"},  # freed is free at once
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    free, limited = json.loads(done.stdout.strip().splitlines()[-1])
    assert free["shortages"] == []
    assert limited["shortages"][0] == [43, 21]
    assert limited["tokens"] == free["tokens"]
    assert len(limited["tokens"]) == 54


GROUPS = Path("/sys/fs/cgroup")
CPU_TORCH_MIB = 230  # of a process that has imported torch's CPU build
SMALL_MIB = 400  # with that build; without the guard, the process is killed with 93 rows


def imported_torch_mib() -> int:
    """Measure a process that has imported torch: its CUDA build takes more than twice as much."""
    measure = "import resource, torch; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    return max(int(subprocess.check_output([sys.executable, "-c", measure])), CPU_TORCH_MIB)


@pytest.fixture
def small_group() -> Iterator[Path]:
    """Make a control group with little memory below this process's own, which only root can."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    places = {kinds: path.lstrip("/") for _, kinds, path in lines}
    is_first = "memory" in places
    parent = GROUPS / "memory" / places["memory"] if is_first else GROUPS / places.get("", "")
    group = parent / f"runner-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        (group / ("memory.limit_in_bytes" if is_first else "memory.max")).write_text(
            str((SMALL_MIB - CPU_TORCH_MIB + imported_torch_mib()) * 2**20)
        )
        yield group
    except OSError as error:
        pytest.skip(f"this control group cannot limit memory: {error}")
    finally:
        group.rmdir()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_containers_memory_limit_ends_in_a_smaller_batch(
    small_group: Path, runner: Callable[..., Any], tmp_path: Path
) -> None:
    """The real program in a real control group, next to itself without one: the same answers, and
    no SIGKILL."""
    arguments = ["task=gsm8k", "task.limit=200", "tracking=none", "print=json"]
    inside = f'echo $$ > "{small_group}/cgroup.procs"; exec "$@"'
    (folder := tmp_path / "limited").mkdir()
    command = ["bash", "-c", inside, "bash", sys.executable, "-m", "runner", *arguments]
    limited = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert limited.returncode == 0, limited.stderr[-2000:]
    (tmp_path / "free").mkdir()
    free = runner(*arguments, cwd=tmp_path / "free")
    assert free.code == 0, free.err
    answers = {}
    for name in ("free", "limited"):
        [samples] = (tmp_path / name).glob("outputs/jobs/*/samples.jsonl")
        lines = [json.loads(line) for line in samples.read_text().splitlines()]
        answers[name] = sorted((line["index"], line["text"]) for line in lines)
    assert len(answers["limited"]) == 200
    assert sum(ours == theirs for ours, theirs in zip(answers["free"], answers["limited"], strict=True)) > 150
