from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
from raising import raises
from scripted import Reply, Scripted
from tasking import work

from runner.config.compose import build_group_configs
from runner.config.prompts import Framing
from runner.config.root import PrintMode, RunnerConfig, iterate_job_id_keys
from runner.datasets.prompts import convert_prompt_to_task_format, load_user_prompts
from runner.grid.plan import PlanState, plan_job
from runner.records import jobs
from runner.report import print_record
from runner.run import run
from runner.tasks.generate import task as generate
from runner.tasks.generate.keys import GenerateConfig
from runner_base.errors import Code, ConfigError, DataError, JobFailed, RunRecordError
from runner_base.fields import NotInIdentity, get_identity_rule
from runner_base.result import FinishReason, Record
from runner_engine.sessions.base import Message, Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.lora import PeftConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.speculation import SpeculationConfig

Make = Callable[..., RunnerConfig]


def write_prompts(path: Path, texts: Sequence[str]) -> str:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(path)


def completions(record: Record) -> list[dict[str, object]]:
    lines = (Path(record.output_dir) / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# ---------------------------------------------------------------------------------------- config,
# prompts


@pytest.mark.parametrize(
    ("keys", "code", "key"),
    [
        ({}, "missing", ""),
        ({"prompt": "a", "prompts": "b.txt"}, "conflict", ""),
        ({"prompt": ""}, "bad_value", "task.prompt"),
        ({"prompts": " "}, "bad_value", "task.prompts"),
        ({"prompt": "a", "stop": ["x", ""]}, "bad_value", "task.stop"),
        ({"prompt": "a", "show": -1}, "bad_value", "task.show"),
        ({"prompt": "a", "output": ""}, "bad_value", "task.output"),
        ({"prompt": "a", "format": Framing.raw, "system": "s"}, "conflict", ""),
    ],
)
def test_bad_keys(keys: dict[str, object], code: Code, key: str) -> None:
    with raises(ConfigError, code, key):
        GenerateConfig(**keys)  # type: ignore[arg-type]


def test_only_what_can_change_an_answer_counts() -> None:
    task = GenerateConfig(prompt="x")
    inert = {item.name for item in fields(task) if isinstance(get_identity_rule(item), NotInIdentity)}
    assert inert == {"prompt", "prompts", "branches", "show", "output", "overwrite", "debug"}
    assert set(dict(iterate_job_id_keys(task))) == {"format", "system", "stop"}


def test_text_file(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufefffirst\r\n\n  \n second, with spaces \nlast\u2028one".encode())
    assert load_user_prompts(GenerateConfig(prompts=str(file))) == [
        "first",
        " second, with spaces ",
        "last\u2028one",
    ]


def test_jsonl_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    file = write_prompts(
        tmp_path / "p.jsonl", [json.dumps({"prompt": "a", "id": 7}), "", json.dumps({"messages": turns})]
    )
    for _ in range(2):
        assert load_user_prompts(GenerateConfig(prompts=file)) == [
            "a",
            (Message("system", "s"), Message("user", "u")),
        ]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "note: unknown keys of prompt lines are ignored: id (known keys: prompt, messages, branches)"
    ]


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a"',
        '{"promt": "a"}',
        "[1]",
        '{"prompt": "a", "branch": ["b"]}',
        '{"prompt": "a", "messages": []}',
        '{"prompt": 3}',
        '{"prompt": ""}',
        '{"prompt": "\\ud800"}',
        '{"messages": []}',
        '{"messages": ["a"]}',
        '{"messages": [{"role": "user", "content": "a", "name": "b"}]}',
        '{"messages": [{"role": "robot", "content": "a"}]}',
        '{"messages": [{"role": "user", "content": null}]}',
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str) -> None:
    file = write_prompts(tmp_path / "bad.jsonl", ['{"prompt": "fine"}', "", line])
    with raises(DataError, "damaged", f"{file}, line 3"):
        load_user_prompts(GenerateConfig(prompts=file))


def test_other_bad_input(tmp_path: Path) -> None:
    def refused(code: Code, key: str, **keys: object) -> None:
        with raises(ConfigError, code, key):
            load_user_prompts(GenerateConfig(**keys))  # type: ignore[arg-type]

    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"fine\ncaf\xe9\n")
    chats = write_prompts(tmp_path / "chats.jsonl", ['{"messages": [{"role": "user", "content": "a"}]}'])
    refused("not_found", "task.prompts", prompts="./nope.txt")
    refused("bad_value", "task.prompts", prompts="p.csv")
    refused("empty", "task.prompts", prompts=write_prompts(tmp_path / "empty.txt", ["", "  "]))
    refused("unreadable", "task.prompts", prompts=str(tmp_path / "folder.txt"))
    refused("damaged", f"{tmp_path / 'latin.txt'}, line 2", prompts=str(tmp_path / "latin.txt"))
    refused("damaged", f"{chats}, line 1", prompts=chats, format=Framing.raw)
    refused("bad_value", "task.prompt", prompt="a\udcff")


def test_build_prompt() -> None:
    chat = (Message("system", "own"), Message("user", "u"))
    task = GenerateConfig(prompt="x", system="s")
    assert convert_prompt_to_task_format(task, "a") == (Message("system", "s"), Message("user", "a"))
    assert convert_prompt_to_task_format(task, chat) == chat
    assert convert_prompt_to_task_format(task, chat[1:]) == (Message("system", "s"), Message("user", "u"))
    assert convert_prompt_to_task_format(GenerateConfig(prompt="x", format=Framing.raw), "a") == "a"


def test_the_same_prompts_are_the_same_job_wherever_they_lie(make_config: Make, tmp_path: Path) -> None:
    text = write_prompts(tmp_path / "a.txt", ["one"])
    other = write_prompts(tmp_path / "b.jsonl", ['{"prompt": "one"}'])
    evidence = [
        generate.prepare(make_config(task=task)).hashes
        for task in (
            GenerateConfig(prompt="one"),
            GenerateConfig(prompts=text),
            GenerateConfig(prompts=other, show=3, output=str(tmp_path / "new.jsonl"), debug=True),
        )
    ]
    assert evidence[0] == evidence[1] == evidence[2]
    assert generate.prepare(make_config(task=GenerateConfig(prompt="two"))).hashes != evidence[0]


# ------------------------------------------------------------------------------------------- whole
# jobs


def test_a_job_with_the_stub(make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write_prompts(tmp_path / "p.txt", ["[bold]one[/nope]", "two words", "three words here"])
    record = run(make_config(task=GenerateConfig(prompts=prompts, show=2)))
    metrics = record.result.metrics
    assert (metrics["n"], metrics["stopped"], metrics["cut_off"], metrics["errors"]) == (3, 3, 0, 0)
    assert metrics["prompt_tokens"] == 6
    assert {"new_tokens", "load_s", "prefill_tok_per_s", "decode_tok_per_s", "peak_rss_mib"} <= set(metrics)
    lines = completions(record)
    assert lines[1] == {
        "index": 1,
        "prompt": "two words",
        "text": "[STUB_GENERATION]\ntwo words...",
        "finish_reason": "stop",
        "prompt_tokens": 2,
        "new_tokens": 2,
    }
    assert [line["index"] for line in lines] == [0, 1, 2]
    print_record(record, {"task": "generate"}, PrintMode.table)
    out = capsys.readouterr().out
    assert "[bold]one[/nope]..." in out
    assert "two words..." in out
    assert "three words" not in out
    assert "3 in total · 3 finished · 0 cut off · 0 errors" in out


def test_a_single_prompt_is_shown_whole_and_first(
    make_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    generation = GenerationConfig(max_new_tokens=400)
    prompt = "word " * 300
    record = run(make_config(task=GenerateConfig(prompt=prompt), generation=generation))
    assert record.result.rows == []
    print_record(record, {}, PrintMode.table)
    out = capsys.readouterr().out
    assert out.startswith("[STUB_GENERATION]\n" + prompt[:120] + "...\n\n"), "not folded, not cut"
    assert "1 in total · 1 finished" in out


def test_what_is_shown_and_handed_over_may_change_after_the_job(make_config: Make, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.txt", ["one", "two", "three"])
    first = run(make_config(task=GenerateConfig(prompts=prompts, show=1)))
    assert len(first.result.rows) == 1
    output = tmp_path / "new" / "mine.jsonl"
    config = make_config(task=GenerateConfig(prompts=prompts, show=20, output=str(output)))
    planned = plan_job([], config)
    assert (planned.state, planned.unlogged) == (PlanState.done, True), "a grid has it deliver, too"
    again = run(config)
    assert again.from_ledger
    assert len(again.result.rows) == 3
    assert output.read_bytes() == (Path(again.output_dir) / "completions.jsonl").read_bytes()
    (Path(again.output_dir) / "samples.jsonl").unlink()
    assert run(make_config(task=GenerateConfig(prompts=prompts))).from_ledger
    with raises(RunRecordError, "damaged"):
        run(make_config(task=GenerateConfig(prompts=prompts, output=str(output))))


def test_output_replaces_nothing_of_others(make_config: Make, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.txt", ["one", "two"])
    output = tmp_path / "mine.jsonl"

    def job(seed: int = 0, **keys: object) -> Record:
        task = GenerateConfig(prompts=prompts, **({"output": str(output)} | keys))  # type: ignore[arg-type]
        return run(make_config(task=task, seed=seed))

    job()
    ours = output.read_text()
    job()  # again: the same content may be written over
    output.write_text("dear diary\n")
    for seed in (0, 1):  # recorded already, and new
        with raises(ConfigError, "exists", "task.output"):
            job(seed)
    assert output.read_text() == "dear diary\n"
    job(1, overwrite=True)
    assert json.loads(output.read_text().splitlines()[0])["prompt"] == "one"
    job(0, overwrite=True)
    assert output.read_text() == ours
    with raises(ConfigError, "conflict", "task.output"):
        job(2, output=prompts, overwrite=True)
    with raises(ConfigError, "bad_value", "task.output"):
        job(2, output=str(tmp_path))


def echo(request: Request) -> Reply:
    """Answer with the prompt; one that says `fail` ends in an error."""
    return (f"to {request.prompt}", FinishReason.error if request.prompt == "fail" else FinishReason.length)


def test_torn_samples_are_made_again_and_the_order_is_kept(make_config: Make, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "p.txt", ["a", "fail", "c", "d"])
    config = make_config(task=GenerateConfig(prompts=prompts, format=Framing.raw))
    folder = tmp_path / "job"
    folder.mkdir()
    first = jobs.Recorder(jobs.Job("generate-x", folder))
    whole = work(generate, config, first, Scripted(echo))
    first.close()
    kept = (folder / "completions.jsonl").read_text()
    assert [json.loads(line)["text"] for line in kept.splitlines()] == ["to a", "to fail", "to c", "to d"]
    assert json.loads(kept.splitlines()[1])["error"] == "boom"
    assert (whole.metrics["cut_off"], whole.metrics["errors"], whole.metrics["n"]) == (3, 1, 4)
    assert "1 of 4 prompts ended in an error. First error (prompt 1): boom" in str(
        whole.found_problems_message
    )
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[:2]) + lines[2][:15])
    engine = Scripted(echo)
    second = jobs.Recorder(jobs.Job("generate-x", folder))
    again = work(generate, config, second, engine)
    second.close()
    assert engine.asked == [1, 0], "3 and 2 had been answered before the crash"
    assert "2 of 4 samples come from an earlier, interrupted run of this job" in again.notes
    assert (folder / "completions.jsonl").read_text() == kept


def test_nothing_but_errors_fails_the_job(make_config: Make) -> None:
    config = make_config(task=GenerateConfig(prompt="fail", format=Framing.raw))
    folder = Path(config.output_dir)
    folder.mkdir()
    recorder = jobs.Recorder(jobs.Job("generate-x", folder))
    with raises(JobFailed, "failed", "generate"):
        work(generate, config, recorder, Scripted(echo))
    recorder.close()


# temperature, top_p, top_k, repetition_penalty, max_new_tokens: the lowest and the highest that is
# recommended
PRESETS: dict[str, tuple[tuple[float, float], ...]] = {
    "sampling": ((0.7, 0.7), (0.9, 0.9), (50, 50), (1.1, 1.1), (512, 512)),
    "factual": ((0.1, 0.3), (0.7, 0.8), (20, 30), (1.1, 1.1), (512, 512)),
    "creative": ((0.7, 0.9), (0.9, 0.95), (50, 100), (1.0, 1.0), (512, 512)),
    "code": ((0.1, 0.2), (0.8, 0.8), (30, 30), (1.1, 1.1), (512, 512)),
    "chat": ((0.6, 0.8), (0.9, 0.9), (50, 50), (1.1, 1.1), (512, 512)),
    "translation": ((0.1, 0.1), (0.8, 0.8), (20, 20), (1.0, 1.0), (512, 512)),
    "agents": ((0.2, 0.2), (0.95, 0.95), (0, 0), (1.1, 1.1), (1000, 1000)),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_lie_in_the_middle_of_what_is_recommended(name: str) -> None:
    generation = build_group_configs(["generation"], {"generation": name}, {})["generation"]
    values = (
        generation.temperature,
        generation.top_p,
        generation.top_k,
        generation.repetition_penalty,
        generation.max_new_tokens,
    )
    assert generation.name == name
    assert values == pytest.approx([(low + high) / 2 for low, high in PRESETS[name]])


# ------------------------------------------------------------------------------------------ real
# models


TEXTS = ["a", "quite a long prompt, so that sorting by length turns the order round", "middling one"]


@pytest.fixture
def of_tiny_llama(make_config: Make, tiny_model: LocalModelConfig, tmp_path: Path) -> Callable[..., Record]:
    prompts = write_prompts(tmp_path / "p.txt", TEXTS)

    def job(generation: GenerationConfig, seed: int = 0, **keys: object) -> Record:
        task = GenerateConfig(**({"prompts": prompts} | keys))  # type: ignore[arg-type]
        return run(make_config(model=tiny_model, task=task, generation=generation, seed=seed))

    return job


def sampling(batch_size: int) -> GenerationConfig:
    keys = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}
    return GenerationConfig(max_new_tokens=12, batch_size=batch_size, **keys)  # type: ignore[arg-type]


@pytest.mark.thorough
def test_the_order_of_the_prompts_is_kept_although_the_engine_sorts(
    of_tiny_llama: Callable[..., Record],
) -> None:
    record = of_tiny_llama(GenerationConfig(max_new_tokens=6, batch_size=1))
    samples = (Path(record.output_dir) / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in samples] == [1, 2, 0], "as they were produced"
    lines = completions(record)
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert [line["prompt"] for line in lines] == TEXTS


@pytest.mark.thorough
def test_a_sample_depends_on_seed_and_index_and_not_on_its_batch(
    of_tiny_llama: Callable[..., Record],
) -> None:
    alone, together = of_tiny_llama(sampling(1)), of_tiny_llama(sampling(3))
    assert alone.job_id != together.job_id
    assert completions(alone) == completions(together)
    other = completions(of_tiny_llama(sampling(3), seed=1))
    assert [line["text"] for line in other] != [line["text"] for line in completions(alone)]


@pytest.mark.thorough
def test_stop_raw_and_debug(
    of_tiny_llama: Callable[..., Record], caplog: pytest.LogCaptureFixture, tiny_llama: Path
) -> None:
    greedy = GenerationConfig(max_new_tokens=8)
    with caplog.at_level("INFO", logger="runner"):
        record = of_tiny_llama(greedy, prompts=None, prompt="hi", debug=True)
    assert (
        "prompt 0 after the chat template: '<|im_start|>user\\nhi<|im_end|>\\n<|im_start|>assistant\\n'"
        in caplog.text
    )
    assert "prompt 0, 21 token ids: [1, 87, " in caplog.text
    sample = json.loads((Path(record.output_dir) / "samples.jsonl").read_text())
    assert f"completion 0, token ids: {sample['token_ids']}" in caplog.text
    raw = of_tiny_llama(greedy, prompts=None, prompt="hi", format=Framing.raw)
    assert raw.result.metrics["prompt_tokens"] == 2
    text = str(completions(raw)[0]["text"])
    stopped = of_tiny_llama(greedy, prompts=None, prompt="hi", format=Framing.raw, stop=[text[2]])
    assert completions(stopped)[0]["text"] == text[: text.index(text[2])]
    assert stopped.result.metrics["stopped"] == 1


def test_debug_shows_a_recorded_job_too(
    of_tiny_llama: Callable[..., Record], caplog: pytest.LogCaptureFixture
) -> None:
    greedy = GenerationConfig(max_new_tokens=8)
    record = of_tiny_llama(greedy, prompts=None, prompt="hi")
    sample = json.loads((Path(record.output_dir) / "samples.jsonl").read_text())
    with caplog.at_level("INFO", logger="runner"):
        again = of_tiny_llama(greedy, prompts=None, prompt="hi", debug=True)
    assert again.from_ledger
    assert "prompt 0 after the chat template: '<|im_start|>user\\nhi<|im_end|>" in caplog.text
    assert "prompt 0, 21 token ids: [1, 87, " in caplog.text
    assert f"completion 0, token ids: {sample['token_ids']}" in caplog.text


def test_a_key_that_only_a_run_can_heed_says_so(make_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    asked = {"task": GenerateConfig(prompt="hi")}
    greedy = GenerationConfig(max_new_tokens=8)
    run(make_config(generation=greedy, **asked))
    with caplog.at_level("INFO", logger="runner"):
        assert run(make_config(generation=greedy, **asked)).from_ledger
        assert "Measure again with rerun=all" not in caplog.text
        other = replace(greedy, speculate=SpeculationConfig.off)
        assert run(make_config(generation=other, **asked)).from_ledger
    said = "generation.speculate=off changes no answer, but the recorded job was measured with auto. Measure again with rerun=all"
    assert said in caplog.text


def test_chat_without_a_template_says_what_to_do(make_config: Make, tiny_llama: Path, tmp_path: Path) -> None:
    import shutil

    from runner_base.dtypes import Dtype

    plain = tmp_path / "plain"
    shutil.copytree(tiny_llama, plain)
    (plain / "chat_template.jinja").unlink()
    model = LocalModelConfig(name=str(plain), device="cpu", dtype=Dtype.float32)
    with pytest.raises(ConfigError, match=r"has no chat template.*task.format=raw \(generate, sweep\)"):
        run(make_config(model=model, task=GenerateConfig(prompt="hi")))
    refusing = "{{ raise_exception('system is not for me') }}"
    (plain / "chat_template.jinja").write_text(refusing)
    with pytest.raises(
        ConfigError, match="the chat template of .* refuses system, user: system is not for me"
    ):
        run(make_config(model=model, task=GenerateConfig(prompt="hi", system="s")))


@pytest.mark.thorough
def test_the_embedded_model_answers_and_its_adapter_answers_more(make_config: Make) -> None:
    from runner.datasets.word_problems import Split, generate_problems

    instruction = "\n\nSolve it step by step. End with '#### ' and the number."
    (problem,) = list(generate_problems(Split("hard5"), 1))
    model = LocalModelConfig(name="embedded", device="cpu")
    task = GenerateConfig(prompt=problem.question + instruction)
    generation = GenerationConfig(max_new_tokens=200)
    adapted = run(
        make_config(model=model, task=task, generation=generation, lora=PeftConfig(path="embedded"))
    )
    plain = run(make_config(model=model, task=task, generation=generation))
    assert adapted.job_id != plain.job_id
    assert adapted.result.text is not None
    assert f"#### {problem.gold}" in adapted.result.text
    assert plain.result.text is not None
    assert "####" in plain.result.text
    assert adapted.result.metrics["lora_modules"] > 0
