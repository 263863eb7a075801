"""Chat templates: the text is that of transformers, and any template ends at a limit that the error
names."""

from __future__ import annotations

import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from opening import make_spec
from raising import raises
from transformers.utils.chat_template_utils import _compile_jinja_template

from runner_base.errors import ConfigError
from runner_engine.decode.request_encoder import RequestEncoder
from runner_engine.sessions import chat_template, template_child
from runner_engine.sessions.base import Message, Request
from runner_engine.sessions.chat_template import ChatTemplate, RenderLimits
from runner_engine.settings.model import LocalModelConfig

TURNS = [
    {"role": "system", "content": 'Be <brief> & "kind".\n'},
    {"role": "user", "content": "  How many €s, 😀? {{ 7 * 7 }} \ud800 "},
    {"role": "assistant", "content": "7\n\n"},
    {"role": "user", "content": ""},
]
TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "of several things": """{{- bos_token }}
{%- set ns = namespace(count=0, seen=[]) %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0].content | trim %}{%- set rest = messages[1:] %}
{%- else %}{%- set rest = messages %}{%- endif %}
{% for m in rest %}
  {%- if loop.last and not m.content %}{% continue %}{% endif %}
  {%- set ns.count = ns.count + 1 %}{% set ns.seen = ns.seen + [m.role] %}
  [{{ loop.index }}/{{ loop.length }} {{ loop.previtem.role if loop.previtem is defined else '-' }}]
  {{ m | tojson }} {{ m.content | upper | replace('HOW', 'why') | indent(4) }} {{ '%05d' % ns.count }}
  {%- generation %} said: {{ m.content.split('?')[0] ~ '|' }}{% endgeneration %}
{% endfor %}
{% macro shown(x, y=3) %}<{{ x }}:{{ y * 2 }}>{% endmacro %}{{ shown(ns.seen | join('+')) }}{{ shown(1, y=2) }}
{{ dict(a=1, b=[1, 2]) | tojson(indent=2) }} {{ range(5) | list }} {{ messages | map(attribute='role') | unique | list }}
{{ tools is none }} {{ documents is none }} {{ nothing is defined }} {{ eos_token }} {{ thinking | default('no') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ strftime_now('%Y') }} {{ 10 // 3 }} {{ 2 ** 8 }}
""",
}  # fmt: skip
WAIT_S = 60
SMALL = RenderLimits(cpu_s=0.2, memory_mib=256, characters=100_000)
SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
HOSTILE = {
    "loops": (SLOW, "0.2 s of CPU time"),
    "loops in a filter": ("{{ (messages * 20000) | map('tojson') | map('length') | sort | list | length }}" * 50, "0.2 s"),
    "a number": ("{{ (7 ** (7 ** 9)) % 3 }}", "0.2 s of CPU time"),
    "nested lists": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "(0.2 s of CPU time|256 MiB)",
    ),
    "a folded product": ("{{ 'a' * 10 ** 10 }}", "256 MiB"),
    "a product": ("{{ messages[0].role * 10 ** 10 }}", "256 MiB"),
    "a padded text": ("{{ messages[0].role.ljust(10 ** 10) }}", "256 MiB"),
    "a text that doubles": (
        "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "(0.2 s of CPU time|256 MiB)",
    ),
    "a macro": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "exceeds Python's recursion limit"),
    "a long text": ("{{ 'a' * 100001 }}", "100,000 characters"),
}  # fmt: skip


@pytest.fixture
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return deepcopy(AutoTokenizer.from_pretrained(tiny_llama))


@pytest.mark.parametrize("case", TEMPLATES)
def test_the_text_is_the_one_of_transformers(tokenizer: Any, case: str) -> None:
    tokenizer.chat_template = TEMPLATES[case]
    values = {"thinking": {"budget": 7, "on": True, "by": ["a", 0.5, None]}}
    template = ChatTemplate(tokenizer, "it", values)
    for count in range(1, len(TURNS) + 1):
        theirs = tokenizer.apply_chat_template(
            TURNS[:count], tokenize=False, add_generation_prompt=True, **values
        )
        assert template.render(TURNS[:count]) == theirs


def test_a_message_is_continued_as_transformers_does_it(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATES["chatml"]
    trimming = TEMPLATES["chatml"].replace("m.content", "m.content | trim")
    for template in (TEMPLATES["chatml"], trimming):
        tokenizer.chat_template = template
        for last in ("The answer is", "The answer is \n", "x"):
            turns = [*TURNS[:2], {"role": "assistant", "content": last}]
            theirs = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
            assert ChatTemplate(tokenizer, "it", {}).render(turns, continue_final_message=True) == theirs
    tokenizer.chat_template = "{{ messages[0].content }}"
    with raises(ConfigError, "unsupported"):
        ChatTemplate(tokenizer, "it", {}).render(TURNS[:2], continue_final_message=True)


def test_a_tokenizers_own_method_is_used(tokenizer: Any) -> None:
    class Own(type(tokenizer)):  # type: ignore[misc]
        def apply_chat_template(self, conversation: Any, **keys: Any) -> str:
            return f"own: {conversation[0]['content']} {sorted(keys)}"

    tokenizer.__class__ = Own
    theirs = tokenizer.apply_chat_template(TURNS[:2], tokenize=False, add_generation_prompt=True, thinking=1)
    assert ChatTemplate(tokenizer, "it", {"thinking": 1}).render(TURNS[:2]) == theirs


def test_the_environment_equals_that_of_transformers() -> None:
    theirs, ours = _compile_jinja_template("x").environment, template_child.create_chat_template_environment()
    for what in ("filters", "tests", "globals"):
        assert sorted(getattr(ours, what)) == sorted(getattr(theirs, what)), what
    for what in (
        "trim_blocks",
        "lstrip_blocks",
        "keep_trailing_newline",
        "autoescape",
        "undefined",
        "optimized",
    ):
        assert getattr(ours, what) == getattr(theirs, what), what
    assert {tag for one in ours.extensions.values() for tag in one.tags} == {
        tag for one in theirs.extensions.values() for tag in one.tags
    }


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", HOSTILE)
def test_a_template_ends_at_a_limit_that_is_named(tokenizer: Any, case: str) -> None:
    tokenizer.chat_template, limit = HOSTILE[case]
    template = ChatTemplate(tokenizer, "it", {}, SMALL)
    with raises(ConfigError, "too_large") as refused:
        template.render(TURNS[1:2])
    # the last is what is possible without the template
    assert re.search(
        rf"^the chat template of model\.name=it .*{limit}.* task\.format=raw ", str(refused.value)
    )
    tokenizer.chat_template = TEMPLATES["chatml"]
    assert template.render(TURNS[1:2]).startswith("<|im_start|>user\n"), "the next conversation is rendered"


def test_the_refusal_of_a_template_is_reported(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system message, please') }}"
    with raises(ConfigError, "refused"):
        ChatTemplate(tokenizer, "it", {}).render(TURNS[:2])
    tokenizer.chat_template = "{% set ns = namespace(_x=1) %}"
    with raises(ConfigError, "refused"):
        ChatTemplate(tokenizer, "it", {}).render(TURNS[:2])
    with raises(ConfigError, "empty"):
        ChatTemplate(tokenizer, "it", {}).render([])


def test_other_requests_do_not_wait_for_a_template(
    tokenizer: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def render(*_: object) -> tuple[bytes, str]:
        has_begun.set()
        assert may_end.wait(WAIT_S)
        return template_child.TEXT, "rendered"

    monkeypatch.setattr(chat_template._renderers, "render_conversation", render)
    encoder = RequestEncoder(make_spec(model=LocalModelConfig(name=str(tiny_llama))), tokenizer, "it", 100)
    with ThreadPoolExecutor(2) as pool:
        chat = pool.submit(encoder.encode_prompt, Request(0, (Message("user", "Hi"),)))
        assert has_begun.wait(WAIT_S)
        plain = pool.submit(encoder.encode_prompt, Request(1, "7 pens"))
        assert plain.result(WAIT_S)[0] == "7 pens"
        assert pool.submit(encoder.decode, [5, 6]).result(WAIT_S)
        assert not chat.done()
        may_end.set()
        assert chat.result(WAIT_S)[0] == "rendered"


def test_processes_without_work_end_and_later_ones_start(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "IDLE_S", 0.3)
    own = chat_template._RenderPool()
    monkeypatch.setattr(chat_template, "_renderers", own)
    tokenizer.chat_template = "{% for i in range(90000) %}{% endfor %}{{ messages[0].content }}"
    template = ChatTemplate(tokenizer, "it", {})
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda _: template.render(TURNS[1:2]), range(8)))
    assert len(set(texts)) == 1
    processes = [renderer.process for _, renderer, _ in own._idle]
    assert processes
    end = time.monotonic() + WAIT_S
    while own._idle:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert all(process.wait(WAIT_S) == -signal.SIGKILL for process in processes)
    assert template.render(TURNS[1:2]) == texts[0]
    own.end_idle_processes()
