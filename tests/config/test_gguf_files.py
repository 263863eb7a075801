"""model.name=FILE.gguf chooses quantization=gguf by itself, and what cannot go with such a file says what to use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import Finished
from tiny_gguf import save_original, write
from transformers import LlamaForCausalLM

from runner.config.compose import compose_job
from runner.config.gguf_files import add_gguf_quantization_override

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "original").mkdir()
    model = LlamaForCausalLM.from_pretrained(save_original(folder / "original"))
    return write(folder / "tiny.gguf", model, "Q8_0")


@pytest.mark.parametrize(
    ("overrides", "is_meant"),
    [
        (["model=auto", "model.name=a.gguf"], True),
        (["model=local", "model.name='a b.GGUF'"], True),
        (["model=auto", "model.name=a.gguf", "quantization=int8"], False),
        (["model=auto", "model.name=org/a"], False),
        (["model=llama_cpp", "model.name=a.gguf"], False),
        (["model=auto", "lora.path=a.gguf"], False),
    ],
)
def test_the_name_chooses(overrides: list[str], is_meant: bool) -> None:
    assert add_gguf_quantization_override(overrides) == ["quantization=gguf"] * is_meant + overrides


@pytest.mark.thorough
def test_the_config_is_that_of_the_given_choice(file: Path) -> None:
    named = ["model=auto", f"model.name={file}"]
    assert compose_job(named) == compose_job([*named, "quantization=gguf"])
    assert compose_job([*named, "quantization.dequantize=true"])[0].quantization.dequantize


@pytest.mark.thorough
def test_the_job_is_that_of_the_given_choice(runner: Run, file: Path) -> None:
    job = ("model=auto", f"model.name={file}", "task.limit=1", "generation.max_new_tokens=2", "print=json")
    first, again = runner(*job).json(), runner(*job, "quantization=gguf")
    assert first["job_id"] == again.json()["job_id"]
    assert "is already complete" in again.err
    grid = runner("-m", *job, "seed=0,1", "plan=true")
    assert grid.code == 0
    assert first["job_id"] in grid.out


def test_a_draft_of_the_file_says_what_to_use(runner: Run, file: Path) -> None:
    done = runner("model=auto", f"model.name={file}", "generation.speculate=draft", "task.limit=1")
    assert done.code == 2
    assert "use quantization=gguf" not in done.err
    for fix in ("{kind: draft, layers: N}", "{kind: draft, model: FILE.gguf}", "generation.speculate=ngram"):
        assert fix in done.err
    layers = runner(
        "model=auto", f"model.name={file}", "generation.speculate={kind: draft, layers: 1}", "task.limit=1", "plan=true"
    )  # fmt: skip
    assert layers.code == 0


@pytest.mark.thorough
def test_a_grid_over_other_quantizations_is_refused_in_one_line(runner: Run, file: Path) -> None:
    for plan in ("false", "true"):
        done = runner("-m", "model=auto", f"model.name={file}", "quantization=none,int8,nf4", f"plan={plan}")
        assert (done.code, done.out) == (2, "")
        assert done.err.count("\n") == 1
        assert done.err.startswith("error: quantization=none,int8,nf4: ")


@pytest.mark.thorough
def test_a_plan_with_an_impossible_job_exits_2(runner: Run) -> None:
    done = runner("-m", "model=stub", "task.split=test,tset", "plan=true")
    assert done.code == 2
    assert "1 of these 2 jobs cannot run" in done.err
    assert runner("-m", "model=stub", "task.limit=1,2", "plan=true").code == 0
