"""The colours of states: middle tones, which can be read on a dark and on a light background.

The eight named colours cannot: yellow, green and cyan vanish on white, blue on black.
"""

from __future__ import annotations

GOOD = "color(28)"  # green
ACTIVE = "color(30)"  # teal
WAITING = "color(32)"  # blue
CAREFUL = "color(166)"  # orange
BAD = "color(160)"  # red

#: States of runs and actions of a plan; what went wrong comes first.
STYLES = {
    "failed": BAD, "lost": BAD, "blocked": BAD, "stale": CAREFUL, "retry": CAREFUL,
    "running": ACTIVE, "queued": WAITING, "new": WAITING, "cancelled": CAREFUL, "done": GOOD,
    "reused": GOOD,
}  # fmt: skip
