"""inspect_ai's own reading and scoring in a process of its own: messages as its providers read
them, scored by `match`.

It reads a request as JSON from stdin and writes the scores to the file that the request names. See
thinking_verdicts.py.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from inspect_ai.model import ChatCompletionChoice, ModelOutput
from inspect_ai.model._openai import chat_message_assistant_from_openai
from inspect_ai.scorer import CORRECT, Target, match
from inspect_ai.solver import TaskState
from openai.types.chat import ChatCompletionMessage


async def score(one: dict[str, Any]) -> bool:
    """Return whether a text, with the thinking that a server has sent apart, is right."""
    apart = {"reasoning_content": one["thinking"]} if one["thinking"] else {}
    sent = ChatCompletionMessage(role="assistant", content=one["text"], **apart)
    message = chat_message_assistant_from_openai("model", sent, [])
    output = ModelOutput(model="model", choices=[ChatCompletionChoice(message=message)])
    state = TaskState("model", 1, 1, "?", [], output=output)
    found = await match(numeric=not one["gold"].isalpha())(state, Target(one["gold"]))
    return found is not None and found.value == CORRECT


def main() -> None:
    request = json.load(sys.stdin)
    scores = [asyncio.run(score(one)) for one in request["texts"]]
    Path(request["answer"]).write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
