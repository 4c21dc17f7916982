"""Where a job runs: the part of a spec that an author may change without changing the result.

Every text here ends in a batch file or a command line of SLURM, so each has a narrow alphabet: no
quotes, no white space that could end a line, nothing that a shell or sbatch would read as more.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,:+-]{0,199}$")]
Features = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,:&|!*()\[\]-]{0,199}$")
]
Hosts = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,\[\]-]{0,999}$")]
Amount = Annotated[str, StringConstraints(pattern=r"^[0-9]+[KMGT]?$")]
Length = Annotated[str, StringConstraints(pattern=r"^([0-9]+-)?[0-9]{1,2}(:[0-9]{2}){1,2}$")]

# A variable, option or header whose name says that it is secret, set to words and not to a file's
# or a variable's; an address with a password; a token that is known by its beginning.
_WORDS = r"(?![\"']?(?:\$|`|\s|$))"
_SECRET = re.compile(
    r"(?:password|passwd|passphrase|secret|token|credentials?|(?-i:(?<=_)PASS)|"
    rf"(?:api|access|private|secret)[_-]?key)(?:={_WORDS}|:\s+{_WORDS})|"
    rf"--[\w-]{{0,60}}(?:password|token|secret|api-?key)\s+{_WORDS}(?!-)|"
    rf"authorization:\s*[\w-]+\s+{_WORDS}|://[^\s/]*:[^\s/]*@|"
    r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_|sk-|xox[abprs]-|xapp-|dapi|pypi-|npm_|AKIA|ASIA)"
    r"[A-Za-z0-9_-]{16,}",
    re.IGNORECASE,
)

# What carectl sets itself; another value would break the job or the record of it.
_OURS = {
    "account", "array", "constraint", "cpus-per-task", "dependency", "error", "exclude", "export",
    "gpus-per-node", "job-name", "kill-on-invalid-dep", "mem", "nodes", "ntasks",
    "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue", "signal", "time",
    "wrap", "chdir", "input", "parsable", "wait", "test-only", "get-user-env", "uid", "gid",
}  # fmt: skip


class Launch(BaseModel):
    """Resources of a job. `gpus` and `nodes` make the ranks: one a GPU, or a CPU process each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: int = Field(1, ge=0, le=1024, description="GPUs a node; 0: one process on the CPU")
    nodes: int = Field(1, ge=1, le=1024)
    threads: int | None = Field(
        None, ge=1, description="CPU threads a rank; default: its share of the slot's cores"
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=256,
        description="processes a rank that decode image files; default: cpus − 1, at least 1",
    )
    compile: Literal["off", "default", "max-autotune"] = Field(
        "off", description="torch.compile of the networks"
    )
    cuda_graphs: bool = Field(
        True,
        description="on a GPU, record a step once and play it back; rounds otherwise",
    )
    resize: bool = Field(
        False, description="go on from a checkpoint of another number of ranks; not bitwise"
    )
    patience_s: int = Field(
        1800, ge=10, description="how long ranks wait for one that is silent, before they give up"
    )
    partition: Word | None = Field(None, description="SLURM, as all below")
    account: Word | None = None
    qos: Word | None = None
    time: Annotated[int, Field(ge=1)] | Length = Field(
        "24:00:00", description="limit: minutes, or [days-]hours:minutes[:seconds]"
    )
    cpus: int = Field(4, ge=1, description="CPU cores a rank")
    mem: Amount | None = Field(None, description="memory a node, such as 64G")
    constraint: Features | None = None
    exclude: Hosts | None = None
    sbatch: dict[str, str | int | bool] = Field({}, description="further options of sbatch")
    setup: tuple[str, ...] = Field(
        (), description="shell lines that SLURM's batch script runs before the job"
    )
    grace_s: int = Field(120, ge=10, le=3600, description="seconds of warning before the limit")
    max_requeues: int = Field(50, ge=0, description="preemptions and time limits to survive")

    @field_validator("sbatch")
    @classmethod
    def _safe(cls, options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for key, value in options.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", key):
                raise ValueError(f"'{key}' is not an option's long name, such as 'reservation'")
            # sbatch takes the beginning of an option's name for it; --gpus is one of its own
            if any(name.startswith(key) for name in _OURS) and key != "gpus":
                raise ValueError(f"'{key}' is set by carectl; see the other settings of launch")
            if isinstance(value, str) and not value.isprintable():
                raise ValueError(
                    f"'{key}': its value has a line break or another control character"
                )
        return options

    @field_validator("setup")
    @classmethod
    def _lines(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not line.isprintable():
                raise ValueError("a line has a line break or control character; give two lines")
            if _SECRET.search(line):
                raise ValueError(
                    "a line holds a secret, and a spec is kept and sent to MLflow; put it into a "
                    "file that you alone can read, and source that: . ~/.secrets"
                )
            if line.lstrip().startswith("#SBATCH"):
                raise ValueError(
                    "options of sbatch belong into launch.sbatch, where they are checked"
                )
        return lines

    @property
    def ranks(self) -> int:
        """How many processes train together."""
        return max(1, self.gpus) * self.nodes

    @property
    def decoders(self) -> int:
        """How many processes of a rank decode image files; 0: the rank itself."""
        return max(1, self.cpus - 1) if self.workers is None else self.workers

    @property
    def minutes(self) -> int:
        """The time limit in whole minutes, rounded up, as SLURM counts."""
        if isinstance(self.time, int):
            return self.time
        days, _, clock = self.time.rpartition("-")
        parts = [int(part) for part in clock.split(":")]
        hours, minutes, seconds = [*parts, 0][:3]
        return max(1, (int(days or 0) * 24 + hours) * 60 + minutes + (seconds > 0))
