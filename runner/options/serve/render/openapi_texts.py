"""Texts that describe paths and body parameters in /openapi.json."""

from __future__ import annotations

from runner_engine.settings.sampling import PARAMETERS

LEFT_OUT = "default: the server's generation config"
MODEL, MESSAGES = ("model name as listed in /v1/models; default: the served model", "the conversation so far")
NEW_TOKENS = f"maximum of new tokens; {LEFT_OUT}"
SUMMARIES = {
    "/v1/chat/completions": "Create a chat completion (OpenAI-compatible)",
    "/v1/completions": "Create or score a completion of a text or of token ids (OpenAI-compatible)",
    "/generate": "Complete a text",
    "/tokenize": "Tokenize a text or a conversation (vLLM-compatible)",
    "/v1/models": "List the served model and its adapters",
    "/health": "200 while the server accepts requests, 503 during shutdown",
    "/metrics": "Counters and times in the Prometheus text format",
    "/docs": "This page",
    "/openapi.json": "This page for machines",
    "/": "A page to chat on",
}
ANSWER = "the answer; with stream=true, server-sent events"
ANSWERS = {"/tokenize": "the tokens and their text"}
STATUSES = {
    400: "the request is invalid: the error names the parameter and the reason",
    401: "the API key is missing or wrong",
    404: "this server has another model",
    413: "the request body exceeds {task.max_body_kib} KiB (task.max_body_kib)",
    429: "{task.max_open} completions are running or waiting (task.max_open): try again after Retry-After",
    503: "the server is being stopped",
    504: "the request exceeded the time limit of {task.timeout_s:g} s (task.timeout_s)",
}
NO_EFFECT, NOT_READ = "this parameter has no effect, and only its neutral value is accepted", "not read"
_SAMPLING = {
    **{name: f"{one.help}; {LEFT_OUT}" for name, one in PARAMETERS.items()},
    "seed": "equal requests with equal seeds get equal answers",
    "stop": "the answer ends before the first of these strings",
    "ignore_eos": "ignore the end-of-sequence token and generate until the token limit",
}
_OPENAI = _SAMPLING | {
    "model": MODEL,
    "n": "completions of each prompt",
    "stream": "stream the text as server-sent events while it is generated",
    "stream_options": "include_usage: the last event of the stream has the token counts",
    "stream_interval": "number of tokens in each event of a stream, except the first and last",
    "max_tokens": NEW_TOKENS,
    "thinking_token_budget": (
        f"maximum number of thinking tokens. max_tokens then limits only the answer; {LEFT_OUT}"
    ),
    "logprobs": "log-probabilities of the tokens",
}
MEANINGS: dict[str, dict[str, str]] = {  # by schema and parameter
    "ChatBody": _OPENAI
    | {
        "messages": MESSAGES,
        "max_completion_tokens": NEW_TOKENS,
        "top_logprobs": "number of alternatives per token; needs logprobs=true",
        "tools": "functions that the model may call",
        "tool_choice": (
            "auto: the model may call tools; none: it must not; required: at least one call; a function "
            "object: a call of this function"
        ),
        "response_format": "json_object: a JSON object; json_schema: JSON that matches this schema",
        "parallel_tool_calls": "false: one call at most",
    },
    "TextBody": _OPENAI
    | {
        "prompt": "a text, token ids, or a list of either",
        "echo": ("include the prompt in the answer. With max_tokens=0 only the prompt is scored"),
    },
    "GenerateBody": _SAMPLING | {"prompt": "a text", "max_new_tokens": NEW_TOKENS},
    "TokenizeBody": {
        "model": MODEL,
        "prompt": "a text",
        "messages": MESSAGES,
        "add_special_tokens": (
            "false: omit the special tokens that the tokenizer adds before a prompt; chat "
            "templates are unaffected"
        ),
    },
    "ChatMessage": {
        "reasoning_content": "the assistant's earlier thinking; the chat template decides how to use it",
        "reasoning": "another name of reasoning_content",
        "tool_calls": "what the assistant called",
        "tool_call_id": "id of the tool call that produced this message (role tool)",
        "name": "name of the called function (role tool)",
    },
    "Function": {
        "parameters": "a JSON schema; default: no parameters",
        "strict": "true: enforce the schema of the arguments",
    },
    "JsonSchema": {"schema": "a JSON schema"},
}
OTHER_PROPERTIES = {"ChatMessage": "not used: must be empty"}
