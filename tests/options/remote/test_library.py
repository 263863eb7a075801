"""A model on a server, from Python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_standin import Api

from runner import Model, load


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """The embedded model, whose answers end by themselves."""
    with load(device="cpu", dtype="float32") as loaded:
        yield loaded


def test_a_remote_model_is_shown_with_its_server() -> None:
    with Api() as api:
        address = f"http://127.0.0.1:{api.port}/v1"
        with load("api", name="tiny", base_url=address) as model:
            assert repr(model) == f"<model tiny at {address}>"
