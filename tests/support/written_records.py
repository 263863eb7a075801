"""Records of finished jobs, written as a job writes them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.records.flat_config import flatten_config
from runner_base.result import Record, Result, Status

SPEEDS = {"prefill_tok_per_s": 100.0, "decode_tok_per_s": 10.0, "load_s": 3.0}
ANSWERS = {"n": 4, "correct": 3, "prompt_tokens": 400, "new_tokens": 84} | SPEEDS  # 1 s and 2 s each, and 3 s


def write(
    config: Any, metrics: dict[str, float], name: str = "job", seconds: float = 15.0, **facts: str
) -> None:
    """Write the record of a finished job of this config."""
    folder = Path(config.output_dir) / "jobs" / name
    folder.mkdir(parents=True)
    params = dict(flatten_config(config))
    record = Record(
        name, Status.FINISHED, str(folder), Result(metrics, facts=facts), params=params, seconds=seconds
    )
    (folder / "result.json").write_text(json.dumps(asdict(record)))
