"""The message with a server's address."""

from __future__ import annotations

from collections.abc import Sequence


def format_start_message(
    name: str, adapters: Sequence[str], host: str, port: int, key_variable: str | None
) -> str:
    """Return the message with a server's address. key_variable is the environment variable with
    the clients' API key.
    """
    address = f"[{host}]" if ":" in host else host
    with_key = f"; clients need the key in {key_variable}" if key_variable else ""
    with_adapters = f" with {', '.join(adapters)}" if adapters else ""
    return f"serving {name}{with_adapters} at http://{address}:{port}{with_key} (Ctrl-C stops the server)"
