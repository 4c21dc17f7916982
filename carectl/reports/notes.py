"""What a report says of a run, read from its folder."""

from __future__ import annotations

from typing import Any

from carectl import records, runs, tracking, trust
from carectl.reports.document import RunNote
from carectl.runs import Run


def of(run: Run, role: str, label: str = "") -> RunNote:
    """A run's spec, seed, state, preset, code, time and where it is tracked, as far as they exist.

    A probe has the seed and the preset of the pretraining that it measures.
    """
    record, job = run.record, run.job
    spec = record.get("spec") or {}
    named = job.get("source_run")
    source = Run(run.path.parent / named) if trust.is_name(named) else run
    trained = source.record.get("spec") or {}
    code = records.read(run.path / "code.json") or {}
    state, reason = runs.status(run)
    kept = job.get("tracking") or {}
    address = (
        tracking.link(kept["uri"], str(kept.get("experiment_id", "")), kept["run_id"])
        if kept
        else ""
    )
    return RunNote(
        id=run.id,
        role=role,
        name=str(record.get("name", "")),
        label=label,
        seed=_whole(trained.get("seed")),
        epoch=_whole(spec.get("epoch")),
        state="not run" if state == "new" else state,
        reason=reason,
        fidelity=str(trained.get("fidelity", "")),
        commit=str(code.get("commit") or "")[:12],
        dirty=bool(code.get("diff")),
        seconds=(run.result or {}).get("seconds"),
        mlflow=str(kept.get("run_id", "")),
        url=address if address.startswith(("http://", "https://")) else "",
        folder=f"{run.path.parent.name}/{run.id}",
        spec=_text(run),
    )  # fmt: skip


def _text(run: Run) -> str:
    path = run.path / "spec.yaml"
    # not through a link: the text goes into a page that is passed on
    return path.read_text(errors="replace") if path.is_file() and not path.is_symlink() else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None
