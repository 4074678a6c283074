"""Numbers and tables as plain text: the same in a terminal, a pipe and a log."""

from __future__ import annotations

from collections.abc import Sequence


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines, each column as wide as its widest cell.

    >>> columns(["id", "round"], [["a", "12"]])
    ['id  round', 'a   12']
    """
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def decimal(value: float | None) -> str:
    """Write a loss or an accuracy to four digits; a dash for none.

    >>> decimal(0.94444), decimal(None), decimal(0.00001234)
    ('0.9444', '-', '1.234e-05')
    """
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"


def mean_count(value: float) -> str:
    """Write a count, or a mean of counts to one digit after the point.

    >>> mean_count(32.0), mean_count(50 / 7), mean_count(12_800_000)
    ('32', '7.1', '12800000')
    """
    return f"{value:.1f}".removesuffix(".0")


def quantity(value: float | None, unit: str) -> str:
    """Write a quantity with a decimal prefix; a dash for none.

    >>> quantity(8_400_000, "B"), quantity(0.0061, "s"), quantity(0, "B"), quantity(None, "B")
    ('8.4 MB', '6.1 ms', '0 B', '-')
    """
    if value is None:
        return "-"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value * 1e6:.3g} µ{unit}" if value else f"0 {unit}"


def count(number: int, thing: str) -> str:
    """Write how many things there are.

    >>> count(1, "node"), count(3, "node")
    ('1 node', '3 nodes')
    """
    return f"{number} {thing}" + ("" if number == 1 else "s")


def raw(sent: float, saved: float) -> str:
    """Return what bytes sent would have been without codecs, to stand behind them.

    >>> raw(1e6, 23.7e6), raw(5, 0)
    (' (24.7 MB raw: 24.7 times)', '')
    """
    if not saved or not sent:
        return ""
    return f" ({quantity(sent + saved, 'B')} raw: {(sent + saved) / sent:.3g} times)"
