"""The Python code on the pages does what the pages show."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*noload.*:DeprecationWarning")
def test_the_session_on_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_database: Callable[[Path], None], warm_children: None
) -> None:
    monkeypatch.chdir(tmp_path)
    new_database(tmp_path / "outputs" / "mlflow.db")
    text = (ROOT / "docs" / "python.md").read_text()
    session = text.split("```pycon\n")[1].split("```")[0]
    parsed = doctest.DocTestParser().get_doctest(session, {}, "docs/python.md", None, 0)
    failures: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE).run(
        parsed, out=failures.append
    )
    assert failures == [], "".join(failures)


@pytest.mark.thorough
def test_the_old_scripts_lines_have_counterparts(tiny_llama: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    lines = next(
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import load\n" in block
    )
    adapter = tmp_path / "adapter.pth"
    weights: dict[str, torch.Tensor] = {}
    for layer in range(2):
        for module in ("q_proj", "o_proj"):
            at = f"model.layers.{layer}.self_attn.{module}.lora"
            weights |= {f"{at}.A.weight": torch.randn(8, 64), f"{at}.B.weight": torch.randn(64, 8)}
    torch.save(weights, adapter)
    lines = lines.replace("Qwen/Qwen2-0.5B-Instruct", str(tiny_llama))
    lines = lines.replace("out/lora/qwen2_parallel_lora_hf_final.pth", str(adapter))
    names: dict[str, Any] = {}
    exec(lines, names)
    with names["model"] as model:
        assert model.report.metrics["rope_pairs_patched"] > 0
        assert "rank 8" in model.report.facts["lora"]
        assert names["response"].prompt_tokens > 0
