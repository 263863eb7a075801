"""The line that says where a server listens."""

from __future__ import annotations

from collections.abc import Sequence


def greeting(name: str, adapters: Sequence[str], host: str, port: int, key_variable: str | None) -> str:
    """Return the line; key_variable: the environment variable with the key that clients have to send."""
    address = f"[{host}]" if ":" in host else host
    with_key = f", with the key in {key_variable}" if key_variable else ""
    with_adapters = f" with {', '.join(adapters)}" if adapters else ""
    return f"serving {name}{with_adapters} at http://{address}:{port}{with_key} (Ctrl-C ends it)"
