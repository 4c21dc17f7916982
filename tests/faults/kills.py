"""SIGKILL at random moments of a training, again and again until it ends."""

from __future__ import annotations

import random
import signal

from .lab import Lab, Row


def random_kills(lab: Lab, count: int) -> Row:
    """Kill attempts after random times; each run in the end goes on undisturbed to its end."""
    chance = random.Random(lab.seed)
    problems: list[str] = []
    kills = runs = bad = 0
    while kills < count:
        run_dir = lab.folder / f"killed-{runs}"
        runs += 1
        for _ in range(min(chance.randint(1, 8), count - kills)):
            # two thirds, so that most runs are killed more than once, each time further on
            code = lab.attempt(run_dir, kill_after=chance.uniform(0, lab.span * 2 / 3))
            kills += code == -signal.SIGKILL
            if code == 0:
                break  # it was faster
            if code != -signal.SIGKILL:
                problems.append(f"{run_dir.name}: an attempt failed by itself, see {lab.log}")
                break
        if lab.attempt(run_dir) != 0:
            problems.append(f"{run_dir.name}: does not go on, see {lab.log}")
        wrong = lab.problems(run_dir)
        bad += bool(wrong)
        problems += wrong
    name = f"SIGKILL at random moments, {runs} trainings killed 1 to 8 times each"
    return Row(name, kills, kills if not problems else 0, runs - bad, runs, problems)
