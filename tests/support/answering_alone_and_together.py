"""A program: the embedded model in bfloat16 answers questions one by one and together; prints
tokens and facts as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opening import local_engine

from runner.config.root import NoTrackingConfig, RunnerConfig
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.dtypes import Dtype
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import LoraConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.rope import RopeConfig

TEXTS = [f"Tom has {number} apples." for number in range(24)]
ALONE = 3


def main() -> None:
    """Answer and print."""
    groups: dict[str, Any] = {
        "model": LocalModelConfig(name="embedded", device="cpu", dtype=Dtype.bfloat16),
        "quantization": QuantizationConfig(),
        "lora": LoraConfig(),
        "rope": RopeConfig(),
        "generation": GenerationConfig(max_new_tokens=12),
        "task": Gsm8kConfig(limit=4),
        "tracking": NoTrackingConfig(),
        "output_dir": str(Path("outputs")),
    }
    engine = local_engine(RunnerConfig(**groups))
    facts = engine.load().facts

    def answers(texts: list[str]) -> list[list[int]]:
        requests = [Request(at, text, (), 12, ignore_eos=True) for at, text in enumerate(texts)]
        found = {one.id: list(one.answer.token_ids) for one in complete(engine, requests)}
        return [found[at] for at in range(len(texts))]

    alone = [answers([text])[0] for text in TEXTS[:ALONE]]
    together = answers(TEXTS)[:ALONE]
    print(
        json.dumps(
            {
                "fact": facts["products"],
                "attention": facts.get("shared_attention"),
                "notes": engine.stats.notes,
                "fused": engine.fused is not None,
                "alone": alone,
                "together": together,
            }
        )
    )


if __name__ == "__main__":
    main()
