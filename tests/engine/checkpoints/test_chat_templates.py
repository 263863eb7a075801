"""A model without a chat template is refused before its weights are read, and only where its files
say so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from runner_engine.checkpoints import chat_templates


@pytest.fixture
def plain(tiny_llama: Path, tmp_path: Path) -> Path:
    """A checkpoint without a template."""
    shutil.copytree(tiny_llama, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    return tmp_path / "plain"


def test_what_may_bring_one_is_not_refused(plain: Path) -> None:
    settings = json.loads((plain / "tokenizer_config.json").read_text())
    assert chat_templates.lacks_chat_template(plain)
    for found in ({"chat_template": "{{ messages }}"}, {"auto_map": {"AutoTokenizer": ["own.Own", None]}}):
        (plain / "tokenizer_config.json").write_text(json.dumps(settings | found))
        assert not chat_templates.lacks_chat_template(plain)
    (plain / "tokenizer_config.json").unlink()
    assert not chat_templates.lacks_chat_template(plain)
    (plain / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in chat_templates.MAY_HOLD_ONE:
        (plain / name).touch()
        assert not chat_templates.lacks_chat_template(plain)
        (plain / name).unlink()
    assert chat_templates.lacks_chat_template(plain)


@pytest.mark.parametrize("has_one", [True, False])
def test_a_gguf_file_has_its_own(tmp_path: Path, has_one: bool) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_block_count(1)
    if has_one:
        writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert chat_templates.lacks_chat_template(tmp_path / "model.gguf") != has_one


@pytest.mark.thorough
def test_a_plan_says_it(runner: Callable[..., Any], plain: Path) -> None:
    done = runner("model=local", f"model.name={plain}", "plan=true")
    assert done.code == 2
    assert "has no chat template" in done.out
    assert "1 impossible" in done.out
