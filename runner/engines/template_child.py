"""The process that renders chat templates (chat_template.py starts it, by this file's path, with `python -S`).

A template is a program that came with a checkpoint. Jinja's sandbox keeps it from files and from Python's insides, but
bounds neither its time nor its memory: a single product of numbers or texts can take all of both. Here the kernel
bounds them: it ends the process at a limit, and who asked goes on. The environment is the one that transformers makes
for chat templates, so that the text is the same; a test compares the two. Nothing of the runner is imported.
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

LENGTH = struct.Struct("<Q")  # stands before each message
# how an answer begins: the text, what Jinja or the template says against it, or the limit that it has reached
TEXT, REFUSED, MEMORY, DEPTH, SIZE = b"t", b"r", b"m", b"d", b"s"


class Generation(Extension):
    """`{% generation %}` marks what an assistant said; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - so Jinja declares it

    def parse(self, parser: Any) -> Any:
        """Put in what stands between the tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return caller()


class Dict:
    """Makes dictionaries, and has no attributes of the type."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        """Return a dictionary of these."""
        return dict(*values, **named)

    def fromkeys(self, *values: Any, **named: Any) -> dict[Any, Any]:
        """Return a dictionary with these keys."""
        return dict.fromkeys(*values, **named)


class Namespace(jinja2.utils.Namespace):
    """Attributes that a template may set; none that begins with an underscore."""

    def __init__(*args: Any, **named: Any) -> None:
        self, args = args[0], args[1:]  # the first one has no name: a template may set `self`
        values = dict(*args, **named)
        for name in values:
            Namespace._check(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(
                f"Chat templates cannot store underscore-prefixed attributes on a namespace, but got {name!r}. "
                "Please rename the attribute."
            )


def tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Write a value as JSON, without Jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def refuse(message: str) -> NoReturn:
    """End a template that does not take a conversation."""
    raise jinja2.exceptions.TemplateError(message)


def environment() -> ImmutableSandboxedEnvironment:
    """Return what transformers compiles chat templates in."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    made.globals["dict"] = Dict()
    made.globals["namespace"] = Namespace
    return made


@lru_cache(8)
def compiled(template: str) -> jinja2.Template:
    """Return a template, ready to render."""
    return environment().from_string(template)


def answer(template: str, values: dict[str, Any], most_characters: int) -> tuple[bytes, str]:
    """Render a template; return how that ended, and the text or the reason."""
    try:
        text = compiled(template).render(**values)
    except MemoryError:
        return MEMORY, ""
    except RecursionError:
        return DEPTH, ""
    except Exception as error:  # noqa: BLE001 - whatever a template does is told to who asked
        return REFUSED, str(error)[:most_characters]
    return (SIZE, "") if len(text) > most_characters else (TEXT, text)


def main() -> None:
    """Render what comes, until nothing comes any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runner, whose end is the end of what comes
    cpu_s, memory, most_characters = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with suppress(ValueError, OSError):  # not all systems have this limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    given, told = sys.stdin.buffer, sys.stdout.buffer
    while head := given.read(LENGTH.size):
        asked = given.read(*LENGTH.unpack(head))
        signal.setitimer(signal.ITIMER_PROF, cpu_s)  # its signal ends the process, also amid a call of C
        template, values = marshal.loads(asked)
        how, text = answer(template, values, most_characters)
        said = how + text.encode("utf-8", "surrogatepass")
        signal.setitimer(signal.ITIMER_PROF, 0)
        told.write(LENGTH.pack(len(said)) + said)
        told.flush()


if __name__ == "__main__":
    main()
