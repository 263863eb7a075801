"""task=sweep sends real prompts to a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from api_standin import Api

from runner.config.measures import SweepConfig
from runner.config.root import RunnerConfig
from runner.options.remote.keys import ApiConfig, ApiExtensions
from runner.run import run

Make = Callable[..., RunnerConfig]
QUICK: dict[str, Any] = {"batch_sizes": [1, 3], "new_tokens": 3, "repeats": 2, "warmup": 0, "pictures": False}


def test_over_a_server_and_the_record_names_the_prompts(make_config: Make) -> None:
    with Api() as api:
        url = f"http://127.0.0.1:{api.port}/v1"
        model = ApiConfig(name="tiny", base_url=url, extensions=ApiExtensions.vllm)
        task = SweepConfig(**QUICK, prompts="embedded", arrival_rates=[100.0], arrival_requests=2)
        record = run(make_config(model=model, task=task))
        sent = [body["messages"][-1]["content"] for body in api.seen if "messages" in body]
    assert len(sent) == 10
    assert len(set(sent)) == 10, "none is sent twice"
    assert record.data["name"] == "embedded test"
    assert json.loads(record.data["source"]) == {"tags": {"mlflow.source.name": "runner.embedded.problems"}}
    assert record.result.facts["prompts"].startswith("embedded test, as chats · 1,000 prompts · ")
    assert record.result.rows[0]["output_tok_per_s"] > 0
