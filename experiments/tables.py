"""Means with t intervals over subjects, and pages from templates.

A subject is the unit: its seeds and searches are averaged first, and n counts subjects. Pages are
Jinja2 Markdown templates in ``pages`` that see the results file and nothing else.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cones.files import write_atomic
from cones.search.certify import t_interval

PAGES = Path(__file__).parent / "pages"
Interval: TypeAlias = dict[str, float | int | None]  # mean, low, high, n


def interval(values: Iterable[float]) -> Interval:
    """Give mean, 95 % t interval and n of what is not NaN; one value has no interval."""
    found = [float(value) for value in values if value == value]
    if len(found) > 1:
        return {**t_interval(found)}
    return {"mean": found[0] if found else None, "low": None, "high": None, "n": len(found)}


def over_subjects(
    table: pd.DataFrame, by: str | list[str], columns: Sequence[str]
) -> dict[Any, dict[str, Interval]]:
    """Give every column's :func:`interval` over subjects, for each value of ``by``.

    Values come in the order of their first appearance; columns that are missing are left out.
    """
    found = {}
    for key, part in table.groupby(by, sort=False, dropna=False):
        present = [name for name in columns if name in part and int(part[name].count())]
        means = pd.DataFrame(part.groupby("subjects")[present].mean()).to_dict("list")
        found[key] = {name: interval(means[name]) for name in present}
    return found


def rows_of(
    table: pd.DataFrame, by: str | list[str], columns: Sequence[str], *, first: str = "success"
) -> list[dict[str, Any]]:
    """Give a row for each value of ``by``: all means, and ``interval`` and ``n`` of ``first``."""
    rows = []
    for key, columns_of in over_subjects(table, by, columns).items():
        lead = columns_of[first]
        row = {by: key} if isinstance(by, str) else dict(zip(by, key, strict=True))
        row |= {"n": lead["n"], first: lead["mean"]}
        row["interval"] = [lead["low"], lead["high"]]
        rows.append(row | {name: found["mean"] for name, found in columns_of.items()})
    return rows


def intervals(table: pd.DataFrame, by: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Give a row for each value of ``by``, with the :func:`interval` of every column."""
    return [{by: key, **found} for key, found in over_subjects(table, by, columns).items()]


def plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value, and numpy's numbers
    """Give what JSON can hold: NaN becomes None, numpy's numbers Python's."""
    text = json.dumps(value, default=np.generic.item)
    return json.loads(text, parse_constant={"NaN": None}.__getitem__)


def write_results(docs: Path, name: str, results: object) -> Path:
    """Write ``docs/results/<name>.json``, and give its path."""
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path := docs / "results" / f"{name}.json", f"{text}\n".encode())
    return path


def page(name: str, **values: object) -> str:
    """Fill the template of a page: ``x.md``, or ``x.html``."""
    environment = Environment(
        loader=FileSystemLoader(PAGES),
        undefined=StrictUndefined,
        autoescape=name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"pct": percent, "ci": with_interval, "md": markdown}
    return environment.get_template(f"{name}.j2").render(**values)


def percent(value: float | None, digits: int = 0) -> str:
    """Write a share in percent."""
    return "" if value is None else f"{100 * value:.{digits}f} %"


def with_interval(found: Mapping[str, Any], digits: int = 4, share: bool = False) -> str:
    """Write a mean with its interval, ``.0123 [.0100, .0146]``, as shares in percent if asked."""
    factor, unit = (100, " %") if share else (1, "")
    mean, low, high = (found.get(name) for name in ("mean", "low", "high"))
    text = "" if mean is None else f"{factor * mean:.{digits}f}{unit}"
    if low is None or high is None:
        return text
    return f"{text} [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"


def markdown(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Write rows as a table; columns go from a row's name to its heading.

    ``name|pct`` writes a share in percent, ``name|0`` a number with so many digits.
    """
    specs = [(*name.partition("|")[::2], heading) for name, heading in columns.items()]
    lines = [[heading for *_, heading in specs], ["---"] * len(specs)]
    lines += [[_cell(row.get(name), how) for name, how, _ in specs] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any, how: str) -> str:  # noqa: ANN401 - whatever a results file holds
    if isinstance(value, Mapping):
        return with_interval(value, 0 if how == "pct" else int(how or 4), how == "pct")
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        return "" if value[0] is None else " to ".join(_cell(each, how) for each in value)
    return percent(value) if how == "pct" else f"{value:.{how}f}" if how else str(value)
