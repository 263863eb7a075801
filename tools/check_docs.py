"""Check the pages: every relative link resolves, every command composes. `python -m
tools.check_docs`.

Nothing is run or loaded: a `runner` command is composed as by `--cfg job` and its keys are checked,
the other commands go through their own argument parsers. A command with `...` in it is a pattern,
and is skipped.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from runner.config.choices import installed_choice_files
from runner.config.compose import Composer
from runner.config.error_messages import EXTRAS, explain_error
from runner.config.groups import GROUPS
from runner.config.hydra import split_job_config_and_choices, to_runner_config
from runner.config.override_quoting import expand_sweeper_shortcuts, quote_override_values
from runner.config.runner_hydra import create_hydra
from runner_compare.console_script import SUBCOMMANDS
from runner_compare.release_gate import command as gate
from tools.figures import sourceless

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "*.md", "docs/*.md", "experiments/README.md", "bench/README.md", "bench/*/README.md",
    "runner_engine/embedded/README.md", "runner_engine/README.md", "runner_engine/kernels/README.md",
    "runner_compare/README.md",
    "runner/options/README.md",
)  # fmt: skip
UNRENEWED = (  # by tools.run_docs: histories, designs, and pages that other tools write
    "CHANGELOG.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "bench/README.md", "bench/compare/README.md",
    "bench/engine/README.md",
    "runner_engine/embedded/README.md", "runner_engine/README.md", "runner_engine/kernels/README.md",
    "runner_compare/README.md",
    "runner/options/README.md",
    "docs/families.md",
    "docs/compare_json.md",
)  # fmt: skip
COMMAND = re.compile(
    r"(runner|runner-compare|runner-advise|runner-sync|runner-convert-lora|make|python -m \S+|python bench/\S+)( |$)"
)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# right before a block or table
EXAMPLE = re.compile(r"(?:^|\n\n)\*Example\* \(([^)]*)\)(?:[^\n]|\n(?!\n))*\n\n$(?![\n])")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATTERN = re.compile(r"\.\.\.|…|(?:-cn |(?:^| )\w+=)[A-Z]{2,}(?: |$)")  # not one command
CHOICE = re.compile(r"(\w+(?:\.\w+)?)=(\w*)")


def pages(root: Path = ROOT) -> list[Path]:
    """Return every page that a user reads."""
    return sorted(page for pattern in PAGES for page in root.glob(pattern))


def broken_links(page: Path) -> list[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    wrong = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue  # another site
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        if not linked.exists() or (anchor and anchor not in headings(linked)):
            wrong.append(target)
    return wrong


def headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    found = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def commands(page: Path) -> dict[str, str]:
    """Return the commands of a page, from code blocks and from sentences, each with the error that
    it shows, if any."""
    text = page.read_text(encoding="utf-8")
    shown_errors = {line: error for block in FENCE.findall(text) for line, error in block_commands(block)}
    codes = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    # one word alone is the program's name
    shown_errors |= {code: "" for code in codes if " " in code}
    return {
        line: error
        for line, error in shown_errors.items()
        if COMMAND.match(line) and not PATTERN.search(line)
    }


def block_commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a code block: the lines after `$ ` if it shows output too, else every
    line."""
    lines = re.sub(r"\\\n *", "", block).splitlines()[1:-1]
    prompted = any(line.startswith("$ ") for line in lines)
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if prompted and line.startswith("$ "):
            yield line.removeprefix("$ "), following if following.startswith("error: ") else ""
        elif not prompted and not re.search(r" {3,}[^# ]", line):  # a row of a table
            yield line.strip(), ""


def fragments(page: Path) -> set[str]:
    """Return each `key=value` in the inline code of a page whose key is that of a group."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    words = [
        word for code in re.findall(r"`([^`\n]+)`", text) if not COMMAND.match(code) for word in code.split()
    ]
    return {match[0] for word in words if (match := CHOICE.match(word)) and match[1].split(".")[0] in GROUPS}


def wrong_fragment(fragment: str) -> str | None:
    """Say why a `group=choice` or `group.key=` is wrong; None if it is right."""
    key, _, value = fragment.partition("=")
    group, _, name = key.partition(".")
    if not name:
        known = {file.stem for file in installed_choice_files(group)}
        return None if value in known or value.isupper() or not value else f"{fragment}: no such choice"
    known = {item.name for schema in GROUPS[group].values() for item in fields(schema)}
    return None if name in known else f"{fragment}: no such key"


def wrong_command(line: str, shown: str = "") -> str | None:
    """Say why a command cannot work, or does not fail with the error that is shown; None if it is
    right."""
    error = ""
    try:
        program, *arguments = shlex.split(line, comments=True)
        _check(program, arguments)
    except SystemExit:
        error = "error: its own parser rejects it"
    except Exception as exception:  # noqa: BLE001  # any error is a problem of the page
        error = f"error: {explain_error(exception) or repr(exception)}"
    right = error.startswith(shown.removesuffix(" …")) if shown else not error
    return None if right else f"{line}: {error or 'no error'}"


def _check(program: str, arguments: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        if program == "make":
            targets = set(re.findall(r"^([a-z0-9_-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
            missing = [word for word in arguments if "=" not in word and word not in targets]
            assert not missing, f"no target {missing}"
        elif program == "python":
            named = (
                arguments[1].replace(".", "/") if arguments[0] == "-m" else arguments[0].removesuffix(".py")
            )
            assert (ROOT / f"{named}.py").is_file() or (ROOT / named).is_dir(), "no such script"
        elif program == "runner":
            _check_runner(arguments)
        elif program == "runner-compare" and arguments[:1] and arguments[0] in SUBCOMMANDS:
            _parse_subcommand(*arguments)
        elif "--help" not in arguments:
            _parse(program)(arguments)


def _parse_subcommand(name: str, *arguments: str) -> None:
    if not arguments:  # the text names the subcommand
        return
    if arguments[:1] == ("history",):
        gate.create_history_parser().parse_args(arguments[1:])
    elif name == "gate":
        gate.create_gate_parser().parse_args(arguments)
    else:
        gate.create_pack_command_parser().parse_args(arguments)


def _parse(program: str) -> Callable[[list[str]], object]:
    """Return how an installed program parses its arguments: its module has a parser, or a module
    beside it does."""
    (script,) = entry_points(group="console_scripts", name=program)
    for module in (f"{script.module}.options", f"{script.module}.command", script.module):
        with contextlib.suppress(ModuleNotFoundError):
            if (parser := getattr(import_module(module), "create_parser", None)) is not None:
                parse: Callable[[list[str]], object] = parser().parse_intermixed_args
                return parse
    raise LookupError(f"{program} has no parser")


def _check_runner(arguments: list[str]) -> None:
    options = get_args_parser().parse_args(quote_override_values(expand_sweeper_shortcuts(arguments)))
    if options.shell_completion:
        return
    if options.config_dir and not (ROOT / options.config_dir).is_dir():
        return  # the page writes this folder itself: only a run of the page can try the command
    hydra, name = _hydra(options.config_dir or "experiments"), options.config_name or "config"
    composer = Composer(hydra.config_loader, name)
    known: set[str] = set()
    for overrides in _one_by_one(
        hydra, options.overrides, grid=options.multirun or options.config_name is not None
    ):
        left: list[str] = []
        if options.multirun:
            composed, left = composer.compose_config_without_missing_keys(overrides)
        else:
            composed = composer.compose(overrides)
        known |= {line.partition("=")[0] for line in overrides if line not in left}
        to_runner_config(*split_job_config_and_choices(composed))
    for of_choices in composer.missing_keys.values():
        for error in (
            error for key, error in of_choices.items() if key not in known
        ):  # no job of the grid has it
            raise error


@cache
def _hydra(config_dir: str) -> Hydra:
    return create_hydra(str(ROOT / config_dir))


def _one_by_one(hydra: Hydra, overrides: list[str], grid: bool) -> Iterator[list[str]]:
    """Yield single jobs so that each choice of a grid occurs once, with the first choices of all
    other keys."""
    choices = []
    for override in OverridesParser.create().parse_overrides(overrides):
        if _is_absent(hydra, override.key_or_group, override.value()):  # its package is not installed
            overrides = [line for line in overrides if not line.startswith(("hydra/", "hydra."))]
            yield from _one_by_one(hydra, overrides, grid)
            return
        if grid and override.is_sweep_override():
            choices.append([f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line or ""])
    first = [values[0] for values in choices]
    yield first
    for place, values in enumerate(choices):
        yield from ([*first[:place], value, *first[place + 1 :]] for value in values[1:])


def _is_absent(hydra: Hydra, group: str, choice: object) -> bool:
    if group not in ("hydra/launcher", "hydra/sweeper"):
        return False
    return choice in EXTRAS and choice not in hydra.config_loader.get_group_options(group)


def missing_sources(page: Path) -> Iterator[str]:
    """Yield figures without a source, and examples without a machine and a day."""
    name, text = (
        str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name,
        page.read_text(encoding="utf-8"),
    )
    for rest in re.findall(r"^\*Example\*(.*)", text, re.MULTILINE):
        if not re.match(r" \([^()]+, \d{1,2} [A-Z][a-z]+ 20\d\d\)", rest):
            yield f"*Example*{rest[:40]}: give (MACHINE, DAY MONTH YEAR)"
    if name not in UNRENEWED:
        for figure in sourceless(name, text):
            yield f"{figure} is in no output of the page: leave it out, show the run, or mark it as an *Example*"


def problems(page: Path) -> Iterator[str]:
    """Yield the problems of a page, one line each."""
    yield from (f"link to nowhere: {target}" for target in broken_links(page))
    yield from filter(None, (wrong_command(line, shown) for line, shown in commands(page).items()))
    yield from filter(None, map(wrong_fragment, sorted(fragments(page))))
    yield from missing_sources(page)


def main() -> int:
    """Print the problems; return the exit code."""
    found = [f"{page.relative_to(ROOT)}: {problem}" for page in pages() for problem in problems(page)]
    print(
        "\n".join(found)
        or f"{len(pages())} pages, {sum(len(commands(page)) for page in pages())} commands: no problems"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
