"""llama.cpp answers one chat message and ends, in an environment with xllamacpp: what a whole
process of it takes.

`python xllamacpp_chat_side.py FILE TOKENS THREADS MESSAGE`
"""

from __future__ import annotations

import sys


def main() -> None:
    """Load the file and answer."""
    import xllamacpp  # type: ignore[import-not-found]

    file, tokens, threads, message = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = file, 2048, 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    asked = {"messages": [{"role": "user", "content": message}], "max_tokens": tokens, "temperature": 0}
    xllamacpp.Server(settings).handle_chat_completions(asked)


if __name__ == "__main__":
    main()
