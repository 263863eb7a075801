"""A grid over the models in a folder: what is found, the reference, what each job gets, and what is
refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from raising import raises

from runner.config.override_quoting import expand_sweeper_shortcuts
from runner.grid import model_list
from runner_base.errors import ConfigError
from runner_base.notes import note
from runner_engine.embedded import MODEL_DIR


def write(path: Path, kind: str, architecture: str = "llama", rows: int = 8) -> None:
    """Write a .gguf file with one matrix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_chat_template("{{ messages }}")
    of = gguf.GGMLQuantizationType[kind]
    numbers = np.linspace(-1, 1, rows * 64, dtype=np.float32).reshape(rows, 64)
    if kind == "F32":
        writer.add_tensor("token_embd.weight", numbers)
    else:
        writer.add_tensor("token_embd.weight", gguf.quants.quantize(numbers, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with files, folders below it, and what is no model."""
    write(tmp_path / "models" / "a-Q8_0.gguf", "Q8_0", rows=512)
    write(tmp_path / "models" / "b.gguf", "F16", rows=16)
    write(tmp_path / "models" / "deep" / "a-Q8_0.gguf", "Q8_0")
    write(tmp_path / "models" / "mmproj-b.gguf", "F16", architecture="clip")
    write(tmp_path / "models" / "big-00001-of-00002.gguf", "Q8_0")
    (tmp_path / "models" / "broken.gguf").write_bytes((tmp_path / "models" / "b.gguf").read_bytes()[:50])
    (tmp_path / "models" / "notes.txt").write_text("no model")
    checkpoint = tmp_path / "models" / "quantized"
    checkpoint.mkdir()
    settings = json.loads((MODEL_DIR / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}
    (checkpoint / "config.json").write_text(json.dumps(settings))
    return tmp_path / "models"


def test_a_folder_gives_its_files_and_model_folders_and_names_what_is_no_model(folder: Path) -> None:
    models, left_out = model_list.find_models(str(folder))
    names = [it.name.removeprefix(f"{folder}/") for it in models]
    assert names == ["a-Q8_0.gguf", "b.gguf", "broken.gguf", "deep/a-Q8_0.gguf", "quantized"]
    assert [it.quantization for it in models] == ["gguf"] * 4 + ["none"]
    assert [it.is_quantized for it in models if not it.problem] == [True, False, True, True]
    assert [bool(it.problem) for it in models] == [False, False, True, False, False]
    assert "awq" in models[-1].stored_as
    part, projector = left_out
    assert part == note("part_of_model", path=folder / "big-00001-of-00002.gguf")
    assert projector == note("no_language_model", path=folder / "mmproj-b.gguf", kind="clip")


def test_a_pattern_a_list_and_a_hub_id(folder: Path) -> None:
    models, _ = model_list.find_models(f"{folder}/*Q8_0.gguf")
    assert [Path(it.name).name for it in models] == ["a-Q8_0.gguf"]
    models, _ = model_list.find_models(f"{folder}/b.gguf,{folder}/quantized, Qwen/Qwen2.5-0.5B-Instruct")
    assert [it.quantization for it in models] == ["gguf", "none", "none"]
    assert models[-1].file_mib is None
    with raises(ConfigError, "not_found", "files"):
        model_list.find_models(f"{folder}/nowhere")
    (folder / "empty").mkdir()
    with raises(ConfigError, "not_found", "files"):
        model_list.find_models(str(folder / "empty"))


def test_the_reference_is_the_largest_unquantized_model_unless_it_is_named(folder: Path) -> None:
    models, left_out = model_list.find_models(str(folder))
    reference = model_list.choose_reference_model(models, None)
    assert Path(reference.name).name == "b.gguf", "a quantized file is larger"
    assert Path(model_list.choose_reference_model(models, "quantized").name).name == "quantized"
    with raises(ConfigError, "ambiguous", "reference"):
        model_list.choose_reference_model(models, "a-Q8_0.gguf")
    assert (
        model_list.choose_reference_model(models, f"{folder}/deep/a-Q8_0.gguf").name
        == f"{folder}/deep/a-Q8_0.gguf"
    )
    with raises(ConfigError, "not_found", "reference"):
        model_list.choose_reference_model(models, "c.gguf")
    found = model_list.make_notes_on_listed_models("models", models, left_out, reference)
    assert [it.code for it in found] == ["models", "unreadable", "left_out", "left_out"]
    assert found[0].values["sizes_mib"] == [it.file_mib for it in models]
    quantized = [it for it in models if it.is_quantized and not it.problem]
    best = model_list.choose_reference_model(quantized, None)
    assert (
        model_list.make_notes_on_listed_models("models", quantized, [], best)[1].code == "quantized_reference"
    )


def test_each_model_has_the_reference_and_keys_of_the_user_stay(folder: Path) -> None:
    models, _ = model_list.find_models(f"{folder}/b.gguf,{folder}/a-Q8_0.gguf")
    first, second = model_list.build_model_overrides(models, models[0], ["task"])
    assert first[:3] == ["model=auto", f"model.name={folder}/b.gguf", "quantization=gguf"]
    assert f"task.reference='model.name={folder}/b.gguf quantization=gguf'" in second
    own = model_list.build_model_overrides(models, models[0], ["task.reference"])
    assert [len(lines) for lines in own] == [3, 3]
    with raises(ConfigError, "conflict"):
        model_list.build_model_overrides(models, models[0], ["model"])


def test_files_on_the_command_line_stand_for_keys_of_the_sweeper() -> None:
    given = ["files=~/my models/*.gguf,other", "reference=a b.gguf", "task=sweep"]
    assert expand_sweeper_shortcuts(given) == [
        "hydra.sweeper.files='~/my models/*.gguf,other'",
        "hydra.sweeper.reference='a b.gguf'",
        "task=sweep",
    ]


def test_the_plan_names_files_below_their_folder_and_the_broken_one(
    folder: Path, runner: Callable[..., Any]
) -> None:
    plan = runner(
        "-m", f"files={folder}", "task=generate,likelihood", "task.limit=3", "plan=quick", "tracking=none"
    )
    assert "broken.gguf cannot be read: truncated" in plan.err
    assert f"/{folder.name}/deep" not in plan.out
    assert "deep/a-Q8_0.gguf" in plan.out
    assert plan.out.count("impossible: model.name=broken.gguf") == 2
    assert "task.reference" not in plan.err, "no key of the user's is left out"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("files={}",), "needs a grid of jobs. Add -m, or run a study such as which_file"),
        (("-m", "files={}", "quantization=nf4"), "Remove quantization"),
        (("-m", "reference=b.gguf"), "reference=b.gguf has no effect without files=FOLDER"),
        (
            ("-cd", "{studies}", "-cn", "which_file"),
            "this study compares the models in a folder. Add files=FOLDER",
        ),
    ],
)
def test_what_makes_no_grid_of_files(
    arguments: tuple[str, ...], message: str, folder: Path, runner: Callable[..., Any]
) -> None:
    studies = Path(__file__).parents[2] / "experiments"
    ended = runner(*(one.format(folder, studies=studies) for one in arguments), "tracking=none")
    assert ended.code == 2
    assert message in ended.err
