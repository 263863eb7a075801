"""The pages hold, and the check of them finds what does not."""

from __future__ import annotations

from pathlib import Path

import options_here
import pytest

from tools import check_docs

pytestmark = pytest.mark.slow


@pytest.mark.thorough
@pytest.mark.parametrize("page", check_docs.pages(), ids=lambda page: str(page.relative_to(check_docs.ROOT)))
def test_links_resolve_and_commands_compose(page: Path) -> None:
    problems = list(check_docs.problems(page))
    if problems and (absent := options_here.absent()):
        pytest.skip(f"the pages tell of {', '.join(absent)}, too, which have been taken away")
    assert not problems


def test_the_readme_has_commands_to_check() -> None:
    assert len(check_docs.commands(check_docs.ROOT / "README.md")) >= 8


@pytest.mark.sampled(11)
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("see [there](nowhere.md)", "link to nowhere: nowhere.md"),
        ("see [below](#no-such-heading)", "link to nowhere: #no-such-heading"),
        ("`runner quantization=nf5`", "quantization=nf5: unknown choice"),
        ("`runner task.limit=0`", "must be 1 or more"),
        ("```\nrunner -m quantization=none,nf5 task.limit=3\n```", "quantization=nf5: unknown choice"),
        ("```\nrunner quantization=nf4 \\\n  task.limt=3\n```", "Did you mean task.limit?"),
        ("```\n$ runner task.limit=5\nerror: something else\n```", "task.limit=5: no error"),
        ("`runner -cd experiments -cn nothing`", "Cannot find primary config 'nothing'"),
        ("`runner-compare --bse x`", "--bse: unknown option"),
        ("`make tea`", "no target ['tea']"),
        ("`python bench/nothing.py`", "no such script"),
        ("choose `task=gsm9k`", "task=gsm9k: no such choice"),
        ("set `task.limt=5`", "task.limt=5: no such key"),
        ("It solves 44.4 % of them.", "44.4 % is in no output of the page"),
        ("*Example* (a laptop): 44.4 %", "give (MACHINE, DAY MONTH YEAR)"),
    ],
)
def test_what_is_wrong_is_found(text: str, problem: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{text}\n")
    (found,) = check_docs.problems(page)
    assert problem in found


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "text",
    [
        "[title](#a-title-of-two), [elsewhere](https://example.org/nothing)",
        "```\n$ runner task.limt=3\nerror: task.limt: no key 'task.limt'. Did you mean task.limit? …\n```",
        "*Example* (a laptop, 1 May 2026): 44.4 %",
        "```\n$ runner seed=1\nrunner nothing of this is a command\n```",
        "`runner -m quantization=none,nf4 seed=1,2`, `runner GROUP=CHOICE ...`, `runner model=NAME`",
    ],
)
def test_what_is_right_passes(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A title, of two\n\n{text}\n")
    assert not list(check_docs.problems(page))
