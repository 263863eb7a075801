"""What somebody else has written is shown by sheets and Markdown, and does nothing there."""

from __future__ import annotations

import pytest

from runner_compare.render.escaping import escape_csv_cell, escape_markdown


@pytest.mark.parametrize(
    "text", ["=1+1", "+7.5 [a]", "-2+3", "@SUM(A1)", "\t=1+1", "'=1+1", '=HYPERLINK("http://x")']
)
def test_no_cell_begins_as_a_formula(text: str) -> None:
    assert escape_csv_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    "cell", ["-3", "-0.25", "+1e-5", -3, 0.5, None, True, "nf4", "a=1", "−3.0 [−5, −1]", "–", ""]
)
def test_numbers_and_words_stay(cell: object) -> None:
    assert escape_csv_cell(cell) == cell


def test_a_sheet_has_no_control_characters() -> None:
    assert escape_csv_cell("\x1b]0;owned\x07") == "\\x1b]0;owned\\x07"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)>"),
        ("</pre><!-- x --><?php", "&lt;/pre>&lt;!-- x -->&lt;?php"),
        ("[click](javascript:alert(1))", "[click]\\(javascript:alert(1))"),
        ("![seen](http://track.example)", "![seen]\\(http://track.example)"),
        ("[here]: javascript:alert(1)", "\\[here]: javascript:alert(1)"),
        ("&#106;&lt;", "&amp;#106;&amp;lt;"),
        ("two\nlines \x1b[31m", "two lines \\x1b[31m"),
        ("n=60: 5.0 [−1.0, 9.0]: p<0.0001 & 3 < 4", "n=60: 5.0 [−1.0, 9.0]: p<0.0001 & 3 < 4"),
    ],
)
def test_markdown_shows_the_text_itself(text: str, shown: str) -> None:
    assert escape_markdown(text) == shown
