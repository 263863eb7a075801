"""Writes calls of functions as models' own libraries write and read them: `python bench/tool_marks.py FILE`.

Runs where the packages mistral-common (tokenizers of Mistral's models) and openai-harmony or oss-harmony (gpt-oss) are,
such as an environment of vLLM. FILE is tests/data/tool_marks.json: texts of answers, decoded from token ids with their
special tokens, and what the libraries read of them. tests/engine/tool_calls/test_real_marks.py reads the same texts.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from heading import announce

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": "São Paulo", "days": 2}),
    ("send_mail", {"to": ["ada@brandt.example"], "text": 'He said "no", \\ and {left}.'}),
]
QUESTION, THOUGHT, WORDS = "Hi.", "The user wants the weather.", "I will look it up."
PACKAGES = ("mistral_common", "openai_harmony", "oss_harmony")


def of_mistral() -> dict[str, Any]:
    """Return the answers of each of Mistral's tokenizers that knows calls."""
    package, protocol = import_module("mistral_common"), "mistral_common.protocol.instruct"
    messages, made = import_module(f"{protocol}.messages"), import_module(f"{protocol}.tool_calls")
    asked = import_module(f"{protocol}.request").ChatCompletionRequest
    tokenizers = "mistral_common.tokens.tokenizers"
    keep = import_module(f"{tokenizers}.base").SpecialTokenPolicy.KEEP
    from_file = import_module(f"{tokenizers}.mistral").MistralTokenizer.from_file
    found: dict[str, Any] = {}
    for file in sorted((Path(str(package.__file__)).parent / "data").iterdir()):
        if file.name.endswith((".v1", ".v2")):  # know none, or not their ids
            continue
        tokenizer = from_file(str(file))
        for count in range(1, len(CALLS) + 1):
            calls = [
                made.ToolCall(
                    id=f"{number:09}", function=made.FunctionCall(name=name, arguments=json.dumps(arguments))
                )
                for number, (name, arguments) in enumerate(CALLS[:count])
            ]
            turns = [
                messages.UserMessage(content=QUESTION),
                messages.AssistantMessage(tool_calls=calls),
                *(messages.ToolMessage(content="done", tool_call_id=call.id) for call in calls),
            ]
            ids = tokenizer.encode_chat_completion(asked(messages=turns)).tokens
            inner = tokenizer.instruct_tokenizer.tokenizer
            begin = ids.index(inner.get_special_token("[TOOL_CALLS]"))
            answer = ids[begin : ids.index(inner.eos_id, begin)]
            text = inner.decode(answer, special_token_policy=keep)
            # transformers decodes a sentencepiece's blanks as blanks
            text = text.replace("\u2581", " ")
            found[f"{file.name}, {count}"] = {"form": "mistral", "text": text, "calls": CALLS[:count]}
    return found


def of_gpt_oss() -> dict[str, Any]:
    """Return answers of gpt-oss with what OpenAI's own parser reads of them."""
    harmony = import_module("openai_harmony")
    encoding = harmony.load_harmony_encoding(harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
    assistant = harmony.Role.ASSISTANT

    def said(text: str, channel: str) -> Any:
        return harmony.Message.from_role_and_content(assistant, text).with_channel(channel)

    def called(number: int, channel: str = "commentary") -> Any:
        name, arguments = CALLS[number]
        message = said(json.dumps(arguments, ensure_ascii=False), channel)
        return message.with_recipient(f"functions.{name}").with_content_type("<|constrain|>json")

    answers = {
        "a call": [said(THOUGHT, "analysis"), called(0)],
        "two calls": [said(THOUGHT, "analysis"), called(0), called(1)],
        "words and a call": [said(THOUGHT, "analysis"), said(WORDS, "commentary"), called(1)],
        "a call of the thinking": [called(0, "analysis")],
        "words": [said(WORDS, "final")],
    }
    found: dict[str, Any] = {}
    start = "<|start|>assistant"
    for name, messages in answers.items():
        asked = harmony.Message.from_role_and_content(harmony.Role.USER, QUESTION)
        conversation = harmony.Conversation.from_messages([asked, *messages])
        text: str = encoding.decode(encoding.render_conversation(conversation))
        text = text[text.index(start) + len(start) :]
        read = encoding.parse_messages_from_completion_tokens(
            encoding.encode(text, allowed_special="all"), assistant
        )
        texts = [(message, "".join(part.text for part in message.content)) for message in read]
        found[f"gpt-oss, {name}"] = {
            "form": "harmony",
            "text": text,
            "calls": [
                (message.recipient.removeprefix("functions."), json.loads(content))
                for message, content in texts
                if message.recipient
            ],
        }
    return found


def main() -> None:
    """Write the file."""
    announce()
    versions = {
        package.metadata["Name"]: package.version
        for package in distributions()
        if package.metadata["Name"].replace("-", "_") in PACKAGES
    }
    if len(sys.argv) < 2:
        raise SystemExit("usage: python bench/tool_marks.py FILE")
    if missing := {"mistral_common"} - {name.replace("-", "_") for name in versions}:
        raise SystemExit(f"not installed here: {', '.join(missing)}. Use an environment that has it")
    content = {"versions": versions, "answers": of_mistral() | of_gpt_oss()}
    Path(sys.argv[1]).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
