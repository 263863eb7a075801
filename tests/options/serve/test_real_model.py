"""A real model on a server: tests/real tells which, and how to fetch it."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import CHROMIUM, browser
from serving import serving

from tools import real_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not real_model.is_there(), reason=f"the real model is not here: {real_model.HOW}"),
]


@pytest.mark.thorough
def test_it_is_served(tmp_path: Path) -> None:
    model = ["model=local", f"model.name={real_model.plain_folder()}"]
    asked = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "max_tokens": 16, "temperature": 0}
    with serving(tmp_path, *model) as server:
        status, answer = server.ask("/v1/chat/completions", asked)
    assert status == 200, answer
    assert "4" in answer["choices"][0]["message"]["content"]


@pytest.mark.thorough
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium to look at the page: apt-get install chromium")
def test_it_answers_in_the_page_of_a_browser(tmp_path: Path) -> None:
    with (
        serving(tmp_path, "model=local", f"model.name={real_model.plain_folder()}") as server,
        browser(tmp_path) as page,
    ):
        page.go(server.url + "/")
        page.do("document.querySelector('#text').focus()")
        page.type("What is the capital of France?")
        page.press_enter()
        ended = (
            "document.querySelector('#stop').disabled && document.querySelectorAll('.assistant').length === 1"
        )
        page.until(ended, within_s=300)
        assert "Paris" in page.do("document.querySelector('.assistant').textContent")
        assert page.do("document.querySelector('#speed').textContent").endswith(" tok/s")
        assert page.complaints() == []
