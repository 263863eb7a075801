"""Jobs of teams of agents in a store, with tokens whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from stores import Store

from runner.records.jobs import read_samples
from runner_base.result import FinishReason

SPATIAL_EDGES = {
    "full_connected": 12,
    "star": 6,
    "random": 6,
    "layered": 4,
    "chain": 3,
    "debate": 0,
    "direct_answer": 0,
}


def team(
    store: Store,
    experiment: str,
    name: str,
    solved: Sequence[bool],
    prompt: Sequence[int],
    new: Sequence[int],
    *,
    mode: str = "full_connected",
    seed: int = 0,
    training_tokens: int = 0,
    kept: Sequence[tuple[int, int]] | None = None,
    failed: Sequence[int] = (),
    **keys: str,
) -> Path:
    """Log a job whose questions took these tokens; `kept`: the spatial edges that its learned graph
    has left."""
    edges = SPATIAL_EDGES[mode]
    metrics = {
        "prompt_tokens_per_question": float(np.mean(prompt)),
        "new_tokens_per_question": float(np.mean(new)),
        "spatial_edges_before": float(edges),
        "spatial_edges_after": float(edges if kept is None else len(kept)),
    }
    if kept is not None:
        metrics |= {
            "train_questions": 40.0,
            "train_prompt_tokens": training_tokens - 100.0,
            "train_new_tokens": 100.0,
        }
    config = {
        "task.name": "agents",
        "task.mode": mode,
        "task.agents": "4",
        "task.num_rounds": "1",
        "seed": f"{seed}",
    }
    config |= {"task.optimized_spatial": str(kept is not None), "task.graph": "None"}
    config |= {f"task.{key}": value for key, value in keys.items()}
    folder = store.job(experiment, name, config, list(solved), metrics=metrics, tags={"task": "agents"})
    samples = folder / "samples.jsonl"
    lines = ""
    for at, it in enumerate(read_samples(samples).values()):
        answer, error = replace(it.answer, token_ids=[], new_tokens=new[at]), None
        if at in failed:
            answer, error = replace(answer, finish_reason=FinishReason.error), "gone"
        lines += replace(it, answer=answer, prompt_tokens=prompt[at], error=error).to_json() + "\n"
    samples.write_text(lines)
    return folder


def one_table(out: str) -> dict[str, object]:
    """Return the only table of a JSON output."""
    (table,) = json.loads(out)["tables"]
    return dict(table)
