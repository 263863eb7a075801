"""Child process that renders chat templates.

chat_template.py starts this file by its path, with `python -S`.

A template is a program that comes with a checkpoint. Jinja's sandbox keeps it from files
and Python's internals, but limits neither its time nor its memory: a single product of
numbers or strings can use up both. In this process the operating system limits them: it
ends the process, and the runner continues. The Jinja environment is the one that
transformers creates for chat templates, so that the text is the same; a test compares the
two. No other module of the runner is imported.
"""

from __future__ import annotations

import json
import marshal
import resource
import signal
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

LENGTH = struct.Struct("<Q")  # precedes each message
# the outcome begins an answer: a text, an error of Jinja or the template, or the limit that was
# reached
TEXT, REFUSED, MEMORY, DEPTH, SIZE = b"t", b"r", b"m", b"d", b"s"


class Generation(Extension):
    """Jinja extension for `{% generation %}` blocks, which mark text of the assistant.

    Here, the blocks have no effect.
    """

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Any) -> Any:
        """Replace a `{% generation %}` block by its content."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
        return caller()


class Dict:
    """Replacement for `dict` in chat templates.

    Creates dictionaries, but lacks the attributes of the type `dict`.
    """

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict.fromkeys(*values, **named)


class Namespace(jinja2.utils.Namespace):
    """Jinja `namespace` object whose attributes a template can set.

    Names that begin with an underscore are rejected.
    """

    def __init__(*args: Any, **named: Any) -> None:
        self, args = args[0], args[1:]  # a template may set an attribute `self`
        values = dict(*args, **named)
        for name in values:
            Namespace._check_name(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        Namespace._check_name(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(
                f"Chat templates cannot store underscore-prefixed attributes on a namespace, but got {name!r}. "
                "Please rename the attribute."
            )


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Jinja filter that converts a value to JSON without Jinja's HTML escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_template_error(message: str) -> NoReturn:
    """Raise a template error.

    Chat templates call this function to reject a conversation.
    """
    raise jinja2.exceptions.TemplateError(message)


def create_chat_template_environment() -> ImmutableSandboxedEnvironment:
    """Create a Jinja environment for chat templates, with the same settings as in transformers."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_template_error
    env.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    env.globals["dict"] = Dict()
    env.globals["namespace"] = Namespace
    return env


@lru_cache(8)
def compile_template(template: str) -> jinja2.Template:
    return create_chat_template_environment().from_string(template)


def render_template(template: str, values: dict[str, Any], max_characters: int) -> tuple[bytes, str]:
    """Render a chat template.

    Returns the outcome, and the rendered text or an error message.
    """
    try:
        text = compile_template(template).render(**values)
    except MemoryError:
        return MEMORY, ""
    except RecursionError:
        return DEPTH, ""
    except Exception as error:  # noqa: BLE001 - the runner reports it
        return REFUSED, str(error)[:max_characters]
    return (SIZE, "") if len(text) > max_characters else (TEXT, text)


def main() -> None:
    """Read conversations from stdin and render each of them, until stdin is closed."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        # they are for the runner, which closes stdin when it ends
        signal.signal(number, signal.SIG_IGN)
    cpu_s, memory, most_characters = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with suppress(ValueError, OSError):  # not all systems have this limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while head := stdin.read(LENGTH.size):
        conversation = stdin.read(*LENGTH.unpack(head))
        # its signal ends the process, also during a call into C
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        template, values = marshal.loads(conversation)
        outcome, text = render_template(template, values, most_characters)
        answer = outcome + text.encode("utf-8", "surrogatepass")
        signal.setitimer(signal.ITIMER_PROF, 0)
        stdout.write(LENGTH.pack(len(answer)) + answer)
        stdout.flush()


if __name__ == "__main__":
    main()
