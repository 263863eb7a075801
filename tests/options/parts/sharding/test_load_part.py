"""`runner.load_part` refuses what is no stage, and transformers refuses a parts folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from raising import raises
from stages import LAYERS, save_family, split_into
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

import runner
from runner.options.parts.sharding.load_part import load_tokenizer
from runner_base.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loading")
    return split_into(save_family(folder / "model", "llama"), folder / "parts", 2)


@pytest.fixture
def parts(split: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(copytree(split, tmp_path / "parts"))


def edit(parts: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = parts / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_plain_from_pretrained_refuses_a_parts_folder(split: Path) -> None:
    """Nothing in the folder is what transformers looks for, so it cannot fill the missing layers
    with noise."""
    config = AutoConfig.from_pretrained(split / "model_files")
    for load in (
        lambda: AutoModelForCausalLM.from_pretrained(split),
        lambda: LlamaForCausalLM.from_pretrained(split),
        lambda: LlamaForCausalLM.from_pretrained(split, config=config),
        lambda: AutoModelForCausalLM.from_pretrained(split / "model_files"),
    ):
        with pytest.raises((OSError, ValueError)):
            load()


@pytest.mark.slow
def test_importing_runner_stays_cheap() -> None:
    program = "import sys, runner; assert 'torch' not in sys.modules; print(runner.load_part.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "load_part\n", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'load_parts'"):
        _ = runner.load_parts


def test_no_such_part(split: Path, tmp_path: Path) -> None:
    for part_id in (-1, 2):
        with raises(ConfigError, "bad_value", "part_id"):
            runner.load_part(split, part_id)
    with raises(ConfigError, "not_found", "folder"):
        runner.load_part(tmp_path, 0)
    with raises(ConfigError, "unknown_choice", "dtype"):
        runner.load_part(split, 0, dtype="int8")


def test_a_damaged_part_is_named(parts: Path) -> None:
    file = parts / "part_1.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with raises(DataError, "damaged"):
        runner.load_part(parts, 1)
    runner.load_part(parts, 1, verify=False)  # no header says that, and nobody wants it read
    runner.load_part(parts, 0)
    file.write_bytes(content[:-5])
    with raises(DataError, "damaged"):
        runner.load_part(parts, 1, verify=False)
    file.unlink()
    with raises(DataError, "damaged"):
        runner.load_part(parts, 1)


def test_a_part_that_lacks_a_layer(parts: Path) -> None:
    """The manifest lies about where the cut is: the layer is in the other part."""
    cut = json.loads((parts / "manifest.json").read_text())["parts"][0]["layers"][1] + 1

    def move_the_cut(values: dict[str, Any]) -> None:
        values["parts"][0]["layers"] = [0, cut]
        values["parts"][1]["layers"] = [cut + 1, LAYERS - 1]

    edit(parts, move_the_cut)
    with raises(DataError, "damaged") as caught:
        runner.load_part(parts, 0)
    assert f"model.layers.{cut}." in caught.value.reason


def test_parts_that_are_no_runs_of_layers(tmp_path: Path) -> None:
    from runner.options.parts.keys import SplitStrategy

    model = save_family(tmp_path / "model", "llama")
    parts = split_into(model, tmp_path / "parts", None, strategy=SplitStrategy.by_type)  # type: ignore[arg-type]
    with raises(ConfigError, "unsupported", "folder"):
        runner.load_part(parts, 0)


def test_no_tokenizer_and_no_config(parts: Path) -> None:
    with pytest.raises(ConfigError, match="the tokenizer in .*model_files cannot be loaded"):
        load_tokenizer(parts)
    (parts / "model_files" / "config.json").unlink()
    with raises(ConfigError, "unreadable", "folder"):
        runner.load_part(parts, 0)


def test_a_stage_is_called_like_a_model(split: Path) -> None:
    first, last = (runner.load_part(split, number) for number in range(2))
    hidden = first(torch.tensor([[5, 6, 7]]))
    assert hidden.shape == (1, 3, 32)
    assert last(hidden).shape == (1, 3, 259)
    torch.testing.assert_close(last(hidden, last_only=True), last(hidden)[:, -1:])
