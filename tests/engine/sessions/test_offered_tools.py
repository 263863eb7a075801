"""Functions in a chat: templates get them as transformers gives them, and answers keep the tokens
of calls."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tiny_gguf
from raising import raises
from tokenizers import AddedToken
from transformers import LlamaForCausalLM

from runner_base.errors import ConfigError
from runner_base.result import FinishReason
from runner_engine.checkpoints.chat_templates import read_chat_templates
from runner_engine.decode.request_encoder import RequestEncoder
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.models import gguf_tokenizer
from runner_engine.sessions import Capability, Message, OfferedTools, Request
from runner_engine.sessions.chat_template import ChatTemplate
from runner_engine.settings.model import LocalModelConfig
from runner_engine.spec import ModelSpec

SCHEMA = {
    "name": "f",
    "description": "Does <f>, 'ä'.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
WITH_TOOLS = (
    "{%- if tools %}<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}</tools>\n"
    "{{ tools[0].function.parameters.properties | length }}{%- endif %}" + PLAIN
)
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Do it."}]
PROMPT = (OfferedTools.from_schemas([SCHEMA]), *(Message(turn["role"], turn["content"]) for turn in TURNS))


@pytest.fixture
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return deepcopy(AutoTokenizer.from_pretrained(tiny_llama))


def encoder_of(tokenizer: Any) -> RequestEncoder:
    return RequestEncoder(ModelSpec(LocalModelConfig(name="it")), tokenizer, "it", 1e9)


def test_a_template_gets_functions_as_transformers_gives_them(tokenizer: Any) -> None:
    tokenizer.chat_template = WITH_TOOLS
    tools = [{"type": "function", "function": SCHEMA}]
    theirs = tokenizer.apply_chat_template(TURNS, tools=tools, tokenize=False, add_generation_prompt=True)
    text, ids = encoder_of(tokenizer).encode_prompt(Request(0, PROMPT))
    assert text == theirs
    assert "Does <f>, 'ä'." in text
    assert ids == tokenizer(theirs, add_special_tokens=False)["input_ids"]
    other = (OfferedTools.from_schemas([SCHEMA | {"name": "g"}]), *PROMPT[1:])
    assert encoder_of(tokenizer).encode_prompt(Request(0, other))[0] != theirs, (
        "the control: another function is another prompt"
    )


def test_of_several_templates_the_one_for_functions_is_taken(tokenizer: Any) -> None:
    tokenizer.chat_template = {"default": PLAIN, "tool_use": WITH_TOOLS}
    assert "<tools>" in encoder_of(tokenizer).encode_prompt(Request(0, PROMPT))[0]
    assert "<tools>" not in encoder_of(tokenizer).encode_prompt(Request(0, PROMPT[1:]))[0]


def test_a_template_that_leaves_functions_out_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = PLAIN
    with raises(ConfigError, "unsupported"):
        encoder_of(tokenizer).encode_prompt(Request(0, PROMPT))
    assert ChatTemplate(tokenizer, "it", {}).render(TURNS) == "system: Be brief.\nuser: Do it.\n"


def test_an_answer_to_a_chat_with_functions_keeps_special_tokens_and_no_other_does(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("[TOOL_CALLS]", special=True)]})
    call, end = tokenizer.convert_tokens_to_ids("[TOOL_CALLS]"), tokenizer.eos_token_id
    words = tokenizer("f", add_special_tokens=False)["input_ids"]
    stopping = Stopping(tokenizer, frozenset({end}))

    def text(prompt: Any) -> str:
        row = TokenSequence(Request(0, prompt), [1], "", 10, tokens=[call, *words, end])
        return stopping.build_answer(row, FinishReason.stop).text

    assert text(PROMPT).replace(" ", "") == "[TOOL_CALLS]f"
    assert text(PROMPT[1:]).strip() == text("plain").strip() == "f"


def test_what_a_prompt_with_functions_needs() -> None:
    assert Request(0, PROMPT).required_capabilities == {Capability.chat, Capability.tools}
    assert Request(0, PROMPT[1:]).required_capabilities == {Capability.chat}
    assert OfferedTools.from_schemas([SCHEMA]).tools == [{"type": "function", "function": SCHEMA}]


@pytest.mark.parametrize("named", [False, True])
def test_templates_are_read_from_the_files_without_a_tokenizer(tmp_path: Path, named: bool) -> None:
    assert read_chat_templates(tmp_path) is None
    template: Any = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": WITH_TOOLS}]
    settings = {"chat_template": template if named else WITH_TOOLS}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "<tools>" in str(read_chat_templates(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text(PLAIN)
    assert read_chat_templates(tmp_path) == PLAIN


def test_templates_of_a_gguf_file_are_read_from_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": WITH_TOOLS}]
    monkeypatch.setattr(tiny_gguf, "TEMPLATE", both)
    model = LlamaForCausalLM.from_pretrained(tiny_gguf.save_original(tmp_path / "original"))
    path = tiny_gguf.write(tmp_path / "model.gguf", model, "F32")
    assert read_chat_templates(path) is not None
    assert "<tools>" in str(read_chat_templates(path))
    made = gguf_tokenizer.build_tokenizer(path, padding_side="left")
    assert "<tools>" in encoder_of(made).encode_prompt(Request(0, PROMPT))[0]
