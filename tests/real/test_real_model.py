"""A real model: SmolLM2-135M-Instruct, trained, with 49,152 tokens and a chat template of its own.

`make real-model` fetches it; without it these tests are skipped, and say so.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opening import make_spec, open_engine

from runner import load
from runner_base.dtypes import Dtype
from runner_engine.models.load_tokenizer import load_tokenizer
from runner_engine.quantization import CHOICES
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config
from runner_engine.quantization.torchao import Int8DynamicConfig
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Request
from runner_engine.settings.model import LocalModelConfig
from runner_engine.spec import ModelSpec
from tools import real_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.smoke(3),
    pytest.mark.skipif(not real_model.is_there(), reason=f"the real model is not here: {real_model.HOW}"),
]
# by bench/llamacpp_next_tokens.py
LLAMA_CPP = json.loads((Path(__file__).parent / "llama_cpp.json").read_text())
# How many readings of its file a load may cost in processor time: seen are 5 of the folder and 15
# to 35 of the .gguf
MOST_READINGS = 150
LIKELY = 0.05  # tokens that llama.cpp takes for at least so probable are compared; it rounds activations to eight bits
PROMPTS = [
    "The capital of France is",
    "Water boils at",
    "def fibonacci(n):",
    "Il était une fois",
    "東京は",
    "In the beginning there was nothing, and then, quite suddenly, there was",
    "1 + 1 =",
    "Dear Sir or Madam,",
]
# Nats a token by which each format differs from plain weights on the first texts of the study: half
# of what was seen with AVX-512, and twice of what was seen with AVX2 alone, where the libraries'
# sums of bytes are less exact
KL_BANDS = {"int8": (0.014, 0.12), "int8_dynamic": (0.024, 0.17), "nf4": (0.15, 0.62), "fp4": (0.25, 1.0)}
STUDY = Path(__file__).parents[2] / "experiments"


LOAD_COSTS = """
import json, sys, time
from pathlib import Path
from runner import load

def spent(work):
    began = time.process_time()
    work()
    return time.process_time() - began

path = Path(sys.argv[1])
files = [path] if path.is_file() else [*path.glob("*.safetensors")]
read = lambda: load(str(path), quantization=sys.argv[2]).close()
read()  # imports, and what is kept of a first load
print(json.dumps([min(spent(one) for _ in range(3)) for one in (
    read, lambda: [file.read_bytes() for file in files])]))
"""


def complete(spec: ModelSpec, requests: list[Request]) -> dict[Any, Completion]:
    """Complete requests with a fresh engine."""
    return {done.id: done for done in contract.complete_requests(open_engine(spec), requests)}


def local(name: Path, **keys: Any) -> LocalModelConfig:
    return LocalModelConfig(str(name), device="cpu", **keys)


def test_greedy_tokens_are_those_of_transformers() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = make_spec(model=local(real_model.plain_folder(), dtype=Dtype.float32))
    done = complete(spec, [Request(prompt, prompt, max_new_tokens=24) for prompt in PROMPTS])
    model: Any = AutoModelForCausalLM.from_pretrained(real_model.plain_folder(), dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(real_model.plain_folder())
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        plain = model.generate(**inputs, max_new_tokens=24, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
        assert list(done[prompt].answer.token_ids) == plain.tolist(), prompt


@pytest.mark.parametrize("has_byte_rows", [False, True])
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_a_gguf_files_pass_is_a_single_call(has_byte_rows: bool, dtype: Dtype) -> None:
    """Of 49,152 logits the farthest is off by more than a tiny model's, when a number is rounded to
    the next byte."""
    quantization = CHOICES["gguf"](int8_activations=has_byte_rows)  # type: ignore[call-arg]
    engine = open_engine(
        make_spec(model=local(real_model.gguf_file(), dtype=dtype), quantization=quantization)
    )
    assert [
        done.error for done in contract.complete_requests(engine, [Request(0, PROMPTS[0], max_new_tokens=2)])
    ] == [None]
    assert engine.fused is not None


def test_texts_have_the_tokens_of_llama_cpp() -> None:
    """Of llama.cpp's server, by /tokenize, on texts in many scripts: numbers among them."""
    tokenizer = load_tokenizer("model.name", real_model.gguf_file())
    for one in json.loads((Path(__file__).parent / "llama_cpp_tokens.json").read_text()):
        assert tokenizer(one["text"], add_special_tokens=False)["input_ids"] == one["tokens"], one["text"]


def test_next_tokens_are_as_probable_as_for_llama_cpp() -> None:
    requests = [Request(one["text"], one["text"], continuation="!", top_logprobs=200) for one in LLAMA_CPP]
    done = complete(make_spec(model=local(real_model.gguf_file())), requests)
    gaps = []
    for one in LLAMA_CPP:
        assert done[one["text"]].prompt_tokens == one["tokens"], one["text"]
        top = done[one["text"]].top_logprobs
        assert top is not None
        ours = dict(top[0])
        theirs = {
            int(token): math.exp(nats) for token, nats in one["likeliest"].items() if math.exp(nats) > LIKELY
        }
        gaps += [abs(math.exp(ours[token]) - chance) for token, chance in theirs.items()]
    assert len(gaps) > 40
    assert max(gaps) < 0.15, "on texts in languages that the model hardly knows"
    assert sum(gaps) / len(gaps) < 0.02


def test_it_knows_its_chat_template() -> None:
    with load(str(real_model.plain_folder())) as model:
        answer = model.generate("What is the capital of France? Answer in one sentence.", max_new_tokens=24)
    assert "Paris" in answer
    assert answer.finish_reason == "stop"


@pytest.mark.thorough
def test_each_format_is_as_far_from_plain_weights_as_it_should_be(tmp_path: Path) -> None:
    formats = ["none", *KL_BANDS]
    study = [
        "-cd",
        str(STUDY),
        "-cn",
        "real_quantization",
        f"task.data={STUDY / 'real_texts.jsonl'}",
        "task.limit=12",
    ]
    words = [
        f"model.name={real_model.plain_folder()}",
        f"quantization={','.join(formats)}",
        "print=json",
        "tracking=none",
    ]
    command = [sys.executable, "-m", "runner", *study, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    jobs = [json.loads(line)["metrics"] for line in done.stdout.splitlines()]
    found = dict(zip(formats, jobs, strict=True))
    for name, (low, high) in KL_BANDS.items():
        assert low < found[name]["kl_nats_per_token"] < high, name


@pytest.mark.parametrize("quantization", [Int8DynamicConfig(), Int8Config()], ids=lambda one: one.name)
def test_rows_in_eight_bits_are_decoded_in_a_stream(quantization: QuantizationConfig) -> None:
    """Its rounded rows differ between its own passes by up to a third of the logits' spread; its
    attention does not."""
    engine = open_engine(make_spec(model=local(real_model.plain_folder()), quantization=quantization))
    assert engine.load().facts["decoding"] == "continuous batching"
    [done] = contract.complete_requests(engine, [Request(0, PROMPTS[0], max_new_tokens=8)])
    assert " Paris" in done.answer.text
    assert not [note for note in engine.stats.notes if note.code.startswith("slow_")]
    engine.close()


@pytest.mark.parametrize("quantization", ["none", "gguf"])
def test_a_load_costs_no_more_than_some_readings_of_the_file(quantization: str) -> None:
    """Processor time, which other work on the machine changes little: a load that parsed the header
    in Python took 24 s."""
    path = real_model.gguf_file() if quantization == "gguf" else real_model.plain_folder()
    command = [sys.executable, "-c", LOAD_COSTS, str(path), quantization]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    load_s, reading_s = json.loads(done.stdout.splitlines()[-1])
    assert load_s < MOST_READINGS * reading_s
