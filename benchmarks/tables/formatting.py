"""Formatting of numbers (significant digits, intervals) and escaping of text."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from benchmarks.records.statistics import Spread

MIB = 2**20
MILLION = "10⁶"
MINUS = "−"

_MARKDOWN = re.compile(r"([\\`*_|~$])")
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # Read as an optional argument, or as the starred form, when they follow `\\`.
    **{character: f"{{{character}}}" for character in "[]*"},
    "-": "-{}",  # two of them in a row would be set as a dash
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", MINUS: r"$-$", "×": r"\texttimes{}", "≤": r"$\leq$",
    "≥": r"$\geq$",
    **{power: rf"\textsuperscript{{{digit}}}" for digit, power in zip("026", "⁰²⁶", strict=True)},
}  # fmt: skip


def clean(text: str) -> str:
    """Returns text as one line without control characters, which could change a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def escape_markdown(text: str) -> str:
    """Escapes text for a table cell, a list item or a heading of GitHub's Markdown."""
    text = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKDOWN.sub(r"\\\1", text)
    # Only brackets that Markdown would read as a link are escaped, not those of intervals.
    return re.sub(r"\](?=[(\[:])", r"\\]", text)


def escape_latex(text: str) -> str:
    """Escapes text for LaTeX with T1 fonts, in table cells and in running text."""
    escaped = "".join(_LATEX.get(c, c) for c in clean(text))
    return re.sub(r"-\{\}(?!-)", "-", escaped)


def shorten(text: str, length: int) -> str:
    """Cuts text to `length` characters by removing its middle; names differ at their ends."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def decimals(value: float, spread: float | None = None) -> int:
    """Number of decimals that give three significant digits.

    Up to two more if `spread`, the width of an interval in the same unit, is so narrow that both
    ends would print alike.
    """
    if value == 0 or not math.isfinite(value):
        return 0
    # Rounded first: 0.9997 prints as 1.00 and not as 1.000.
    exponent = math.floor(math.log10(float(f"{abs(value):.2e}")))
    wanted = 2 - exponent
    if spread is not None and spread > 0:
        wanted = max(wanted, min(-math.floor(math.log10(spread)), 4 - exponent))
    return max(0, wanted)


def number(
    value: float,
    digits: int | None = None,
    *,
    bound: Literal["at least", "at most"] | None = None,
) -> str:
    """Formats a value with `digits` decimals, by default with three significant digits.

    Thousands have commas, and values below zero a minus sign (U+2212). A bound is rounded so that
    it still holds.
    """
    # Adding zero to a value that rounds to zero removes its sign.
    digits = decimals(value) if digits is None else digits
    if bound is not None:
        scale, outward = 10**digits, math.floor if bound == "at least" else math.ceil
        value = outward(round(value * scale, 6)) / scale
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", MINUS)


def interval(value: float, bounds: tuple[float, float] | None, digits: int | None = None) -> str:
    """Formats `value [low, high]` with the same number of decimals for all three."""
    if digits is None:
        digits = decimals(value, None if bounds is None else bounds[1] - bounds[0])
    text = number(value, digits)
    if bounds is None:
        return text
    return f"{text} [{number(bounds[0], digits)}, {number(bounds[1], digits)}]"


def percent(fraction: float, bounds: tuple[float, float] | None = None) -> str:
    """Formats a fraction and its interval in percent with one decimal, without the sign."""
    scaled = None if bounds is None else (100 * bounds[0], 100 * bounds[1])
    return interval(100 * fraction, scaled, digits=1)


def spread_text(value: float, spread: Spread | None) -> str:
    """Formats `value [low, high]` for an interval, `value (range low to high)` for a range."""
    if spread is None or not spread.is_range:
        return interval(value, None if spread is None else spread.bounds)
    low, high = spread.bounds
    digits = decimals(value, high - low)
    return f"{number(value, digits)} (range {number(low, digits)} to {number(high, digits)})"


def milliseconds(value_ms: float) -> str:
    """Formats a time with three significant digits in µs, ms or s."""
    # Thresholds just below the power of ten: 999.96 ms is "1.00 s", never "1000 ms".
    for limit, scale, unit in ((0.9995, 1e3, "µs"), (999.5, 1.0, "ms")):
        if value_ms < limit:
            return f"{number(value_ms * scale)} {unit}"
    return f"{number(value_ms / 1e3)} s"


def slug(text: str) -> str:
    """Converts text to a part of a file name: lower-case letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unnamed"
