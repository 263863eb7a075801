"""The sentences of notes that no job of the other tests has."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from runner.options.remote.incidents import Incident
from runner.options.remote.llama_cpp.render import notes as llama_cpp
from runner.options.remote.render import notes as remote
from runner.options.remote.vllm.render import notes as vllm
from runner_base.notes import Note, note
from runner_base.render.notes import Template, render_note


@pytest.mark.parametrize(
    ("table", "fact", "sentence"),
    [
        (
            remote.NOTES,
            note("unhashed", address="http://a, http://b", name="m"),
            "the remote model m cannot be hashed. Use rerun=all after the model on http://a or http://b has changed",
        ),
        (
            remote.NOTES,
            note("would_answer_alone", error="no file"),
            "the draft model cannot be loaded, so only the fallback model would answer: no file",
        ),
        (
            llama_cpp.NOTES,
            note("beyond_trained", context=4096, trained=2048),
            "model.context=4096 exceeds the context length of the model's training, 2048",
        ),
        (
            llama_cpp.NOTES,
            note("memory", weights_mib=1000.0, kv_mib=None, places="CUDA0: H200"),
            "memory: 1,000 MiB of weights and a KV cache of unknown size. "
            "llama.cpp distributes them over CUDA0: H200 and main memory",
        ),
        (
            llama_cpp.NOTES,
            note("rows_together"),
            "off: parallel requests may change the last bits of logits. Use model.parallel=1",
        ),
        (
            llama_cpp.NOTES,
            note("partly_compared", tokens=note("same_tokens", texts=289, chats=0), reason="no room"),
            "only tokenization was compared: llama.cpp and the runner tokenize 289 test texts identically, and no chat was rendered. Log-probabilities were not: no room",
        ),
        (
            vllm.NOTES,
            note("memory_of_gpus", weights_mib=8000.0, each_mib=2000.0, share_mib=90_000.0, gpus=4, here=3),
            "memory: 8,000 MiB of weights, 2,000 MiB per GPU on 4 GPUs. vLLM reserves 90,000 MiB per GPU for weights and "
            "KV cache. 1 of 4 GPUs are not on this machine",
        ),
        (
            vllm.NOTES,
            note("memory_of_unknown_gpus", weights_mib=8000.0),
            "memory: 8,000 MiB of weights. The GPU memory for vLLM is unknown, because the driver lists no GPU",
        ),
        (
            vllm.NOTES,
            note("not_compared", reason=note("quantized", stored="gptq")),
            "not compared: transformers does not reproduce the values of a quantized checkpoint (gptq)",
        ),
        (
            vllm.NOTES,
            note("not_compared", reason=note("no_memory", needed_mib=9000.0)),
            "not compared: transformers would need 9,000 MiB of main memory",
        ),
    ],
)
def test_a_note_has_a_sentence(table: Mapping[str, Template], fact: Note, sentence: str) -> None:
    assert render_note(fact, table) == sentence


def test_a_student_that_cannot_be_asked_is_an_incident() -> None:
    incident = Incident("not_asked", "too long")
    assert remote.format_incident(incident, 2) == "the request to the draft model failed (too long): 2 times"
