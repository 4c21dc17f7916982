"""`python -m tests.faults [--kills 200] [--seed N]`: the table of docs/reliability.md, measured.

`--short` is what the tests run; `--only PART` one part of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' helpers

from care_core.files import write_json

from . import clock, damage, kills, moments, moved, phases, real
from .lab import Lab, Row


def parts(short: bool, count: int) -> dict[str, Callable[[Lab], list[Row]]]:
    """Each part of the harness by its name, in its short or its long mode."""
    return {
        "kills": lambda lab: [kills.random_kills(lab, count)],
        "moments": lambda lab: [
            moments.every_operation(lab, power=False, most=8 if short else None)
        ],
        "power": lambda lab: [moments.every_operation(lab, power=True, most=4 if short else 46)],
        "damage": lambda lab: damage.damaged(lab, 20 if short else 104),
        "clock": clock.jumps,
        "phases": lambda lab: phases.signalled(lab, phases.cases(short)),
        "real": lambda lab: [] if short else [real.signalled(lab, 6)],
        "moved": lambda lab: [moved.moved(lab, short)],
    }


def table(rows: list[Row]) -> str:
    """As in docs/reliability.md."""
    lines = [
        "| fault | injected | survived | bitwise equal to an undisturbed run | nothing lost |",
        "|---|---:|---:|---:|---|",
    ]
    for row in rows:
        equal = "–" if row.ended is None else f"{row.equal} of {row.ended}"
        lost = "yes" if not row.problems else f"no: {'; '.join(row.problems[:3])}"
        lines.append(f"| {row.fault} | {row.injected} | {row.survived} | {equal} | {lost} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", action="append")
    parser.add_argument("--json", type=Path, help="write the rows to a file")
    asked = parser.parse_args()
    chosen = parts(asked.short, asked.kills or (20 if asked.short else 200))
    found: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        os.environ["CARECTL_SLOTS_DIR"] = f"{folder}/slots"
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        lab = Lab(Path(folder), asked.seed)
        for name in asked.only or chosen:
            began = time.monotonic()
            found[name] = chosen[name](lab)
            if any(row.problems for row in found[name]):
                print(lab.log.read_text()[-6000:], file=sys.stderr)
            if any(row.problems for row in found[name]):
                print(lab.log.read_text()[-6000:], file=sys.stderr)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            if asked.json:
                write_json(
                    asked.json, {k: [r._asdict() for r in rows] for k, rows in found.items()}
                )
    rows = [row for part in found.values() for row in part]
    print(table(rows))
    return int(any(row.problems for row in rows))


sys.exit(main())
