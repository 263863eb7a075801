"""A program: the embedded model in bfloat16 answers questions one by one and together; prints
tokens and facts as JSON."""

from __future__ import annotations

import json

from opening import make_spec, open_engine

from runner_base.dtypes import Dtype
from runner_engine.sessions.base import Request
from runner_engine.sessions.contract import complete_requests
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig

TEXTS = [f"Tom has {number} apples." for number in range(24)]
ALONE = 3


def main() -> None:
    """Answer and print."""
    model = LocalModelConfig(name="embedded", device="cpu", dtype=Dtype.bfloat16)
    engine = open_engine(make_spec(model=model, generation=GenerationConfig(max_new_tokens=12)))
    facts = engine.load().facts

    def answers(texts: list[str]) -> list[list[int]]:
        requests = [Request(at, text, (), 12, ignore_eos=True) for at, text in enumerate(texts)]
        found = {one.id: list(one.answer.token_ids) for one in complete_requests(engine, requests)}
        return [found[at] for at in range(len(texts))]

    alone = [answers([text])[0] for text in TEXTS[:ALONE]]
    together = answers(TEXTS)[:ALONE]
    print(
        json.dumps(
            {
                "fact": facts["products"],
                "attention": facts.get("shared_attention"),
                "notes": [note.code for note in engine.stats.notes],
                "fused": engine.fused is not None,
                "alone": alone,
                "together": together,
            }
        )
    )


if __name__ == "__main__":
    main()
