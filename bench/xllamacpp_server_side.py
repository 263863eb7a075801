"""llama.cpp's server in a process of its own, from a wheel that needs no build: its environment has only xllamacpp.

`python xllamacpp_server_side.py FILE THREADS SLOTS` prints its address, and ends with its stdin.
"""

from __future__ import annotations

import os
import sys

POSITIONS = 1024  # of a slot


def main() -> None:
    """Load the file and serve."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library writes there, too
    import xllamacpp  # type: ignore[import-not-found]

    file, threads, slots = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_parallel, settings.n_ctx = slots, POSITIONS * slots
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(settings)
    print(server.listening_address, file=answers, flush=True)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()
