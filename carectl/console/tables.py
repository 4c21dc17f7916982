"""Plans and states as tables for people, and the same as plain values for --json."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from carectl import records, redaction, runs, tracking
from carectl.console import colours
from carectl.estimates import Estimate
from carectl.plan import Planned
from carectl.runs import Run, Status


def plan_table(
    plan: Sequence[Planned],
    hours: Mapping[str, Estimate] | None = None,
    end: str = "",
    *,
    width: int,
) -> Table:
    """Each run of a plan: what will be done with it, why, what it waits for, what it may cost.

    Where `width` is small, what it waits for goes, which the branch shows too, and then the reason
    has a line of its own: an id is never cut.

    Args:
        end: what is made of all of them, such as a table.
    """
    cells = list(_plan_cells(plan, hours or {}, end))
    widths = [max(map(len, column)) for column in zip(_PLAN, *cells, strict=True)]
    longest = max((len(word) for row in cells for word in row[3].split()), default=0)
    reason = min(max(NOTE, longest), widths[3])
    shown = [0, 1, 2] if _room(width, widths, (0, 1, 2)) >= reason else [0, 1]
    beside = _room(width, widths, shown) >= reason
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number in shown:
        table.add_column(_PLAN[number], no_wrap=True, width=widths[number])
    if beside:
        table.add_column(_PLAN[3], overflow="fold")
    for row in cells:
        words = [Text(row[3])] if beside else []
        table.add_row(state_text(row[0]), *(Text(row[n]) for n in shown[1:]), *words)
        if row[3] and not beside:
            table.add_row("", Text(row[3], overflow="fold", no_wrap=False))
    return table


_PLAN = ("action", "run", "after", "reason")


def _plan_cells(
    plan: Sequence[Planned], hours: Mapping[str, Estimate], end: str
) -> Iterator[tuple[str, ...]]:
    ids = {run.run_id for run in plan}
    for run in plan:
        after = ", ".join(name.rsplit("-", 1)[-1] for name in run.depends)
        branch = "└─ " if ids & set(run.depends) else ""
        cost = hours[run.run_id].words if run.run_id in hours else ""
        words = "; ".join(text for text in (run.reason, cost) if text)
        yield run.action, branch + run.run_id, after, words
    if end:
        yield "", end, "all", "made once they are done"


def plan_values(
    plan: Sequence[Planned], hours: Mapping[str, Estimate] | None = None
) -> list[dict[str, Any]]:
    """The same as plain values."""
    hours = hours or {}
    return [
        {
            "run": run.run_id,
            "kind": run.kind,
            "action": run.action,
            "reason": run.reason,
            "depends": list(run.depends),
            "gpu_hours": hours[run.run_id].gpu_hours if run.run_id in hours else None,
            "gpu_hours_by": hours[run.run_id].origin if run.run_id in hours else None,
            "sha256": run.identity.sha256,
        }
        for run in plan
    ]


#: A data path keeps up if the device waits less than this share of the time for it.
TELLING_SHARE = 0.05

NOTE = 24  # characters of a note that are worth more than figures
_COLUMNS = ("run", "state", "progress", "images/s", "left", "note")


def summary(rows: Sequence[tuple[Run, Status]]) -> Text:
    """How many runs there are, and of each state: what went wrong comes first."""
    counts = Counter[str](status.state for _, status in rows)
    found = Text(f"{len(rows):,} {'run' if len(rows) == 1 else 'runs'}: ")
    told = [state_text(name, f"{counts[name]:,} {name}") for name in colours.STYLES if counts[name]]
    return found.append_text(Text(", ").join(told))


def status_table(rows: Sequence[tuple[Run, Status]], width: int) -> Table:
    """One line a run for a terminal: state, how far, how fast, and why.

    Where `width` is small the figures go and the note is cut, before an id or a state is.
    """
    cells = [_cells(*row) for row in rows]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *cells, strict=True)]
    shown = [0, 1, *(n for n in (2, 3, 4) if any(row[n] for row in cells))]
    for figure in (3, 4, 2):
        if figure in shown and _room(width, widths, shown) < NOTE:
            shown.remove(figure)
    table = Table(
        box=None, pad_edge=False, header_style="bold", caption=_as_of(), caption_justify="left"
    )
    for number in shown:
        table.add_column(_COLUMNS[number], no_wrap=True, width=widths[number])
    if (room := _room(width, widths, shown)) >= len(_COLUMNS[5]):
        table.add_column(_COLUMNS[5], no_wrap=True, overflow="ellipsis", max_width=room)
        shown.append(5)
    for row in cells:
        table.add_row(*(state_text(row[n]) if n == 1 else Text(row[n]) for n in shown))
    return table


def _room(width: int, widths: Sequence[int], shown: Sequence[int]) -> int:
    """Characters that are left of a line for the note; a gap after each column."""
    return width - sum(widths[number] + 2 for number in shown)


def status_lines(rows: Sequence[tuple[Run, Status]]) -> str:
    """The same as aligned text, for pipes and for more rows than a terminal shows: it is quick."""
    cells = [_COLUMNS, *(_cells(*row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
    return "\n".join([*lines, _as_of()])


def _cells(run: Run, status: Status) -> tuple[str, ...]:
    value = progress_values(run) if status.state in ("running", "stale", "lost") else {}
    told = status.reason or value.get("bound") or _headline(run)
    note = " ".join(f"{records.broken(run.path)} {told}".split())
    speed, left = value.get("speed", ""), value.get("left", "")
    return (run.id, status.state, value.get("at", ""), speed, left, note)


def _as_of() -> str:
    return f"as of {time.strftime('%H:%M:%S')}"


def status_values(run: Run, status: Status) -> dict[str, Any]:
    record = run.record
    job = run.job.get("tracking") or {}
    return {
        "run": run.id,
        "kind": record.get("kind"),
        "name": record.get("name"),
        "sha256": record.get("sha256"),
        "state": status.state,
        "reason": status.reason,
        "attempts": len(run.attempts),
        "progress": run.progress or None,
        "result": run.result,
        "mlflow": {"uri": redaction.address(job["uri"]), "run_id": job["run_id"]} if job else None,
        "path": str(run.path),
        "damaged": records.broken(run.path),
    }


def detail(run: Run) -> Text:
    """Everything about one run, a line each, with where it is tracked."""
    status = runs.status(run)
    record, job = run.record, run.job.get("tracking")
    rows: dict[str, str | Text] = {
        "run": run.id,
        "state": state_text(status.state),
        "reason": status.reason,
        "damaged": records.broken(run.path),
        "kind": f"{record.get('kind')} of {record.get('name')}",
        **{k: _number(v) for k, v in run.progress.get("metrics", {}).items()},
        **{k: _number(v) for k, v in _flat_result(run).items()},
    }
    if job:
        rows["mlflow"] = tracking.link(job["uri"], job.get("experiment_id", ""), job["run_id"])
    rows["folder"] = str(run.path)
    widest = max(map(len, rows))
    lines = (
        Text.assemble((key.ljust(widest), "bold"), "  ", value)
        for key, value in rows.items()
        if value
    )
    return Text("\n").join(lines)


def progress_values(run: Run) -> dict[str, str]:
    """A running job's progress.json in words: `at`, `speed`, `left`, `bound`, `terms`."""
    found = run.progress
    if not found:
        return {}
    # of a probe that trains no classifier only that it is alive is known
    values = {"at": f"epoch {found['epoch']}/{found['epochs']}" if found["epochs"] else ""}
    if found.get("images_per_s"):
        values["speed"] = f"{found['images_per_s']:.0f}"
        values["left"] = duration(found.get("eta_s") or 0)
    if (found.get("data_bound") or 0) >= TELLING_SHARE:
        values["bound"] = f"data-bound {found['data_bound']:.0%}"
    shown = ("loss", "info_nce", "equivariance", "knn")
    values["terms"] = "  ".join(
        f"{key} {found['metrics'][key]:.3g}" for key in shown if key in found["metrics"]
    )
    return values


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _headline(run: Run) -> str:
    result = run.result or {}
    linear = result.get("linear")
    scores = linear.get("backbone") if isinstance(linear, dict) else None
    if isinstance(scores, list) and scores and all(isinstance(x, int | float) for x in scores):
        return f"linear probe {sum(scores) / len(scores):.1f}% ({result.get('measured_on')})"
    if "metrics" in result:
        return "  ".join(
            f"{k} {v:.3g}" for k, v in result["metrics"].items() if k in ("loss", "knn")
        )
    return ""


def _flat_result(run: Run) -> dict[str, Any]:
    result = run.result or {}
    return {
        key: value
        for key, value in tracking.flatten(result).items()
        if not key.startswith("metrics") and key != "kind"
    }


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_number(item) for item in value)
    return str(value)


def state_text(name: str, words: str = "") -> Text:
    """A state, or words on it, in its colour."""
    return Text(words or name, style=colours.STYLES.get(name, ""))
