"""The page at /, in a real browser without a window: it sends, streams, stops, and shows text as
text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, Page, browser
from PIL import Image
from serving import Serving, serving

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="needs Chromium to look at the page: apt-get install chromium"
)

QUESTION = "Tom has 8 pens. Tom buys 5 more. How many pens does Tom have now?\nSolve it step by step. End with '#### ' and the number."
LAST = "[...document.querySelectorAll('.turn')].at(-1)"
IDLE = "document.querySelector('#stop').disabled"
EVIL = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>&lt;b&gt; \x1b[31m"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("page"), "tracking=none") as server:
        yield server


@pytest.fixture
def page(server: Serving, tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path) as page:
        page.go(server.url + "/")
        yield page


def ask(page: Page, text: str) -> None:
    page.do("document.querySelector('#text').focus()")
    page.type(text)
    page.press_enter()


@pytest.mark.slow
def test_it_sends_streams_and_continues_the_conversation(page: Page, server: Serving, tmp_path: Path) -> None:
    page.do("""globalThis.steps = new Set();
        new MutationObserver(() => steps.add(document.querySelector('.assistant')?.textContent.length ?? 0))
          .observe(document.querySelector('#log'), {childList: true, subtree: true, characterData: true})""")
    ask(page, QUESTION)
    page.until(f"{IDLE} && document.querySelectorAll('.assistant').length === 1")
    answer = page.do(f"{LAST}.textContent")
    body = {"messages": [{"role": "user", "content": QUESTION}]}
    assert answer == server.ask("/v1/chat/completions", body)[1]["choices"][0]["message"]["content"]
    assert page.do("steps.size") > 3, "the text came in several chunks"
    assert page.do("document.querySelector('#speed').textContent").endswith(" tok/s")
    ask(page, "And with 2 more?")
    page.until(f"{IDLE} && document.querySelectorAll('.assistant').length === 2")
    turns = [("user", QUESTION), ("assistant", answer), ("user", "And with 2 more?")]
    body = {"messages": [{"role": role, "content": text} for role, text in turns]}
    assert (
        page.do(f"{LAST}.textContent")
        == server.ask("/v1/chat/completions", body)[1]["choices"][0]["message"]["content"]
    )
    page.picture(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        greys = image.convert("L").histogram()
    assert sum(greys[:110]) > 2000, "the page is not empty"
    assert page.complaints() == []
    assert {url.split("/")[2] for url in page.requested() if url.startswith("http")} == {
        server.url.split("/")[2]
    }


@pytest.mark.thorough
def test_stop_ends_the_answer_and_frees_its_row(page: Page, server: Serving) -> None:
    # The page itself stops as soon as there is text: an answer may end before a click from here
    # arrives.
    page.do(f"""document.getElementById('max_tokens').value = 900;
        const plain = fetch;  // a long answer, also after the model's end token
        globalThis.fetch = (url, how) => plain(url, {{...how, body: how.body.replace('{{', '{{"ignore_eos":true,')}})
        globalThis.wasBusy = null;
        new MutationObserver(() => {{
            const last = {LAST}, stop = document.querySelector('#stop');
            if (wasBusy !== null || last?.className !== 'turn assistant' || last.textContent.length <= 5) return;
            wasBusy = !stop.disabled;
            stop.click();
        }}).observe(document.querySelector('#log'), {{childList: true, subtree: true, characterData: true}})""")
    ask(page, "Say much.")
    page.until("globalThis.wasBusy !== null")
    assert page.do("wasBusy")
    page.until(IDLE)
    assert page.do(f"{LAST}.textContent") == "stopped"
    server.until(lambda now: now["runner_rows_alive"] == 0 and now["runner_open"] == 0)
    page.do("document.querySelector('#reset').click()")
    assert page.do("document.querySelectorAll('.turn').length") == 0


@pytest.mark.thorough
def test_texts_are_never_a_part_of_the_page(page: Page) -> None:
    """The page's own code shows a malicious answer, and the same text as the user's message."""
    title = page.do("document.title")
    page.do(f"""globalThis.fetch = async () => new Response(new Blob([
        'data: ' + JSON.stringify({{choices: [{{delta: {{content: {json.dumps(EVIL)}}}}}]}}) + '\\n\\n', 'data: [DONE]\\n\\n']))""")
    ask(page, EVIL)
    page.until(f"{IDLE} && document.querySelectorAll('.assistant').length === 1")
    assert page.do(f"{LAST}.textContent") == EVIL
    assert page.do("document.querySelectorAll('#log img, #log script, #log b').length") == 0
    assert page.do("document.title") == title


@pytest.mark.thorough
def test_errors_are_shown_and_the_settings_are_sent(page: Page) -> None:
    page.do("document.getElementById('max_tokens').value = 100000")
    ask(page, "Hi")
    page.until(IDLE)
    assert page.do(f"{LAST}.textContent").startswith("max_tokens=100000: the server's limit is 4096")
    assert "error" in page.do(f"{LAST}.className")


@pytest.mark.thorough
def test_the_policy_forbids_other_scripts_and_servers(page: Page, server: Serving) -> None:
    page.do(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: \"document.title = 'owned'\"}))"
    )
    assert page.do("document.title") != "owned"
    assert page.do("fetch('http://127.0.0.1:9/').then(() => 'sent', error => 'refused')") == "refused"
    assert any("Content Security Policy" in text for text in page.complaints())
    status, text = server.ask("/")
    assert status == 200
    assert "http" not in text.replace("http-equiv", ""), "the page has no address of another site"


@pytest.mark.thorough
@pytest.mark.parametrize(("width", "height", "least"), [(390, 844, 420), (360, 640, 240)])
def test_a_phone_shows_the_conversation_above_open_settings(
    server: Serving, tmp_path: Path, width: int, height: int, least: int
) -> None:
    with browser(tmp_path) as page:
        page.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=True
        )
        page.go(server.url + "/")
        page.do("document.querySelector('details').open = true")
        assert page.do("document.documentElement.scrollWidth") <= width, "without scrolling sideways"
        assert page.do("document.querySelector('#log').clientHeight") > least
        for name in ("text", "send", "stop", "reset"):
            box = page.do(f"document.getElementById('{name}').getBoundingClientRect().toJSON()")
            assert box["left"] >= 0
            assert box["right"] <= width
            assert box["bottom"] <= height
        page.do("document.getElementById('key').scrollIntoView()")
        assert page.do("document.getElementById('key').getBoundingClientRect().bottom") <= height, (
            "the last one"
        )


@pytest.mark.thorough
def test_the_page_asks_for_the_key_that_the_server_demands(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "server", "model=stub", "tracking=none", RUNNER_API_KEY="sk-page") as server,
        browser(tmp_path) as page,
    ):
        page.go(server.url + "/")
        ask(page, "Hi")
        page.until(IDLE)
        assert page.do(f"{LAST}.textContent").startswith("the API key is missing or wrong")
        page.do("document.getElementById('key').value = 'sk-page'")
        ask(page, "Hi")
        page.until(f"{IDLE} && document.querySelectorAll('.assistant').length === 1")
        assert page.do(f"{LAST}.textContent").startswith("[STUB_GENERATION]")
