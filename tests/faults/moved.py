"""A runs folder that is moved to another path, with all that its files say of elsewhere."""

from __future__ import annotations

import shutil

import finished
from conftest import Project

from care_core.files import read_json, write_json
from carectl.runs import Run

from . import phases
from .lab import Lab, Row
from .real import project


def moved(lab: Lab, short: bool) -> Row:
    """Status, report and resume in the new place, and in the long mode eval and export."""
    here = lab.folder / "here" / "runs"
    done = phases.made(here, lab.spec)
    phases.job(lab, done)
    begun = phases.made(here, lab.seeded(7))
    case = next(case for case in phases.cases(short=False) if case.phase.name == "mid-epoch")
    phases.job(lab, begun, lambda: phases.signal_in(case))
    whole = lab.folder / "whole-7"
    lab.attempt(whole, spec=lab.seeded(7))
    finished.table1(here, lambda answer: finished.probe_result([90.0]), "smoke")
    for run in (done, begun):
        _of_another_host(run)
    looks = 3 if short else 5
    with project(lab.folder / "there") as place:
        shutil.move(here, place.runs)
        found = _met(place, done.id, begun.id, short)
        found += lab.problems(place.runs / begun.id, whole)
    return Row(
        f"the runs folder moved: status, report, resume{'' if short else ', eval, export'}",
        looks, looks - min(looks, len(found)), int(not found), 1, found,
    )  # fmt: skip


def _of_another_host(run: Run) -> None:
    """Let the folder's files name a host, data and a tracking store that are not here."""
    newest = run.attempts[-1] / "handle.json"
    write_json(newest, {**read_json(newest), "host": "elsewhere", "boot": "another"})
    write_json(run.path / "code.json", {"commit": "0" * 40, "diff": "", "host": "elsewhere"})
    away = {"uri": "sqlite:////nowhere/mlflow.db", "experiment_id": "1", "run_id": "f" * 32}
    job = {**run.job, "data_dir": "/nowhere/data", "tracking": away}
    write_json(run.path / "job.json", job)


def _met(place: Project, done: str, begun: str, short: bool) -> list[str]:
    found = []
    states = {run["run"]: run["state"] for run in place.json("status")["runs"]}
    if states.pop(begun) != "failed" or set(states.values()) != {"done"} or len(states) != 5:
        found.append(f"status: {states}")
    went_on = place.json("retry", begun)["runs"][0]
    if went_on["state"] != "done":
        found.append(f"retry: {went_on['state']}, {went_on['reason']}")
    if not short:
        probed = place.json("eval", done, "--probe", "knn")["runs"][0]
        if probed["state"] != "done":
            found.append(f"eval: {probed['state']}, {probed['reason']}")
        place.carectl("export", done)
    reported = place.json("report", "table1", "--profile", "smoke")
    lines = reported["documents"]["table1"]["data"]["lines"]
    if {line["mean"] for line in lines if line["measure"] == "linear, backbone"} != {90.0}:
        found.append("report: the moved runs' figures are not in the table")
    return found
