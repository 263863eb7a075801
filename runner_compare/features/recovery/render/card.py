"""Writes the card of a recovery study: one PNG, or one HTML file without external resources."""

from __future__ import annotations

import io
from pathlib import Path

from runner_base import Column, ConfigError, Picture, convert_write_error
from runner_compare.features.recovery.compute import RecoveryTable
from runner_compare.features.recovery.render.picture import draw_recovery_card, draw_recovery_panels
from runner_compare.features.recovery.render.text import (
    CardSection,
    build_recovery_columns,
    format_recovery_legend,
    format_settings,
    format_size,
    list_cells,
    list_library_versions,
    name_baseline,
    name_candidates,
    shorten_path,
)
from runner_compare.model.comparison import css_class
from runner_compare.model.data import ABSENT
from runner_compare.render.html import escape_html, write_html_table
from runner_compare.render.page import STYLE

TITLE = "Recovery: accuracy of the candidate ÷ accuracy of the baseline"
OPTION, SUFFIXES = "--card", (".html", ".png")


def check_card_paths(paths: list[str]) -> None:
    """Raise ConfigError for a file that is neither HTML nor PNG."""
    for path in paths:
        if Path(path).suffix.lower() not in SUFFIXES:
            raise ConfigError(
                "the file name must end in .html or .png. Repeat the option to write both",
                key=OPTION,
                value=path,
                code="bad_value",
            )


def write_cards(table: RecoveryTable, paths: list[str], section: CardSection | None = None) -> None:
    for path in paths:
        target = Path(path).expanduser()
        if target.suffix.lower() == ".png":
            content = Picture("recovery", TITLE, lambda: draw_recovery_card(table, section)).to_png()
        else:
            content = render_card_page(table, section).encode()
        try:
            target.write_bytes(content)
        except OSError as error:
            raise convert_write_error(target, error, OPTION) from error


def render_card_page(table: RecoveryTable, section: CardSection | None = None) -> str:
    out = io.StringIO()
    out.write(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape_html(f'Recovery of {shorten_path(table.model)}')}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        f'<h1>{TITLE}</h1>\n<p class="asked">{escape_html(format_settings(table))}</p>\n'
    )
    if section is not None:
        out.write(f"<h2>{escape_html(section.title)}</h2>\n")
        write_html_table([*section.columns], [""] * len(section.format_rows_as_lines()), out)
    picture = Picture("recovery", TITLE, lambda: draw_recovery_panels(table))
    out.write(f"<figure>\n{picture.to_inline_svg()}\n</figure>\n")
    classes = [
        css_class(cells[-1].decision.finding) if cells[-1].decision is not None else ""
        for cells in map(list_cells, table.candidates)
    ]
    write_html_table(build_recovery_columns(table, is_long=True), classes, out)
    out.write(f'<p class="legend">{escape_html(format_recovery_legend(table))}</p>\n<h2>Questions</h2>\n')
    write_html_table(_build_question_columns(table), [""] * len(table.sets), out)
    out.write("<h2>Models and jobs</h2>\n")
    write_html_table(_build_job_columns(table), ["baseline", *[""] * len(table.candidates)], out)
    versions = list_library_versions(
        [table.baseline_facts, *(candidate.facts for candidate in table.candidates)]
    )
    if versions:
        out.write(f"<h2>Versions</h2>\n<p>{escape_html(' · '.join(versions))}</p>\n")
    out.write("</body>\n</html>\n")
    return out.getvalue()


def _build_question_columns(table: RecoveryTable) -> list[Column]:
    return [
        Column("set", [facts.name for facts in table.sets], False),
        Column("data", [shorten_path(facts.data) for facts in table.sets], False),
        Column("questions", [f"{facts.questions:,}" for facts in table.sets]),
        Column(
            "clusters", [ABSENT if facts.clusters is None else f"{facts.clusters}" for facts in table.sets]
        ),
        Column("baseline accuracy", [f"{100 * facts.baseline_accuracy:.1f} %" for facts in table.sets]),
        Column("SHA-256 of the questions", [facts.sha256 for facts in table.sets], False),
    ]


def _build_job_columns(table: RecoveryTable) -> list[Column]:
    facts = [table.baseline_facts, *(candidate.facts for candidate in table.candidates)]
    return [
        Column("model", [name_baseline(table), *name_candidates(table)], False),
        Column("weights, bytes", [format_size(of_jobs.size_bytes.get("weights")) for of_jobs in facts]),
        Column("files, bytes", [format_size(of_jobs.size_bytes.get("files")) for of_jobs in facts]),
        Column("jobs", [" ".join(map(shorten_path, of_jobs.job_ids)) for of_jobs in facts], False),
        Column("SHA-256 of the model", [of_jobs.model_sha256 or ABSENT for of_jobs in facts], False),
    ]
