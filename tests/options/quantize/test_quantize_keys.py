"""task=quantize before anything is made: plans, and errors that name the key and the fix."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_models import with_maker
from raising import raises

from runner.config.compose import compose_job
from runner.config.hydra import to_runner_config
from runner.config.root import RunnerConfig
from runner.options.quantize.calibration import (
    Calibration,
    read_calibration_texts,
    require_no_evaluation_overlap,
)
from runner.options.quantize.keys import QuantizeConfig
from runner.options.quantize.recipes import FILE_TYPES, IMATRIX, KINDS, Recipe
from runner.options.quantize.source import find_source_model
from runner_base.errors import Code, ConfigError, DataError
from tools import embedded_gguf

Run = Callable[..., Any]


def config_of(*keys: str) -> RunnerConfig:
    return to_runner_config(*compose_job(["task=quantize", *keys]))


def test_every_recipe_says_how_it_is_made() -> None:
    assert {*KINDS} == {*Recipe}
    files = {recipe.value.removeprefix(IMATRIX) for recipe, kind in KINDS.items() if kind.is_file}
    assert files == {*FILE_TYPES}
    for recipe, kind in KINDS.items():
        assert kind.has_imatrix == recipe.value.startswith(IMATRIX)


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        (("task.recipe=gptq", "task.calibration=embedded", "task.bits=3"), "unknown_choice", "task.bits"),
        (("task.recipe=q4_k", "task.bits=4"), "conflict", "task.bits"),
        (("task.recipe=gptq",), "missing", "task.calibration"),
        (("task.recipe=imatrix_q4_k",), "missing", "task.calibration"),
        (("task.recipe=torchao_intx", "task.overrides={down_proj: 8}"), "conflict", "task.overrides"),
        (("task.recipe=q4_k", "task.overrides={ffn_down: 8}"), "unknown_choice", "task.overrides.ffn_down"),
        (
            ("task.recipe=rtn", "task.overrides={down_proj: q8_0}"),
            "unknown_choice",
            "task.overrides.down_proj",
        ),
        (("task.recipe=rtn", "task.sequences=0"), "bad_value", "task.sequences"),
        (("task.recipe=hqq", "task.symmetric=true"), "conflict", "task.symmetric"),
    ],
)
def test_keys_that_no_recipe_takes(keys: tuple[str, ...], code: Code, key: str) -> None:
    with raises(ConfigError, code, key) as caught:
        config_of(*keys)
    assert "\n" not in str(caught.value)


def test_keys_of_other_recipes_of_a_grid_count_nowhere() -> None:
    """One grid has gptq, which needs texts and groups, and files, which have neither."""
    shared = ("task.group_size=64", "task.calibration=embedded", "task.sequences=7")
    plain = config_of("task.recipe=q4_k").task
    assert config_of("task.recipe=q4_k", *shared, "task.shard_mib=9").task == plain
    gptq = config_of("task.recipe=gptq", *shared).task
    assert isinstance(gptq, QuantizeConfig)
    assert (gptq.bits, gptq.group_size, gptq.sequences, gptq.symmetric) == (4, 64, 7, True)
    awq = config_of("task.recipe=awq", *shared).task
    assert isinstance(awq, QuantizeConfig)
    assert awq.symmetric is False
    assert (gptq.label, awq.label) == ("gptq-4bit-g64", "awq-4bit-g64")


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        (("model=stub", "task.recipe=rtn"), "unsupported", ""),
        (("quantization=nf4", "task.recipe=rtn"), "conflict", "quantization"),
        (("lora=embedded", "task.recipe=rtn"), "conflict", "lora"),
        (("task.recipe=rtn",), "mismatch", "task.group_size"),
        (("task.recipe=q4_k",), "unsupported", "model.name"),
    ],
)
def test_models_that_no_recipe_takes(keys: tuple[str, ...], code: Code, key: str) -> None:
    config = config_of(*keys)
    assert isinstance(config.task, QuantizeConfig)
    with raises(ConfigError, code, key):
        find_source_model(config, config.task)


def test_a_file_is_no_folder_and_a_quantized_one_no_source(tmp_path: Path) -> None:
    plain, q8 = (embedded_gguf.write(tmp_path / f"{kind}.gguf", kind) for kind in ("F16", "Q8_0"))
    keys = ("model=local", f"model.name={plain}", "quantization=gguf")

    for key, more in (
        ("model.name", (*keys, "task.recipe=rtn")),
        ("", ("task.recipe=q4_k", f"task.gguf={q8}")),
    ):
        config = config_of(*more)
        assert isinstance(config.task, QuantizeConfig)
        with raises(ConfigError, "unsupported", key) as caught:
            find_source_model(config, config.task)
    assert str(caught.value).startswith(f"task.gguf={q8} ")
    config = config_of("task.recipe=q4_k", f"task.gguf={plain}")
    assert isinstance(config.task, QuantizeConfig)
    assert find_source_model(config, config.task).path == plain


# -------------------------------------------------------------------------------- calibration texts


def test_calibration_texts_come_from_files_folders_patterns_and_the_generator(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one text\nof two lines")
    (tmp_path / "b.md").write_text("# another")
    (tmp_path / "c.jsonl").write_text('{"text": "t"}\n{"question": "q", "answer": "a", "id": 3}\n')
    assert read_calibration_texts(str(tmp_path / "a.txt")).texts == ("one text\nof two lines",)
    assert read_calibration_texts(str(tmp_path / "c.jsonl")).texts == ("t", "q\na")
    assert len(read_calibration_texts(str(tmp_path)).texts) == 4
    assert read_calibration_texts(str(tmp_path / "*.md")).texts == ("# another",)
    embedded = read_calibration_texts("embedded")
    assert len(embedded.texts) == 1_000
    assert embedded.sha256 == read_calibration_texts("embedded").sha256
    with raises(ConfigError, "not_found", "task.calibration"):
        read_calibration_texts("nowhere")
    (tmp_path / "d.jsonl").write_text('{"image": 3}\n')
    with raises(DataError, "damaged", f"{tmp_path / 'd.jsonl'}, line 1"):
        read_calibration_texts(str(tmp_path / "d.jsonl"))
    (tmp_path / "empty.txt").write_text(" \n")
    with raises(DataError, "empty", "task.calibration"):
        read_calibration_texts(str(tmp_path / "empty.txt"))


SHIPPED = Path(__file__).parents[3] / "conf" / "dataset" / "texts.jsonl"


def texts_that_ship() -> list[str]:
    return [json.loads(line)["text"] for line in SHIPPED.read_text().splitlines()]


def test_a_text_of_the_evaluation_is_refused_however_it_is_written() -> None:
    shipped = max(texts_that_ship(), key=len)
    for text in (shipped, shipped.upper(), "  ".join(shipped.split()) + " !"):
        with raises(ConfigError, "conflict", "task.calibration"):
            require_no_evaluation_overlap(Calibration("mine", ("something else", text)), ["texts"])


def test_a_shared_run_of_words_is_a_note_and_other_texts_are_none(tmp_path: Path) -> None:
    shipped = next(text for text in texts_that_ship() if len(text.split()) > 40)
    words = shipped.split()
    quoted = "As the old book says, " + " ".join(words[5:25]) + ", and nobody knew why."
    (note,) = require_no_evaluation_overlap(Calibration("mine", (quoted,)), ["texts"])
    assert note.code == "shared_words"
    assert {**note.values, "shown": ""} == {
        "calibration": "mine",
        "words": 13,
        "alike": 1,
        "texts": 200,
        "evaluation": "texts",
        "shown": "",
    }
    assert require_no_evaluation_overlap(Calibration("mine", (" ".join(words[5:15]),)), ["texts"]) == []
    assert require_no_evaluation_overlap(read_calibration_texts("embedded"), ["texts"]) == []
    (note,) = require_no_evaluation_overlap(Calibration("mine", ("a",)), [str(tmp_path / "gone.jsonl")])
    assert (note.code, note.values["evaluation"]) == ("evaluation_unread", str(tmp_path / "gone.jsonl"))


def test_a_job_on_texts_of_its_evaluation_ends_before_anything_starts(runner: Run, tmp_path: Path) -> None:
    """And one on other texts is not told of any: it goes on to look for its package."""
    keys = ("task=quantize", "task.recipe=gptq", "task.group_size=64", "tracking=none", "plan=true")
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"text": max(texts_that_ship(), key=len).upper()}) + "\n")
    for texts, shared in (
        (own, "1 documents of the evaluation texts are also calibration documents"),
        (SHIPPED, "200 documents of the evaluation texts are also calibration documents"),
    ):
        done = runner(*keys, f"task.calibration={texts}", cwd=tmp_path)
        assert done.code == 2
        assert f"task.calibration={texts}: {shared}" in done.err + done.out
    done = runner(*keys, "task.calibration=embedded", cwd=tmp_path)
    assert "also calibration documents" not in done.err + done.out
    done = runner(*keys, f"task.calibration={own}", "task.check_overlap_with=[]", cwd=tmp_path)
    assert "also calibration documents" not in done.err + done.out


@pytest.mark.sampled(1)
@pytest.mark.parametrize("multirun", [(), ("-m",)])
def test_a_data_set_of_ones_own_is_an_evaluation_too(
    runner: Run, tmp_path: Path, multirun: tuple[str, ...]
) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("data: ./mine.jsonl\n")
    (tmp_path / "dataset" / "mine.jsonl").write_text('{"text": "nobody else has this text"}\n')
    (tmp_path / "same.txt").write_text("Nobody else has this text.")
    keys = ("task=quantize", "task.recipe=gptq", "task.group_size=64", "tracking=none", "plan=true")
    for names, is_shared in (("texts,mine", True), ("texts", False)):
        told = ("task.calibration=same.txt", f"task.check_overlap_with=[{names}]")
        done = runner("-cd", str(tmp_path), *multirun, *keys, *told, cwd=tmp_path)
        shared = r"task\.calibration=same\.txt: 1 documents of the evaluation \S*mine\S* are also calibration documents"
        assert (re.search(shared, done.err + done.out) is not None) is is_shared, done.out


@pytest.mark.thorough
def test_a_worker_which_composes_nothing_finds_the_data_sets_that_ship() -> None:
    program = "from runner.config import data_sets; print(data_sets.find_data_set('texts').where)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("/dataset/texts.yaml\n"), done.stderr


@pytest.mark.parametrize("recipe", [with_maker("gptq")])
def test_a_plan_tells_of_words_that_calibration_and_evaluation_share(
    runner: Run, tmp_path: Path, recipe: str
) -> None:
    words = next(text for text in texts_that_ship() if len(text.split()) > 40).split()
    keys = ("task=quantize", f"task.recipe={recipe}", "task.group_size=64", "plan=true")
    for count, is_shared in ((20, True), (10, False)):
        (tmp_path / "own.txt").write_text(f"As they say, {' '.join(words[5 : 5 + count])}, and so on.")
        done = runner(*keys, "task.calibration=own.txt", "tracking=none", cwd=tmp_path)
        assert done.code == 0, done.err
        assert (
            "shares 13 or more consecutive words with 1 of 200 documents of texts" in done.out
        ) is is_shared


def test_the_generators_problems_are_no_evaluations() -> None:
    """The split for training and the one for tests have no problem in common."""
    notes = require_no_evaluation_overlap(
        read_calibration_texts("embedded"), ["embedded"]
    )  # a text that both have is an error
    assert "evaluation_unread" not in [note.code for note in notes]


# -------------------------------------------------------------------------------------------- plans

RTN = ("task=quantize", "task.recipe=torchao_intx", "task.group_size=64", "task.bits=8")


def test_a_plan_says_what_will_be_made_and_imports_no_torch(tmp_path: Path) -> None:
    program = (
        "import atexit, sys; from runner.__main__ import entry; "
        "atexit.register(lambda: print('imports:', *({'torch', 'transformers', 'torchao'} & {*sys.modules}))); "
        "entry()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *RTN, "plan=true", "tracking=none"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "imports:\n" in done.stdout
    assert f"output: {tmp_path}/outputs/made/embedded-torchao_intx-8bit-g64" in done.stdout
    assert "quantizer: torchao 0." in done.stdout
    assert not (tmp_path / "outputs" / "made").exists()


def test_a_package_that_is_not_here_is_refused_with_the_line_that_installs_it(
    runner: Run, tmp_path: Path
) -> None:
    keys = ("task=quantize", "task.recipe=rtn", "task.group_size=64", "tracking=none")
    done = runner(*keys, f"task.python={sys.executable}", cwd=tmp_path)
    assert done.code == 2
    assert f"task.python={sys.executable} has no llm-compressor: " in done.err
    assert f"{sys.executable} -m pip install llmcompressor==" in done.err
    done = runner(*keys, "task.python=nowhere", cwd=tmp_path)
    assert done.code == 2
    assert "there is no" in done.err
    assert "`make makers RECIPE=rtn`" in done.err
    assert not (tmp_path / "outputs" / "made").exists()


def test_a_name_that_is_taken_is_refused_before_any_work(runner: Run, tmp_path: Path) -> None:
    place = tmp_path / "outputs" / "made" / "embedded-torchao_intx-8bit-g64"
    place.mkdir(parents=True)
    for more in ((), ("plan=true",)):
        done = runner(*RTN, "tracking=none", *more, cwd=tmp_path)
        assert done.code == 2, done.err
        assert f"task.output: {place} exists and is not overwritten" in done.err + done.out
    assert [*place.iterdir()] == []
