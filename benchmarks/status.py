"""How long `carectl status` and `carectl --help` take; 10,000 runs unless told otherwise.

Command: python benchmarks/status.py [RUNS]. It prints, it decides nothing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from care_core.files import write_json


def fill(folder: Path, count: int) -> None:
    """Run folders as they are after a large grid: nine of ten done, one of ten failed."""
    for number in range(count):
        run = folder / f"digits-care-simclr-s{number}-{number:012x}"
        (run / "attempts" / "1").mkdir(parents=True)
        spec = {"kind": "pretrain", "name": "digits/care-simclr", "sha256": f"{number:064x}"}
        write_json(run / "spec.json", {**spec, "identity": {}, "spec": {}}, durable=False)
        write_json(run / "job.json", {}, durable=False)
        if number % 10:
            result = {"metrics": {"loss": 4.2, "knn": 96.1}}
            write_json(run / "result.json", result, durable=False)
        else:
            note = {"message": "the loss is nan at step 7"}
            write_json(run / "attempts" / "1" / "error.json", note, durable=False)


def seconds(folder: Path, *arguments: str, repeats: int = 5) -> float:
    """The median wall-clock time of a command in a project folder, its start included."""
    command = [sys.executable, "-c", "from carectl.app import main; main()", *arguments]
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "runs", count)
        print(f"carectl --help: {seconds(folder, '--help'):.2f} s")
        print(f"carectl status, {count} runs: {seconds(folder, 'status'):.2f} s")
        print(f"carectl status --json, {count} runs: {seconds(folder, 'status', '--json'):.2f} s")


if __name__ == "__main__":
    main()
