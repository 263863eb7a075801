"""--plan-questions: how many questions each row needs, how long they take here, and what is a
mistake."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stores import INT8, NF4, NONE, Store, marks

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]


def test_the_command_shows_the_plan_in_every_format(store: Store, show: Any) -> None:
    for name, config, solved in (
        ("base", NONE, marks(180, 200)),
        ("int8", INT8, marks(181, 200, 3)),
        ("nf4", NF4, marks(170, 200)),
    ):
        store.job(
            "planned",
            name,
            config,
            solved,
            metrics={"prefill_tok_per_s": 10.0, "prompt_tokens": 1800.0, "new_tokens": 400.0},
        )
    arguments = ("--baseline", "quantization=none", "--plan-questions", "margin=2", "power=0.9")
    code, out, err = show("planned", *arguments)
    assert (code, err) == (0, "")
    assert (
        "questions needed in total to show no loss above 2 points with 90 % power, if neither run is better"
        in out
    )
    _, out, _ = show("planned", *arguments, "--format", "json")
    plans = {row["job_id"]: row["plan"] for row in json.loads(out)["tables"][0]["rows"]}
    assert plans["base"] is None
    assert plans["nf4"]["further"] == plans["nf4"]["needed"] - 200
    # 200 first tokens come from prompts
    assert plans["nf4"]["further_s"] == pytest.approx(plans["nf4"]["further"] * (180 + 200 / 321) / 200)
    _, out, _ = show("planned", *arguments, "--format", "csv")
    assert {"plan_needed", "plan_further_s"} <= set(out.splitlines()[0].split(","))
    _, out, _ = show("planned", *arguments, "--format", "markdown")
    assert "| plan | so far | disagree | needed | further | time here |" in out
    assert show("planned", "--plan-questions", "margin=2")[0] == 2
