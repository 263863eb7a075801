"""Writes what llama.cpp takes for the next token after some texts, as the data of tests/real.

`python bench/llamacpp_next_tokens.py FILE.gguf tests/real/llama_cpp.json`, in an environment with
`xllamacpp`, which brings llama.cpp. No runner, no torch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from heading import announce

TEXTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time, there was a little",
    "def add(a, b):\n    return a +",
    "1, 2, 3, 4, 5,",
    "La capitale de l'Italie est",
    "Die Hauptstadt von Deutschland ist",
    "東京は日本の",
    "Москва — столица",
    "The opposite of hot is",
    "She opened the door and saw a large",
    "In 1969, the first man walked on the",
    "E = mc",
    '{"name": "Ada", "age": 36, "city": "',
    "Roses are red, violets are",
    "The quick brown fox jumps over the lazy",
    "To be, or not to be, that is the",
    "SELECT name FROM users WHERE",
    "¿Cómo te",
    "🙂 is a smiling",
)
MOST = 10  # likeliest tokens


def main() -> None:
    """Ask for one token after each text."""
    announce()
    if len(sys.argv) < 2:
        raise SystemExit("usage: python bench/llamacpp_next_tokens.py FILE.gguf")
    try:
        import xllamacpp  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        raise SystemExit("xllamacpp is not installed here: use the Python of .llama_cpp") from None

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = sys.argv[1], 512, 1
    server = xllamacpp.Server(parameters)
    lines = []
    for text in TEXTS:
        asked = {"prompt": text, "n_predict": 1, "n_probs": MOST, "temperature": 0}
        answer = server.handle_completions(asked)
        if answer["choices"][0]["logprobs"] is None:  # it ended the text
            continue
        (first,) = answer["choices"][0]["logprobs"]["content"]
        likeliest = {it["id"]: round(it["logprob"], 4) for it in first["top_logprobs"]}
        lines.append({"text": text, "tokens": answer["usage"]["prompt_tokens"], "likeliest": likeliest})
    Path(sys.argv[2]).write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n")


if __name__ == "__main__":
    main()
