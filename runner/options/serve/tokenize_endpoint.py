"""Endpoint POST /tokenize, which returns the tokens of a text or a chat in vLLM's format."""

from __future__ import annotations

import json
from typing import Any

from runner.options.serve.bodies import TokenizeBody
from runner.options.serve.chat_messages import convert_chat_to_engine_messages
from runner.options.serve.gateway import Gateway
from runner.options.serve.refusals import Refusal
from runner.options.serve.request_parsing import parse_json_body, reject_unsupported_parameters, validate_body
from runner_engine import Capability, Request

# vLLM's parameters that this server lacks, and the values at which they have no effect.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "return_token_strs": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "tools": ([],),
    "mm_processor_kwargs": ({},),
}


def tokenize_request(data: bytes, content_type: str, gateway: Gateway) -> bytes:
    """Tokenize a prompt or chat and return the tokens as JSON. Run in a thread: long texts take time."""
    value = parse_json_body(data, content_type)
    gateway.limits.check_messages(value.get("messages"))
    body = validate_body(TokenizeBody, value)
    reject_unsupported_parameters(body, NEUTRAL)
    gateway.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise Refusal(400, "give either prompt or messages", "prompt")
    if Capability.tokenizer not in gateway.capabilities:
        raise Refusal(400, f"this model does not support {Capability.tokenizer.value}", "prompt")
    text = body.prompt
    turns = gateway.tools.build_messages_with_tools(
        convert_chat_to_engine_messages(body.messages or ()), None
    )
    prompt = turns if text is None else text
    rendered, ids = gateway.engine.encode(Request(gateway.next_request_id(), prompt))
    if text is not None and not body.add_special_tokens:
        special = gateway.engine.encode(Request(gateway.next_request_id(), ""))[1]
        if ids[: len(special)] != special:
            raise Refusal(
                400,
                (
                    "add_special_tokens=false: not supported for this tokenizer, which appends special "
                    "tokens to a text"
                ),
                "prompt",
            )
        ids = ids[len(special) :]
    return json.dumps(
        {"tokens": ids, "count": len(ids), "prompt": rendered} | gateway.limits.max_model_len_entry
    ).encode()
