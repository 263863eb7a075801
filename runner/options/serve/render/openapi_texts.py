"""Descriptions of paths and body parameters in /openapi.json."""

from __future__ import annotations

from runner_engine.settings.sampling import PARAMETERS

LEFT_OUT = "left out: the server's generation group decides"
MODEL, MESSAGES = ("the name in /v1/models; left out: the model that is served", "the conversation so far")
NEW_TOKENS = f"maximum of new tokens; {LEFT_OUT}"
SUMMARIES = {
    "/v1/chat/completions": "Answer a conversation, as OpenAI does",
    "/v1/completions": "Complete or score a text or token ids, as OpenAI does",
    "/generate": "Complete a text",
    "/tokenize": "The tokens of a text or of a conversation, as vLLM returns them",
    "/v1/models": "The model that is served, and its adapters",
    "/health": "200 while the server takes requests, 503 while it stops",
    "/metrics": "Counts and times as text for Prometheus",
    "/docs": "This page",
    "/openapi.json": "This page for machines",
    "/": "A page to chat on",
}
ANSWER = "the answer; with stream=true, server-sent events"
ANSWERS = {"/tokenize": "the tokens and their text"}
STATUSES = {
    400: "the request cannot be served: the error names the parameter and the reason",
    401: "the key is missing or wrong",
    404: "this server has another model",
    413: "the body has more than {task.max_body_kib} KiB (task.max_body_kib)",
    429: "{task.max_open} completions are under way or waiting (task.max_open): try again after Retry-After",
    503: "the server is being stopped",
    504: "the answer was not complete after {task.timeout_s:g} s (task.timeout_s)",
}
NO_EFFECT, NOT_READ = "accepted only if it has no effect", "not read"
_SAMPLING = {
    **{name: f"{one.help}; {LEFT_OUT}" for name, one in PARAMETERS.items()},
    "seed": "the same request with the same seed has the same answer",
    "stop": "the answer ends before the first of these texts",
    "ignore_eos": "continue to the limit, also after the model's end token",
}
_OPENAI = _SAMPLING | {
    "model": MODEL,
    "n": "completions of each prompt",
    "stream": "return text as it is generated, as server-sent events",
    "stream_options": "include_usage: return the token counts in a last event",
    "stream_interval": "so many tokens in each event of a stream, but for the first and the last one",
    "max_tokens": NEW_TOKENS,
    "thinking_token_budget": (
        f"most tokens of thinking; the maximum of new tokens then counts the answer alone; {LEFT_OUT}"
    ),
    "logprobs": "log-probabilities of the tokens",
}
MEANINGS: dict[str, dict[str, str]] = {  # by schema and parameter
    "ChatBody": _OPENAI
    | {
        "messages": MESSAGES,
        "max_completion_tokens": NEW_TOKENS,
        "top_logprobs": "number of alternatives for each token; needs logprobs=true",
        "tools": "functions that the model may call",
        "tool_choice": (
            "auto: the model decides; none: no function is offered; required: it calls some; "
            "a function: it calls this one"
        ),
        "response_format": "json_object: an object of JSON; json_schema: JSON of this schema",
        "parallel_tool_calls": "false: one call at most",
    },
    "TextBody": _OPENAI
    | {
        "prompt": "a text, token ids, or a list of either",
        "echo": (
            "the answer begins with the prompt; with max_tokens=0 the prompt is scored, and nothing is generated"
        ),
    },
    "GenerateBody": _SAMPLING | {"prompt": "a text", "max_new_tokens": NEW_TOKENS},
    "TokenizeBody": {
        "model": MODEL,
        "prompt": "a text",
        "messages": MESSAGES,
        "add_special_tokens": (
            "false: without those that the tokenizer puts before a prompt; a chat keeps its template's"
        ),
    },
    "ChatMessage": {
        "reasoning_content": "what the assistant thought before; the chat template decides its use",
        "reasoning": "another name of reasoning_content",
        "tool_calls": "what the assistant called",
        "tool_call_id": "the call whose result this message is: role tool",
        "name": "of the called function: role tool",
    },
    "Function": {
        "parameters": "a JSON schema; left out: no parameters",
        "strict": "true: the arguments are always as the schema says",
    },
    "JsonSchema": {"schema": "a JSON schema"},
}
OTHER_PROPERTIES = {"ChatMessage": "not read: it must be empty"}
