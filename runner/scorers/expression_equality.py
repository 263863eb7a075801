"""Decides whether two mathematical expressions are equal, like Math-Verify but with stricter rules.

It runs in a process of its own (expressions_child.py), which alone imports sympy. The parser
ignores some parts of the text, such as the base in 21_8, dots, primes and units, and the
comparison rounds: these parts are compared here before. Decimals are exact. A unit and the base
may be missing on one side, a percent sign too, and 50 % is also 0.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import grader
from sympy.core.relational import Relational

DIGITS = 50  # to which numbers without a simpler form are compared
_LATEX = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_SIGNS = {
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "<=": r"\le ",
    ">=": r"\ge ",
    "−": "-",
    "–": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "÷": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "±": r"\pm ",
    "√": r"\sqrt ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∅": r"\emptyset ",
    "∈": r"\in ",
    "²": "^2",
    "³": "^3",
    "½": r"\frac12 ",
    "°": r"^\circ",
    r"\degree": r"^\circ",
    r"{\circ}": r"\circ",
    "**": "^",
    r"\!": "",
    r"\,": " ",
    r"\;": " ",
    r"\:": " ",
    "~": " ",
    r"\quad": " ",
    r"\$": "",
    "$": "",
    r"\varnothing": r"\emptyset",
    r"\log_e": r"\ln ",
    r"\log_{e}": r"\ln ",
    "{,}": ",",
    r"\lbrace": r"\{",
    r"\rbrace": r"\}",
}
_WRAP = r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox|rm|operatorname)\s*"
_OR = re.compile(rf"{_WRAP}\{{\s*,?\s*(?:and|or)\s*,?\s*\}}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_BARE = re.compile(r"(?<![a-zA-Z\\])(sqrt|pi|infty|infinity|inf|sin|cos|tan|log|ln)(?![a-zA-Z])")
_NAMED = {"infinity": "infty", "inf": "infty"}
_SPACE = re.compile(r"(?<!\\)\\(?=\s)")
_RAISED = re.compile(r"([_^])\s*(\d)(?=\s)")  # \log_2 8
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*\{?(\d+)\}?")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_APART = re.compile(r"\d\s+\d")
_BASE = re.compile(r"^(?P<rest>[0-9A-Z]*\d[0-9A-Z]*)_\{?(?P<base>\d+)\}?$")
_PERCENT = re.compile(rf"\s*(?:\\?%|(?:{_WRAP}\{{\s*)?\b(?:percent|percentage|pct)\b\s*\}}?)$")
_UNIT = re.compile(
    rf"(?<=[\d}})\s])\s*(?:{_WRAP}\{{(?P<wrapped>[^{{}}]*)\}}|(?P<bare>(?<![a-zA-Z\\])[a-zA-Z]{{2,}}(?: [a-zA-Z]+)?))"
    r"\s*(?:\^\{?(?P<power>\d)\}?)?$"
)
# a unit and its other spellings; a plural is the unit, too
_SPELLINGS = """
mm=millimeter=millimetre cm=centimeter=centimetre dm m=meter=metre km=kilometer=kilometre in=inch=inche yd=yard
ft=foot=feet mi=mile mg g=gram kg=kilogram ton lb=pound oz=ounce ml=milliliter l=liter=litre gal=gallon day week
s=sec=second min=minute h=hr=hour month year mph=milesperhour km/h=kmh=kmph=kilometersperhour m/s=meterspersecond
dollar cent euro degree=deg radian=rad unit point person=people student way solution side edge vertex apple coin
ball card page bird car book number digit term integer
"""
_UNITS = {spelling: names.split("=")[0] for names in _SPELLINGS.split() for spelling in names.split("=")}
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_WORD = re.compile(r"[a-zA-Z]{3,}")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\\circ")
_LOST = re.compile(
    r"\\[lc]?dots|\.\.\.|…|'|\\prime|\\(?:overline|bar|hat|tilde|vec|underline)\b|[?@#&]|\\pmod|\\bmod|\\mod"
)


@dataclass(frozen=True)
class ExpressionParts:
    """Parts of an expression that are compared separately, such as the unit and the percent sign."""

    text: str
    unit: str
    is_percent: bool
    base: str
    lost: tuple[str, ...]  # signs that the parser leaves out
    # of an answer that is text, sorted where it is a list; empty for an expression
    word_list: tuple[str, ...]


def are_expressions_equal(gold: str, answer: str) -> bool:
    right, given = normalize_and_split_expression(gold), normalize_and_split_expression(answer)
    if right.word_list or given.word_list:
        return _words_or_list(right) == _words_or_list(given)
    if (
        right.lost != given.lost
        or not _equal_or_missing(right.unit, given.unit)
        or not _equal_or_missing(right.base, given.base)
    ):
        return False
    is_real = not any(grader.should_treat_as_complex(side.text) for side in (right, given))
    expected, found = parse_expression(right.text, is_real), parse_expression(given.text, is_real)
    if expected is None or found is None:
        return bool(right.text) and _remove_spaces(right.text) == _remove_spaces(given.text)
    if right.is_percent is given.is_percent:
        return _are_parsed_values_equal(expected, found)
    share, other = (expected, found) if right.is_percent else (found, expected)
    if _is_constant(share) and _are_parsed_values_equal(share / 100, other):
        return True
    # 50 % is 50 where a percentage was asked for; 0.5 % is not 0.5, which would rather be 50 %
    return _are_parsed_values_equal(expected, found) and (right.is_percent or bool(sympy.Abs(expected) >= 1))


def _equal_or_missing(expected: str, found: str) -> bool:
    return expected == found or not expected or not found


def _remove_spaces(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _is_constant(value: Any) -> bool:
    return isinstance(value, sympy.Expr) and not value.free_symbols


# --------------------------------------------------------------------------------------- as written


def normalize_and_split_expression(text: str) -> ExpressionParts:
    text = text.strip().rstrip(".").strip()
    for sign, latex in _SIGNS.items():
        text = text.replace(sign, latex)
    text = _RAISED.sub(r"\1{\2}", _SPACE.sub("", text))
    exact, _, about = text.partition(r"\approx")
    text = _OR.sub(",", exact.strip() or about.strip())
    text = _BARE.sub(lambda name: "\\" + _NAMED.get(name[1], name[1]), text)
    text, is_percent = _remove_pattern(_PERCENT, text.strip())
    text, unit = _split_off_unit(text.strip())
    text = _REPEATING.sub(_convert_repeating_decimal, text)
    text = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    lost = tuple(sorted(_LOST.findall(text)))
    lost += ("apart",) * bool(_APART.search(text))
    text = _DECIMAL.sub(lambda match: rf"\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}}", text)
    if text.count(":") > 1:
        # a ratio of several: the parser would divide one by the next
        first, *others = text.split(":")
        text = f"({','.join(rf'{chr(92)}frac{{{other}}}{{{first}}}' for other in others)})"
    of_base = _BASE.match(text)
    text, base = (of_base["rest"], of_base["base"]) if of_base else (text, "")
    return ExpressionParts(text.strip(), unit, is_percent, base, lost, _split_text_answer(text))


def _remove_pattern(pattern: re.Pattern[str], text: str) -> tuple[str, bool]:
    cut = pattern.sub("", text)
    return (cut, True) if cut != text and cut else (text, False)


def _split_off_unit(text: str) -> tuple[str, str]:
    """Return the text without its final unit, and the unit. Unknown units stay in the text."""
    if _TRIGONOMETRIC.search(text):
        return _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text), ""
    if text.endswith(r"^\circ"):
        return text[: -len(r"^\circ")], "degree"
    match = _UNIT.search(text)
    if match is None or not match.start():
        return text, ""
    name = _remove_spaces(match["wrapped"] or match["bare"] or "").rstrip(".")
    name = re.sub(r"^(?:square|sq)(?=\w)", "", name) + ("^2" if re.match(r"(?:square|sq)\w", name) else "")
    name = re.sub(r"^cubic(?=\w)", "", name) + ("^3" if name.startswith("cubic") else "")
    name, _, power = name.partition("^")
    unit = _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))
    if unit is None:
        return text, ""
    power = match["power"] or power
    return text[: match.start()], unit + (f"^{power}" if power else "")


def _convert_repeating_decimal(match: re.Match[str]) -> str:
    whole, fixed, again = match.groups()
    nines = 10 ** len(fixed) * (10 ** len(again) - 1)
    return rf"\frac{{{int(whole + fixed + again) - int((whole + fixed) or 0)}}}{{{nines}}}"


def _split_text_answer(text: str) -> tuple[str, ...]:
    is_text = re.search(rf"{_WRAP}\{{[^{{}}]*[a-zA-Z]", text) or _WORD.search(_COMMAND.sub(" ", text))
    return _split_list(text) if is_text and "matrix" not in text else ()


def _words_or_list(parts: ExpressionParts) -> tuple[str, ...]:
    return parts.word_list or _split_list(parts.text)


def _split_list(text: str) -> tuple[str, ...]:
    bare = re.sub(_WRAP, "", text).casefold()
    return tuple(sorted(re.sub(r"[\s{}()\\]|[.]$", "", part) for part in re.split("[,;]", bare)))


# ----------------------------------------------------------------------------------- as mathematics


def parse_expression(text: str, is_real: bool = True) -> Any:
    latex = normalize_latex(text, _LATEX)
    for candidate in dict.fromkeys((latex, _extract_last_equation_side(latex))):
        try:
            read = latex2sympy(
                candidate, is_real=is_real, normalization_config=None, conversion_config=_CONVERSION
            )
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001 – a parser of text that anybody may have written
            continue
        units = {symbol: sympy.I for symbol in getattr(read, "free_symbols", ()) if symbol.name == "i"}
        return read.xreplace(units) if units else read
    return None


def _extract_last_equation_side(latex: str) -> str:
    """Return the last part of a chain of equations: c for a = b = c. Other texts stay unchanged."""
    sides = re.split(r"(?<!\\|<|!|>)=", latex)
    return sides[-1] if len(sides) > 2 and not {",", ";"} & {*latex} else latex


def _are_parsed_values_equal(expected: Any, found: Any) -> bool:
    if _is_unordered_list(expected) is not _is_unordered_list(found) and (
        _is_tuple_or_interval(expected) or _is_tuple_or_interval(found)
    ):
        return False
    if not _contains_equation(expected) and not _has_only_solved_equations(found):
        return False
    grader.sympy_solve_and_compare = _are_relations_proportional
    return bool(
        grader.verify(
            expected,
            found,
            numeric_precision=DIGITS,
            timeout_seconds=None,
            allow_set_relation_comp=True,
            raise_on_error=False,
        )
    )


def _is_unordered_list(value: Any) -> bool:
    """Return whether a parsed value is a list or set whose order does not matter."""
    return isinstance(value, sympy.FiniteSet)


def _is_tuple_or_interval(value: Any) -> bool:
    return isinstance(value, sympy.Tuple | sympy.Interval)


def _contains_equation(value: Any) -> bool:
    parts = value.args if isinstance(value, sympy.FiniteSet | sympy.Tuple) else (value,)
    return any(grader.is_equation(part) for part in parts)


def _has_only_solved_equations(value: Any) -> bool:
    """Return whether every equation assigns a value or is true: x = 3 is solved, 2x = 3 is not."""
    parts = value.args if isinstance(value, sympy.FiniteSet | sympy.Tuple) else (value,)
    return all(_is_variable_assignment(part) for part in parts if grader.is_equation(part))


def _is_variable_assignment(relation: Any) -> bool:
    equations = relation._unsorted_args if isinstance(relation, sympy.And) else [relation]
    first = equations[0].lhs
    sides = [*([] if _is_assignable_name(first) else [first]), *(equation.rhs for equation in equations)]
    return all(grader.sympy_expr_eq(side, other, 12, DIGITS) for side, other in pairwise(sides))


def _is_assignable_name(value: Any) -> bool:
    is_pair = isinstance(value, sympy.Tuple | sympy.Interval) and all(
        argument.is_Symbol for argument in value.args[:2]
    )
    return is_pair or value.is_Symbol or isinstance(value, sympy.core.function.AppliedUndef)


def _are_relations_proportional(gold: Relational, found: Relational, _rounding: int, _digits: int) -> bool:
    """Return whether two relations differ only by a common factor on both sides: 2x < 6 equals x < 3.

    Math-Verify compares solutions, and takes any two equations without solutions as equal.
    """
    expected_zero, found_zero = gold.lhs - gold.rhs, found.lhs - found.rhs
    if isinstance(gold, sympy.Eq | sympy.Ne):
        factor = sympy.simplify(found_zero / expected_zero)
        return type(gold) is type(found) and factor.is_number and bool(factor.is_nonzero)
    if gold.reversed.func is found.func and gold.func is not found.func:
        found_zero = -found_zero
    elif gold.func is not found.func:
        return False
    factor = sympy.simplify(found_zero / expected_zero)
    return factor.is_number and bool(factor.is_positive)


WARMING = (
    (r"\frac{1}{2}", "0.5"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"x \le 3", r"(-\infty,3]"),
    (r"(0,9)\cup(9,36)", r"\{1,2\}"),
    (r"\sin\frac{\pi}{6}", r"\log_2 8"),
    (r"\binom{5}{2}", "5!"),
    ("x=5", "y=3=5"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    ("1+2i", "(1,2,3)"),
    ("x^2=4", "x^2=5"),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}"),
    (r"\pi", r"e^{x}-1"),
    (r"\lfloor x\rfloor", "|x|"),
    ("50\\%", "x_1"),
)
