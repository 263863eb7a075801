"""The command with which vLLM serves the same plan, and when to use vLLM instead."""

from __future__ import annotations

import shlex
from typing import Any

from runner.sharding.strategies import PlannedPart

WHEN = """\
Use vLLM when many requests come at once, or when one machine is not enough: it reads the original checkpoint (not
these parts), batches continuously, pages its KV cache and captures its kernels. What the parts are for: a model that
fits no single machine's memory, stages on CPUs, parts that are stored, shipped or verified one by one.
"""


def vllm(model: str, revision: str | None, parts: list[PlannedPart], settings: dict[str, Any]) -> str:
    """Return the command that serves a checkpoint in the same stages, and when to use it."""
    stages = [part.layers[1] - part.layers[0] + 1 for part in parts if part.layers is not None]
    words = ["vllm", "serve", model, "--pipeline-parallel-size", str(len(stages))]
    words += ["--revision", revision] if revision else []
    words += ["--trust-remote-code"] if settings.get("auto_map") else []
    command = f"VLLM_PP_LAYER_PARTITION={','.join(map(str, stages))} {shlex.join(words)}"
    return (
        f"{command}\n\n"
        f"One GPU per stage: {len(stages)} GPUs, here or on several machines. VLLM_PP_LAYER_PARTITION gives each stage "
        "the layers of this plan; without it vLLM cuts by number of layers.\n"
        f"On {len(stages)} machines add, on each: --nnodes {len(stages)} --node-rank RANK --master-addr FIRST_MACHINE "
        "(on all but the first also --headless), or start Ray on them and add --distributed-executor-backend ray.\n\n"
        f"{WHEN}"
    )
