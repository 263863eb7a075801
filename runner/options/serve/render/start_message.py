"""Message that a server prints when it starts, with its address."""

from __future__ import annotations

from collections.abc import Sequence


def format_start_message(
    model_name: str,
    adapter_names: Sequence[str],
    host: str,
    port: int,
    key_variable: str | None,
    max_prompt_cache_mib: float = 0.0,
) -> str:
    address = f"[{host}]" if ":" in host else host
    with_key = f"; clients need the key in {key_variable}" if key_variable else ""
    with_adapters = f" with {', '.join(adapter_names)}" if adapter_names else ""
    cache = f"\nprompt cache: up to {max_prompt_cache_mib:,.0f} MiB" if max_prompt_cache_mib else ""
    return (
        f"serving {model_name}{with_adapters} at http://{address}:{port}{with_key} "
        f"(Ctrl-C stops the server){cache}"
    )
