"""The addresses of a model's servers: one, or the list of a pool."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from runner_base.errors import ConfigError, check, check_base_url


def addresses_of(key: str, value: object) -> list[str]:
    """Return the addresses in a key, each once and sorted: their order changes nothing. Empty if there is none."""
    values: list[Any] = value if isinstance(value, list) else [value]
    for one in values:
        if not isinstance(one, str) or (len(values) > 1 and not one.strip()):
            raise ConfigError(f"{key}={value}: give an address, or a list of them: [http://A/v1,http://B/v1]")
        check(",http" not in one, key, one, "several servers are a list: [http://A/v1,http://B/v1]")
    return sorted({one.rstrip("/") for one in values if one.strip()})


def check_addresses(key: str, addresses: list[str]) -> str | list[str]:
    """Refuse invalid addresses; return the only one, or the list."""
    for one in addresses:
        check_base_url(key, one)
    return addresses[0] if len(addresses) == 1 else addresses


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_this_machine(address: str) -> bool:
    """Whether a server is on this machine."""
    return is_loopback(urlsplit(address).hostname or "")


def is_in_domain(address: str, domain: str) -> bool:
    """Whether a server is in a domain."""
    host = urlsplit(address).hostname or ""
    return host == domain or host.endswith(f".{domain}")
