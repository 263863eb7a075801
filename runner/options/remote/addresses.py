"""Parses and validates the addresses of the servers of a model: one address, or a list."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from runner_base import ConfigError, check_value
from runner_base.addresses import is_loopback
from runner_base.known_secrets import HIDDEN


def parse_addresses(key: str, config_value: object) -> list[str]:
    """Return the server addresses in a config value, sorted and without duplicates.

    The order of the servers has no effect, so it must not change the job id.
    """
    values: list[Any] = config_value if isinstance(config_value, list) else [config_value]
    for address in values:
        if not isinstance(address, str) or (len(values) > 1 and not address.strip()):
            raise ConfigError(
                "give an address or a list of addresses: [http://A/v1,http://B/v1]",
                key=key,
                value=config_value,
                code="bad_value",
            )
        check_value(
            ",http" not in address, key, address, "give several servers as a list: [http://A/v1,http://B/v1]"
        )
    return sorted({value.rstrip("/") for value in values if value.strip()})


def validate_and_simplify_server_addresses(key: str, addresses: list[str]) -> str | list[str]:
    """Validate server addresses. Returns a single address as a string. Raises ConfigError for an invalid
    address.
    """
    for address in addresses:
        validate_base_url(key, address)
    return addresses[0] if len(addresses) == 1 else addresses


def validate_base_url(key: str, url: str) -> None:
    """Raise ConfigError if a server URL is invalid or contains a password or key. URLs are stored in
    configs and logs.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        parts, is_valid = urlsplit(""), False
    server = parts.netloc.rpartition("@")[2]
    bare = f"{parts.scheme}://{server}{parts.path}" if is_valid and "@" not in parts.path else HIDDEN
    need = (
        "an address must not contain a password, a query or #, because configs and logs show it. "
        "Put the server's key into API_KEY"
    )
    check_value(not set("@?#") & set(url), key, bare, need, code="refused")
    check_value(
        is_valid,
        key,
        url,
        "not an address. Give one such as http://127.0.0.1:8000/v1 or https://api.openai.com/v1",
    )


def is_loopback_address(address: str) -> bool:
    return is_loopback(urlsplit(address).hostname or "")


def is_in_domain(address: str, domain: str) -> bool:
    host = urlsplit(address).hostname or ""
    return host == domain or host.endswith(f".{domain}")
