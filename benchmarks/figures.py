"""Figures: what a benchmark yields, the machine it ran on, and the table and JSON made of both.

Invariant: a figure carries its unit, which direction is better, and its bar where there is one, so
that neither table nor comparison has to know the benchmark. Nothing is measured here.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click

Better = Literal["less", "more"]
# What decides speed besides the machine; absent ones are left out.
PACKAGES = ("gossipnode", "numpy", "uvloop", "aiohttp", "torch")


class Figure(NamedTuple):
    """One number. ``key`` names it for ever; ``value`` meets ``bar`` if it is not worse."""

    key: str
    what: str
    value: float
    unit: str
    better: Better = "less"
    bar: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without one."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.better == "less" else self.value >= self.bar


def spelled(value: float) -> str:
    """Return three digits, or all of a large number.

    >>> spelled(0.12345), spelled(12345.6)
    ('0.123', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def line(figure: Figure) -> str:
    """Return the figure as a row of a Markdown table.

    >>> line(Figure("k", "a round", 0.4, "", "less", 0.5))
    '| a round | 0.4 | ≤ 0.5, met |'
    """
    bar = ""
    if figure.bar is not None:
        sign = "≤" if figure.better == "less" else "≥"
        bar = f"{sign} {spelled(figure.bar)}, {'met' if figure.met else '**missed**'}"
    return f"| {figure.what} | {f'{spelled(figure.value)} {figure.unit}'.strip()} | {bar} |"


HEAD = "| what | measured | bar |\n| --- | --- | --- |"


def machine() -> dict[str, Any]:
    """Return what the figures are measured on, and how busy it is now (``load``, last minute)."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cpu": _cpu(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": versions,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for text in cpuinfo.read_text(encoding="utf-8").splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def described(here: Mapping[str, Any]) -> str:
    """Return the machine in a line."""
    packages = ", ".join(f"{name} {version}" for name, version in here["packages"].items())
    return (
        f"{here['cores']} cores of {here['cpu']}, {here['memory_gb']} GB, {here['system']}, "
        f"Python {here['python']}, {packages}; load {here['load']}"
    )


def present(figures: Iterable[Figure], path: Path | None) -> None:
    """Print each figure as it comes, and keep all of them as JSON where ``path`` says."""
    here = machine()
    print(f"{described(here)}\n\n{HEAD}", flush=True)
    found = []
    for figure in figures:
        print(line(figure), flush=True)
        found.append(figure)
    if path is not None:
        write(path, {"machine": here, "figures": [figure._asdict() for figure in found]})


def write(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON for people and programs."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def standard_options(command: Any) -> Any:
    """Add what every benchmark takes: ``--quick`` and ``--json FILE``."""
    quick = click.option("--quick", is_flag=True, help="Fewer repetitions, rougher figures.")
    path = click.option(
        "--json", "path", type=click.Path(path_type=Path), help="Keep the figures here."
    )
    return quick(path(command))


# -- what others measured -------------------------------------------------------------------------


def figures_of(found: Any, bars: Mapping[tuple[str, ...], float] | None = None) -> list[Figure]:
    """Return the figures of a benchmark's JSON, whichever of the two shapes it has.

    Either ``{"figures": [...]}``, or a list of rows: what is text or whole tells a row apart, what
    is a fraction is measured. ``bars`` gives the bar of a figure by its key, of a row's ratio by
    the row's words, and of what else a row measures by these and its name.
    """
    if isinstance(found, Mapping):
        return [_figure(entry, bars or {}) for entry in found["figures"]]
    return [figure for row in found for figure in _row(row, bars or {})]


def _figure(entry: Mapping[str, Any], bars: Mapping[tuple[str, ...], float]) -> Figure:
    given: dict[str, Any] = {"bar": bars.get((entry["key"],))}
    given |= {name: entry[name] for name in Figure._fields if name in entry}
    given.setdefault("better", "more" if str(entry["unit"]).endswith("/s") else "less")
    return Figure(**given)


# What a row may measure: the end of its name, its unit. The bytes a second follow from the time.
UNITS: dict[str, tuple[str, Better]] = {
    "ms": ("ms", "less"),
    "ratio": ("", "more"),
    "models": ("models", "less"),
}
# What is said of a figure besides its row's words.
SAID = {
    "ratio": "of the yardstick's speed",
    "models": "memory above the base, at most",
    "lag_ms": "lag of the loop, 99.9 %",
}


def _row(row: Mapping[str, Any], bars: Mapping[tuple[str, ...], float]) -> list[Figure]:
    words = tuple(
        f"{value:,} B" if name == "nbytes" else str(value)
        for name, value in row.items()
        if isinstance(value, str | int) and not isinstance(value, bool)
    )
    words += tuple(name for name, value in row.items() if value is True)
    figures = []
    for name, value in row.items():
        unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), None)
        is_yardstick = name == "ratio" and value == 1.0
        if isinstance(value, float) and unit is not None and not is_yardstick:
            bar = row.get("bar", bars.get(words)) if name == "ratio" else bars.get((*words, name))
            what = " ".join([*words, *([SAID[name]] if name in SAID else [])])
            key = "_".join([*words, name]).replace(" ", "").replace(",", "")
            figures.append(Figure(key, what, value, unit[0], unit[1], bar))
    return figures


def median_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of mine/theirs, pair by pair.

    >>> median_ratio([1.0, 4.0, 9.0], [2.0, 4.0, 6.0])
    1.0
    """
    from statistics import median

    return median(a / b for a, b in zip(mine, theirs, strict=True))
