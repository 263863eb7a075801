"""llama.cpp's server in a process of its own, from a wheel that needs no build: its environment has
only xllamacpp.

`python xllamacpp_server_side.py FILE THREADS SLOTS` prints its address, and ends with its stdin.
"""

from __future__ import annotations

import sys

from xllamacpp_side import opened


def main() -> None:
    """Load the file and serve."""
    server, answers = opened(positions=1024)
    print(server.listening_address, file=answers, flush=True)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()
