"""A quantization that leaves much of the model as it is: said beside each verdict, of either
side."""

from __future__ import annotations

import json
from typing import Any

import pytest
from stores import NF4, NONE, Store, marks

pytestmark = [pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]

N = 200
SAID = "quantizes only 5.9 % of the transformer blocks' parameters"


def remarks(show: Any, experiment: str, baseline: str) -> dict[str, str | None]:
    code, out, err = show(experiment, "--format", "json", "--baseline", baseline)
    assert (code, err) == (0, "")
    rows = json.loads(out)["tables"][0]["rows"]
    return {row["job_id"]: row["comparison"]["remark"] for row in rows if row.get("comparison")}


@pytest.mark.thorough
def test_it_is_said_beside_the_verdict_of_a_row_and_of_a_baseline(store: Store, show: Any) -> None:
    store.job("reach", "none", NONE, marks(180, N))
    store.job("reach", "nf4", NF4, marks(180, N, 1), metrics={"quantized_share": 0.0588})
    store.job(
        "reach", "int8", {"quantization.name": "int8"}, marks(180, N, 2), metrics={"quantized_share": 0.998}
    )
    found = remarks(show, "reach", "quantization=none")
    assert found == {"nf4": f"nf4 of nf4 {SAID}", "int8": None}
    found = remarks(show, "reach", "quantization=nf4")
    assert found == {"none": f"nf4 of nf4 {SAID}", "int8": f"nf4 of nf4 {SAID}"}
    code, out, _ = show("reach", "--baseline", "quantization=none")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("• nf4 vs none"))
    assert line.endswith(f"{SAID}.")


def test_it_has_the_shares_of_all_and_of_bytes_where_they_are_recorded(store: Store, show: Any) -> None:
    store.job("bytes", "none", NONE, marks(180, N))
    shares = {"quantized_share": 0.0588, "quantized_share_of_all": 0.05, "quantized_share_of_bytes": 0.014}
    store.job("bytes", "nf4", NF4, marks(180, N, 1), metrics=shares)
    found = remarks(show, "bytes", "quantization=none")
    assert found == {
        "nf4": "nf4 of nf4 quantizes only 5 % of the parameters, 1.4 % of the bytes (5.9 % of the transformer blocks' parameters)"
    }


@pytest.mark.thorough
def test_layers_that_the_user_has_left_out_are_not_missed(store: Store, show: Any) -> None:
    store.job("mix", "none", NONE, marks(180, N))
    partly = {"quantized_share": 0.3, "quantized_share_of_wanted": 1.0}
    store.job("mix", "nf4", NF4, marks(180, N, 1), metrics=partly)
    assert remarks(show, "mix", "quantization=none") == {"nf4": None}


def test_speeds_without_a_verdict_have_it_once(store: Store, show: Any) -> None:
    swept = {"task.name": "sweep", "task.repeats": "3"}
    for name, config, metrics in (("none", NONE, {}), ("nf4", NF4, {"quantized_share": 0.0588})):
        cells = [
            {
                "measure": f"decode_tok_per_s/batch_{batch}_prompt_64",
                "repeat": number,
                "value": 300.0 + number,
            }
            for batch in (1, 8)
            for number in (1, 2, 3)
        ]
        store.job("speed", name, config | swept, repeats=cells, metrics=metrics)
    code, out, _ = show("speed", "--baseline", "quantization=none")
    assert code == 0
    assert out.count(SAID) == 1
