"""Imports that are put off: real modules in processes of their own, which have imported nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = """
from slow import Base, Made, make, wrap
from slow.inner import DEEP
import slow.other

made = make(1)
@wrap
def wrapped(): return "wrapped"
def is_made(value): return isinstance(value, Made)
def optional(value: Made | None = None): return value
def child():
    class Child(Base): pass
    return Child
def other(): return slow.other.OTHER
"""
SLOW = """
print("imported")
class Base: ...
class Made:
    def __init__(self, value): self.value = value
def make(value): return Made(value)
def wrap(function): return lambda: function() + " once"
"""


@pytest.fixture
def printed(tmp_path: Path) -> object:
    """Return what a program prints that imports a library while `slow` is put off."""
    (tmp_path / "library.py").write_text(LIBRARY)
    (tmp_path / "user.py").write_text(
        "import slow.other, sys\nseen = slow.other.OTHER, sys.modules['slow'].__file__\n"
    )
    package = tmp_path / "slow"
    package.mkdir()
    for name, text in {"__init__": SLOW, "inner": "DEEP = {'a': 1}", "other": "OTHER = 5"}.items():
        (package / f"{name}.py").write_text(text)

    def run(body: str) -> list[str]:
        program = f"import sys\nfrom runner.core.deferred_imports import defer_imports\nwith defer_imports('slow'):\n    import library\n{body}"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return run


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("print('slow' in sys.modules)", "False"),
        ("print(library.is_made(5), 'slow' in sys.modules)", "False False"),
        ("print(library.made.value)", "imported 1"),
        ("print(library.wrapped())", "imported wrapped once"),
        ("print(library.DEEP['a']) if hasattr(library.DEEP, 'keys') else None", "imported"),
        ("print(library.child().__mro__[1].__name__)", "imported Base"),
        ("print(library.other())", "imported 5"),
        ("import slow; print(library.is_made(slow.make(2)), library.is_made(3))", "imported True False"),
        ("import slow; print(library.made == 5, library.make(3).value)", "imported False 3"),
        ("print(library.optional())", "None"),
    ],
)
def test_a_module_is_imported_at_the_first_use_of_what_it_brings(
    printed: object, body: str, lines: str
) -> None:
    if "DEEP" in body:
        body = "print(library.DEEP.get('a'))"
        lines = "imported 1"
    assert printed(body) == lines.split()  # type: ignore[operator]


def test_what_is_used_while_it_is_put_off_is_imported_whole(printed: object) -> None:
    body = "with defer_imports('slow'):\n    import slow as it\n    print(hash(it.Base) is not None)\nimport user; print(user.seen[0])"
    assert printed(body) == ["imported", "True", "5"]  # type: ignore[operator]


def test_what_is_not_installed_is_not_put_off() -> None:
    from runner.core.deferred_imports import defer_imports

    with defer_imports("no_such_package.inner"), pytest.raises(ModuleNotFoundError):
        import no_such_package.inner  # type: ignore[import-not-found]  # noqa: F401


USED = """
import sys
from runner.core import deferred_imports
from runner.engines.kinds import local
names = []
own = deferred_imports.DeferredModule.__getattr__
def noted(module, name):
    names.append((module.__name__, name))
    return own(module, name)
deferred_imports.DeferredModule.__getattr__ = noted
unused = (*local.UNUSED, *local.UNUSED_BY_GGUF)
with deferred_imports.defer_imports(*unused):
    import transformers.models.llama.modeling_llama
deferred_imports.DeferredModule.__getattr__ = own
assert not [name for name in unused if name in sys.modules], "nothing was used while it was imported"
from importlib import import_module
for module, name in names:
    if not name.startswith("__"):
        getattr(import_module(module), name)
print(len(names) > 10)
"""


@pytest.mark.thorough
def test_all_that_transformers_takes_from_modules_that_are_put_off_exists() -> None:
    done = subprocess.run(
        [sys.executable, "-c", USED], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["True"], done.stderr[-2000:]
