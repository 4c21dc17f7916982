"""`carectl doctor`'s findings for people and for scripts."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from carectl import doctor
from carectl.console import colours, steps
from carectl.console.output import Output
from carectl.errors import ENVIRONMENT

_STYLES = {"ok": colours.GOOD, "warn": colours.CAREFUL, "fail": colours.BAD}


def show(runs_dir: Path, data_dir: Path, output: Output) -> int:
    """Print a line a finding as it is made. Returns the exit code: 3 if something fails."""
    found = []
    for finding in doctor.examine(runs_dir, data_dir):
        found.append(finding)
        line = Text(f"{finding.level:5}", style=_STYLES[finding.level])
        line.append(f"{finding.subject}: {finding.said}", style="default")
        output.result(line)
        if finding.remedy:
            output.result(Text(f"      → {finding.remedy}"))
    output.emit("doctor", findings=[finding._asdict() for finding in found])
    failed = any(finding.level == "fail" for finding in found)
    where = steps.places(runs_dir, data_dir)
    output.next(
        f"mend what fails, then carectl doctor{where}"
        if failed
        else f"carectl pretrain digits/simclr{where}"
    )
    return ENVIRONMENT if failed else 0
