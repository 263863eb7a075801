"""runner-advise: on three described machines, within limits, on this machine with records, and its
error messages."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answered import record_job
from quick_commands import heavy_imports
from raising import raises

from runner.options import advise
from runner.options.advise.machines import load_machine
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import Code, ConfigError
from runner_base.result import Record
from runner_engine.settings.model import LocalModelConfig
from tools import embedded_gguf

SEVEN = "model=qwen25_7b_instruct"


@pytest.fixture
def data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Run the command for JSON; returns its exit code and its output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = advise.main([*arguments, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def settings(advice: dict[str, Any], which: str = "recommended") -> list[dict[str, str]]:
    return [dict(word.split("=", 1) for word in it["overrides"]) for it in advice[which]]


@pytest.mark.thorough
@pytest.mark.slow
def test_a_laptop_holds_seven_billion_in_four_bits_with_few_rows_or_a_smaller_model(data: Any) -> None:
    code, advice = data(SEVEN, "--machine", "laptop_8gb")
    first, *others = settings(advice)
    assert code == 0
    assert (first["model"], first["quantization"]) == (SEVEN[6:], "nf4")
    assert int(first["generation.batch_size"]) <= 16
    assert {it["model"] for it in others} == {"qwen15_18b_chat", "qwen25_15b_instruct", "llama32_1b"}
    assert {it["quantization"] for it in settings(advice, "out")} == {"none", "int8"}
    assert all("the limit is" in it["why_not"] for it in advice["out"])
    assert all(it["memory"]["peak_mib"] <= 6 * 1024 for it in advice["recommended"])


def test_a_workstation_holds_it_in_all_formats_and_a_large_gpu_with_many_rows(data: Any) -> None:
    _, advice = data(SEVEN, "--machine", "workstation_24gb")
    assert [it["quantization"] for it in settings(advice)] == ["none", "int8", "nf4"]
    slow = advice["recommended"][0]["time"]["seconds_per_question"]
    _, advice = data(SEVEN, "--machine", "gpu_80gb", "task.limit=1000")
    best = settings(advice)[0]
    assert (best["quantization"], int(best["generation.batch_size"])) >= ("none", 256)
    assert advice["recommended"][0]["time"]["seconds_per_question"] < slow / 20
    assert {it["time"]["source"] for it in advice["recommended"]} == {"guessed"}


@pytest.mark.slow
def test_limits_reject_with_a_reason_and_the_users_overrides_stay(data: Any) -> None:
    code, advice = data(
        SEVEN, "--machine", "gpu_80gb", "--memory-gib", "12", "quantization=nf4", "task.limit=4"
    )
    assert code == 0
    assert settings(advice)[0]["quantization"] == "nf4"
    assert advice["recommended"][0]["memory"]["peak_mib"] <= 12 * 1024
    code, advice = data(SEVEN, "--machine", "laptop_8gb", "--seconds-per-question", "0.001")
    assert (code, advice["recommended"]) == (1, [])
    assert any("the limit is 0.001" in it["why_not"] for it in advice["out"])


def test_a_job_with_as_many_rows_as_fit_tells_the_time_of_the_largest_batch_that_fits(
    data: Any, make_config: Callable[..., Any]
) -> None:
    config = make_config(model=LocalModelConfig("embedded"), task=Gsm8kConfig(limit=4))
    record_job(config, "job", [True] * 4)
    file = Path(config.output_dir, "jobs", "job", "result.json")
    record = Record.from_json(file.read_text())
    assert record.params["generation.batch_size"] == "null"
    speeds = {
        "prefill_tok_per_s": 100.0,
        "decode_tok_per_s": 10.0,
        "prompt_tokens": 400.0,
        "new_tokens": 84.0,
    }
    record.result.metrics |= speeds
    file.write_text(record.to_json())
    words = ("model=embedded", "quantization=none", "task.limit=4", "generation.max_new_tokens=24")
    job = (*words, f"output_dir={config.output_dir}", "--quick")
    ((none,), others) = (
        data(*job)[1]["recommended"],
        data(*job, "generation.batch_size=2")[1]["recommended"],
    )
    assert any(word.startswith("generation.batch_size=") for word in none["overrides"]), none
    assert none["time"]["source"] == "recorded"
    assert none["time"]["seconds_per_question"] == pytest.approx(100 / 100 + (84 - 4) / 4 / 10)
    assert others[0]["time"]["source"] == "guessed", "the user's own batch size was not measured"


@pytest.mark.slow
def test_a_recommended_job_runs_and_is_then_recorded(runner: Callable[..., Any]) -> None:
    job = (
        "model=embedded",
        "quantization=none",
        "task.limit=2",
        "generation.max_new_tokens=8",
        "tracking=none",
    )
    done = runner(*job, "--quick", "--run", module="runner.options.advise")
    assert done.code == 0, done.err
    assert "a rough estimate" in done.out
    memory = next(line for line in done.out.splitlines() if line.startswith("   peak memory"))
    predicted, *parts = (int(number.replace(",", "")) for number in re.findall(r" (\d[\d,]*)\b", memory))
    assert sum(parts) == predicted
    assert "finished" in done.out
    again = runner(*job, "--quick", module="runner.options.advise")
    assert "each), measured on this machine. A rerun" in again.out
    assert "of 2 questions, recorded (gsm8k-" in again.out
    other = runner(*job, "task.split=hard5", "--quick", module="runner.options.advise")
    assert "of 2 questions" not in other.out, "the record is of other questions"
    fewer = runner(*job[:2], "task.limit=1", *job[3:], "--quick", module="runner.options.advise")
    assert "of 1 questions, recorded (gsm8k-" in fewer.out, "one of the two that are recorded"
    shown = next(line for line in again.out.splitlines() if line.startswith("1. "))
    command = shlex.split(shown.removeprefix("1. runner "))
    assert runner(*command, "plan=quick").out.count("done") >= 1


@pytest.mark.thorough
@pytest.mark.slow
def test_two_recorded_number_formats_are_compared_on_their_questions(runner: Callable[..., Any]) -> None:
    job = ("model=embedded", "task.limit=8", "generation.max_new_tokens=64")
    runner("-m", *job, "quantization=none,nf4", "tracking=none", "workers=1", "print=none")
    advice = json.loads(runner(*job, "--quick", "--json", module="runner.options.advise").out)["recommended"]
    known = {
        dict(word.split("=") for word in it["overrides"])["quantization"]: it["accuracy"] for it in advice
    }
    assert known["int8"] is None
    for name in ("none", "nf4"):
        assert (known[name]["n"], known[name]["questions"]) == (8, 8)
        assert known[name]["low"] < known[name]["value"] <= known[name]["high"]
    shown = runner(*job, "--quick", module="runner.options.advise").out
    orders = [line for line in shown.splitlines() if line.startswith("   ranked ")]
    assert len(orders) == 2
    assert all("measured" in line or "accuracy does not differ significantly" in line for line in orders), (
        orders
    )


@pytest.mark.thorough
@pytest.mark.slow
def test_files_are_candidates_with_their_recorded_kl_and_memory(
    runner: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    for name in ("F16", "Q8_0", "Q4_1"):
        embedded_gguf.write(tmp_path / "models" / f"{name}.gguf", name)
    (tmp_path / "models" / "broken.gguf").write_bytes(b"GGUF")
    files = f"files={tmp_path / 'models'}"
    before = runner(files, "--quick", module="runner.options.advise")
    assert before.code == 0, before.err
    assert "broken.gguf" in before.err
    assert before.out.count("quantization=gguf") == 3
    assert "KL" not in before.out
    runner(
        "-m",
        files,
        "task=likelihood",
        "task.limit=50",
        "tracking=none",
        "workers=1",
        "print=none",
        "task.exact=false",
    )
    shown = runner(files, "--quick", module="runner.options.advise").out
    assert shown.count("nats/token to ") >= 2
    assert re.search(r"ranked .* it is closer to .*F16.gguf: KL .* instead of ", shown), shown
    advised = json.loads(
        runner(
            files, "task=likelihood", "task.limit=50", "--quick", "--json", module="runner.options.advise"
        ).out
    )
    measured = {Path(it["overrides"][1]).stem: it for it in advised["recommended"]}
    assert measured["Q8_0"]["divergence"]["high"] < measured["Q4_1"]["divergence"]["low"]
    assert measured["Q8_0"]["memory"]["recorded_peak_mib"] > 100
    mistake = runner(files, "quantization=nf4", module="runner.options.advise")
    assert mistake.code == 2
    assert "quantization=nf4: files=" in mistake.err


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(("cluster", "low"), [("template", 28.3), (None, 51.0)])
def test_records_are_read_without_torch(
    make_config: Callable[..., Any], cluster: str | None, low: float
) -> None:
    """Records from before task.cluster=template was the default are read, too."""
    outputs = Path(make_config().output_dir)
    config = make_config(model=LocalModelConfig("embedded"), task=Gsm8kConfig(limit=4, cluster=cluster))
    record_job(config, "job", [True] * 4)
    words = [
        "model=embedded",
        "task.limit=4",
        "generation.max_new_tokens=24",
        f"output_dir={outputs}",
        "--quick",
    ]
    program = f"import sys; from runner.options import advise; advise.main({words!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"100.0 % [{low}, 100.0] of 4 questions, recorded (job)" in done.stdout
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=stub"], "model=stub: this model has no weights on this machine"),
        (
            [SEVEN, "--machine", "laptop"],
            "--machine laptop: no machine or file 'laptop'. Did you mean laptop_8gb?",
        ),
        ([SEVEN, "--machine", "gpu_80gb", "--run"], "jobs run on this machine only"),
        ([SEVEN, "--memory-gib", "0"], "--memory-gib 0: must be more than 0"),
        (["qwen"], "qwen: not a valid override. Write KEY=VALUE"),
        (["model=qwen3_8"], "model=qwen3_8: unknown choice. Did you mean qwen3_8b?"),
    ],
)
def test_mistakes_are_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert advise.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_file_describes_a_machine(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("memory_gib: 30\nbandwidth_gb_s: 40\ntflop_s: 0.5\n")
    assert load_machine(str(file)).memory_mib == 30 * 1024
    cases: tuple[tuple[str, Code], ...] = (
        ("memory_gb: 30\n", "unknown_choice"),
        ("memory_gib: 30\n", "missing"),
        ("memory_gib: much\nbandwidth_gb_s: 1\ntflop_s: 1\n", "bad_value"),
        ("- 30", "damaged"),
    )
    for text, code in cases:
        file.write_text(text)
        with raises(ConfigError, code, "--machine") as caught:
            load_machine(str(file))
        assert str(caught.value.value) == str(file)
    file.write_text("a: [")
    with pytest.raises(ConfigError, match="it is not valid YAML"):
        load_machine(str(file))


@pytest.mark.thorough
def test_a_choice_that_misses_the_experts_is_not_recommended(data: Any, tmp_path: Path) -> None:
    from kinds_of_models import save

    from tools.families import _tokenizer

    folder = save(tmp_path / "mixture", "jetmoe")
    _tokenizer().save_pretrained(folder)
    code, advice = data("model=auto", f"model.name={folder}", "--quick")
    assert code == 0
    assert [it["quantization"] for it in settings(advice)] == ["none"]
    assert [it["quantization"] for it in settings(advice, "out")] == ["int8", "nf4"]
    assert all("would quantize only 1.9 %" in it["why_not"] for it in advice["out"][:1])
    assert all("would quantize only 1" in it["why_not"] for it in advice["out"])
    allowed = ["quantization=nf4", "quantization.allow_partial=true"]
    code, advice = data("model=auto", f"model.name={folder}", "--quick", *allowed)
    (nf4,) = advice["recommended"]
    # where bitsandbytes packs for products of bfloat16, a layer that these cannot take stays plain
    assert nf4["memory"]["weight_mib"] == pytest.approx(8.31, abs=0.02)
    assert ["quantizes only 1" in note for note in nf4["notes"]] == [True]


@pytest.mark.thorough
def test_a_mixture_is_recommended_with_its_experts_quantized(data: Any, tmp_path: Path) -> None:
    from kinds_of_models import save

    from tools.families import _tokenizer

    folder = save(tmp_path / "mixture", "qwen3_moe")
    _tokenizer().save_pretrained(folder)
    code, advice = data("model=auto", f"model.name={folder}", "--quick")
    assert code == 0
    weights = [it["memory"]["weight_mib"] for it in advice["recommended"]]
    of_weights = dict(zip([it["quantization"] for it in settings(advice)], weights, strict=True))
    assert of_weights == {
        "none": pytest.approx(6.64, abs=0.01),
        "int8": pytest.approx(3.56, abs=0.01),
        "nf4": pytest.approx(2.13, abs=0.01),
    }


def test_it_imports_nothing_heavy(tmp_path: Path) -> None:
    arguments = "sys.argv = ['runner-advise', 'model=qwen25_7b_instruct', '--machine', 'laptop_8gb']"
    assert heavy_imports(f"{arguments}; from runner.options.advise import entry; entry()", tmp_path) == []
