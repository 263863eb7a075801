"""Single tokens in a comparison of real jobs: percentiles, llama.cpp's block, the gate, the worst
tokens on the page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.datasets.word_problems import Split, generate_problems
from runner_compare.metrics import DELTA_P_SHARES, KL_SHARES
from runner_engine.embedded import MODEL_DIR

pytestmark = pytest.mark.slow

Command = Callable[..., Any]
TEXTS = 52


@pytest.fixture
def jobs(runner: Command, tmp_path: Path) -> Path:
    """Score texts of two categories with 4-bit weights, and with the reference's own weights under
    another name."""
    rows = [
        {"prompt": one.question, "continuation": " " + one.answer, "category": ("sums", "stories")[at % 2]}
        for at, one in enumerate(generate_problems(Split.TEST, TEXTS))
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    twin = shutil.copytree(MODEL_DIR, tmp_path / "twin")
    settings = json.loads((twin / "config.json").read_text())
    (twin / "config.json").write_text(json.dumps(settings | {"a_remark": "the same weights"}))
    job = ["task=likelihood", "task.data=texts.jsonl", "output_dir=out", "tracking=none", "print=none"]
    against = [f"task.reference='model=local model.name={twin} quantization=none'"]
    done = runner("-m", "quantization=none,nf4", *job, *against, "task.exact=true", "workers=1")
    assert done.code == 0, done.err
    return tmp_path / "out"


def test_tokens_of_two_jobs_compared(jobs: Path, runner: Command, tmp_path: Path) -> None:
    def compare(*arguments: str) -> Any:
        return runner("--output-dir", str(jobs), *arguments, module="runner_compare")

    rows = json.loads(compare("--format", "json").out)["tables"][0]["rows"]
    found = {row["config"]["quantization.name"]: row["metrics"] for row in rows}
    same = {
        key: value
        for key, value in found["none"].items()
        if key.startswith(("kl_", "delta_p_", "ln_ppl_ratio"))
    }
    assert same.keys() >= {*KL_SHARES, *DELTA_P_SHARES, "kl_max_nats", "kl_p99_nats/sums", "delta_p_rms_high"}
    assert set(same.values()) == {0}, "the same model twice"
    nf4 = found["nf4"]
    assert 0 < nf4["kl_p90_nats_low"] < nf4["kl_p90_nats"] < nf4["kl_p90_nats_high"] < nf4["kl_max_nats"]
    assert nf4["n/sums"] == nf4["n/stories"] == TEXTS / 2
    sizes = [nf4[f"scored_tokens/{name}"] for name in ("sums", "stories")]
    parts = [nf4[f"kl_nats_per_token/{name}"] for name in ("sums", "stories")]
    assert sum(size * part for size, part in zip(sizes, parts, strict=True)) / sum(sizes) == pytest.approx(
        nf4["kl_nats_per_token"]
    )

    table = compare("--columns", "all").out
    assert "KL divergence from the reference per token" in table
    assert re.search(r"nf4 +stories +26 ", table)
    blocks = compare("--format", "llama").out
    assert blocks.count("====== KL divergence statistics ======") == 2
    assert f"Maximum KLD: {nf4['kl_max_nats']:10.6f}" in blocks
    (p999, _) = sorted(map(float, re.findall(r"99\.9%   KLD: +([\d.]+)", blocks)), reverse=True)
    assert p999 == pytest.approx(nf4["kl_p999_nats"], rel=1e-3), "llama.cpp's place is in float32"

    high = nf4["kl_p90_nats_high"]
    assert compare("--require", f"kl_p90<{1.01 * high:.9f}nats").code == 0
    assert compare("--require", f"kl_p90<{0.99 * high:.9f}nats").code == 1, "the end decides, not the value"
    few = compare("--require", "kl_p99/stories<1e3nats")
    assert few.code == 1
    assert "because the metric has no interval (only 26 documents, but an interval needs 368)" in few.err
    failed = compare("--require", "kl_p999<1e-9nats")
    assert failed.code == 1
    assert "kl_p999_nats" in failed.err
    assert "none" not in failed.err.partition("requirement failed")[2], "only the other one fails"
    wrong = compare("--require", "kl_p999<1parsec")
    assert wrong.code == 2
    assert "kl_p999" in wrong.err

    compare("--save", str(tmp_path / "page"))
    page = (tmp_path / "page" / "comparison.html").read_text()
    assert "50 worst tokens: quantization=nf4" in page or "50 worst tokens: nf4" in page
    (folder,) = (path.parent for path in jobs.glob("jobs/*/config.yaml") if "nf4" in path.read_text())
    worst = [json.loads(line) for line in (folder / "worst_tokens.jsonl").read_text().splitlines()]
    assert worst[0]["kl_nats"] == nf4["kl_max_nats"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for it in worst:
        (sample,) = (one for one in samples if one["index"] == it["index"])
        whole = sample["question"] + sample["gold"]
        assert it["before"] + it["token"] + it["after"] in whole, "the context is the text's own"
        assert it["category"] == sample["category"]
