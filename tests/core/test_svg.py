"""Pictures are well-formed XML, whatever their texts contain."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from runner_base.svg import build_svg_document, format_svg_rectangle, format_svg_text


@given(st.text())
def test_any_words_can_stand_in_a_picture(words: str) -> None:
    drawn = build_svg_document(
        200,
        40,
        [
            format_svg_text(10, 20, words, bold=True, anchor="end"),
            format_svg_rectangle(1, 2, 3, 4, "#4e79a7", words),
        ],
    )
    label, mark = list(ElementTree.fromstring(drawn))[1:]
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in words)
    assert (label.text or "") == shown
    assert (mark[0].text or "") == shown
    assert label.attrib["font-weight"] == "bold"
    assert (mark.attrib["x"], mark.attrib["height"]) == ("1.0", "4.0")
