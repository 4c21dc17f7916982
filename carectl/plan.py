"""A spec or a grid becomes a plan: runs with their dependencies, each new, reused, or to go on.

`--dry-run` prints the plan that submission executes; there is no other path.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from care_core import data
from care_core.errors import CheckpointError
from care_core.spec import USUAL_KINDS, Data, PretrainSpec, ProbeSpec, probe_kinds
from care_core.spec.launch import Launch
from carectl import identity, judging, records, reuse, runs
from carectl.errors import ENVIRONMENT, CommandError
from carectl.identity import Identity
from carectl.judging import Action
from carectl.runs import Run


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of a plan. `depends` are ids of runs that must be done first."""

    kind: Literal["pretrain", "probe"]
    name: str
    identity: Identity
    spec: PretrainSpec | ProbeSpec
    yaml: str
    launch: Launch
    depends: tuple[str, ...] = ()
    source_run: str | None = None
    checkpoint: str | None = None
    labels: dict[str, Any] = dataclasses.field(default_factory=dict)
    run_id: str = ""
    action: Action = "new"
    reason: str = ""


class Planner:
    """Resolves specs against a runs folder. The dataset's files are fingerprinted once."""

    def __init__(self, runs_dir: Path, data_dir: Path) -> None:
        self.runs_dir, self.data_dir = runs_dir, data_dir
        self.planned: dict[str, Planned] = {}
        #: hashes of the probes asked for, by encoder and epoch: a plan may have thousands
        self._asked: dict[tuple[str, int | None], dict[str, None]] = {}
        self._merged: dict[str, str] = {}  # what became part of another run → that run, by hash
        self._fingerprints: dict[tuple[str | None, ...], str] = {}

    def pretrain(self, spec: PretrainSpec, **labels: Any) -> Planned:
        """Plan a pretraining; the same question twice is one run."""
        from carectl.specs import dump

        mark = identity.of_pretrain(spec, self._fingerprint(spec.data))
        present = self.planned.get(mark.sha256)
        if present and isinstance(present.spec, PretrainSpec):
            both = reuse.keeping_both(present.spec, spec)
            if both == present.spec:
                return present
            self.planned[mark.sha256] = self._judge(
                dataclasses.replace(present, spec=both, yaml=dump(both))
            )
            return self.planned[mark.sha256]
        return self._add(
            Planned("pretrain", spec.name, mark, spec, dump(spec), spec.launch, labels=labels)
        )

    def probe(
        self, spec: PretrainSpec, source: Planned | Run | Path, *, epoch: int | None = None,
        kinds: tuple[str, ...] = USUAL_KINDS, **labels: Any,
    ) -> Planned:  # fmt: skip
        """Plan an evaluation of a planned or finished run, or of a checkpoint file.

        It is of the images that `spec.probe.data` names, else of those that were trained on. What
        a done evaluation measured among other things is not measured again, and what a plan asks
        of one encoder in several places is one run: `final` tells which one answers.
        """
        depends: tuple[str, ...] = ()
        source_run = file = None
        if isinstance(source, Planned):
            origin, source_run, depends = source.identity.sha256, source.run_id, (source.run_id,)
        elif isinstance(source, Run):
            origin, source_run = source.record["sha256"], source.id
        else:
            file = str(source.resolve())
            origin = hashlib.sha256(source.read_bytes()).hexdigest()
        order = [kind for kind in probe_kinds() if kind in kinds]
        asked = spec.probe.data or spec.data
        transfer = (asked.name, asked.path) != (spec.data.name, spec.data.path)
        probe_spec = ProbeSpec.model_validate(
            {
                "name": f"{spec.name}-s{spec.seed}" + (f"-on-{_called(asked)}" if transfer else ""),
                "source": origin,
                "epoch": epoch,
                "kinds": order,
                # whole, and once: what is said in two ways must not make another run
                "data": asked.of_size(
                    asked.image_size or asked.points or spec.image_size
                ).model_dump(),
                "pretrained_on": spec.data.model_dump(),
                "augment": spec.augment.model_dump(),
                "probe": spec.probe.model_dump(exclude={"data"}),
            }
        )
        mark = identity.of_probe(probe_spec, self._fingerprint(probe_spec.data))
        from carectl.specs import dump

        one = spec.launch.model_copy(update={"nodes": 1, "gpus": min(1, spec.launch.gpus)})
        wanted = Planned("probe", probe_spec.name, mark, probe_spec, dump(probe_spec), one,
                        depends, source_run, file, labels)  # fmt: skip
        known = mark.sha256 in self.planned or runs.by_hash(self.runs_dir, mark.sha256)
        if mark.sha256 in self._merged:
            return self.final(wanted)
        return self._add(wanted) if known else self._shared(wanted, probe_spec)

    def final(self, planned: Planned) -> Planned:
        """The run of this plan that answers what was planned: itself, or one that measures more."""
        key = planned.identity.sha256
        while key in self._merged:
            key = self._merged[key]
        return self.planned[key]

    def _shared(self, asked: Planned, spec: ProbeSpec) -> Planned:
        """Let a run that is done, or planned and not begun, answer a probe too, where one can."""
        from carectl.specs import dump

        fields = asked.identity.fields
        for run, done in self._done_probes.get((spec.source, spec.epoch), []):
            if reuse.answers(done, run.record.get("identity", {}), spec, fields):
                mark = Identity(run.record["identity"], run.record["sha256"], run.id)
                yaml = (run.path / "spec.yaml").read_text()
                return self._merge(
                    asked, dataclasses.replace(asked, identity=mark, spec=done, yaml=yaml)
                )
        for key in list(self._asked.get((spec.source, spec.epoch), ())):
            other = self.planned.get(key)
            if other and other.action == "new" and isinstance(other.spec, ProbeSpec):
                wider = reuse.widened(other.spec, spec)
                if reuse.answers(wider, other.identity.fields, spec, fields):
                    mark = identity.of_probe(wider, other.identity.fields["dataset"])
                    return self._merge(
                        asked,
                        dataclasses.replace(other, identity=mark, spec=wider, yaml=dump(wider)),
                        other,
                    )
        return self._add(asked)

    def _merge(self, asked: Planned, into: Planned, instead_of: Planned | None = None) -> Planned:
        """Put a run that answers several questions into the plan, where one of them stood."""
        key = into.identity.sha256
        if instead_of and instead_of.identity.sha256 != key:
            old = instead_of.identity.sha256
            into = dataclasses.replace(into, run_id=into.identity.run_id)
            self.planned = {
                key if k == old else k: into if k == old else run for k, run in self.planned.items()
            }
            self._merged[old] = key
            self.planned[key] = self._judge(into)
        if asked.identity.sha256 != key:
            self._merged[asked.identity.sha256] = key
        return self._add(into)

    @functools.cached_property
    def _done_probes(self) -> dict[tuple[str, int | None], list[tuple[Run, ProbeSpec]]]:
        """The evaluations that are done, by the encoder and epoch that they are of."""
        found: dict[tuple[str, int | None], list[tuple[Run, ProbeSpec]]] = {}
        for run in runs.listing(self.runs_dir):
            record = run.record
            if record.get("kind") == "probe" and run.result:
                with contextlib.suppress(ValueError):  # of a version that asked otherwise
                    spec = ProbeSpec.model_validate(record.get("spec"))
                    found.setdefault((spec.source, spec.epoch), []).append((run, spec))
        return found

    def again(self, run: Run) -> Planned:
        """Plan a run that is there as it was asked before, whatever the recipes say now."""
        record, job = run.record, run.job
        with _as_recorded(run):
            kind: Literal["pretrain", "probe"] = record["kind"]
            spec: PretrainSpec | ProbeSpec = (
                PretrainSpec if kind == "pretrain" else ProbeSpec
            ).model_validate(record["spec"])
            depends = (str(job["source_run"]),) if job.get("source_run") else ()
            mark = Identity(record["identity"], record["sha256"], run.id)
            planned = Planned(
                kind, record["name"], mark, spec, (run.path / "spec.yaml").read_text(),
                Launch.model_validate(job.get("launch", {})), depends, job.get("source_run"),
                job.get("checkpoint"), run_id=run.id,
            )  # fmt: skip
        self.planned[mark.sha256] = self._judge(planned)
        return self.planned[mark.sha256]

    def refresh(self) -> list[Planned]:
        """The plan in order, each run judged by the state of its folder now."""
        judged: dict[str, Planned] = {}
        for key, run in self.planned.items():
            judged[key] = self._judge(run)
        ids = {run.run_id for run in judged.values()}
        for key, run in judged.items():
            if run.action not in ("new", "retry"):
                continue
            away = [name for name in run.depends if name not in ids]
            if why := judging.hopeless(self.runs_dir, away, run.source_run, run.spec):
                judged[key] = dataclasses.replace(run, action="blocked", reason=why)
        self.planned = judged
        return list(judged.values())

    def _add(self, run: Planned) -> Planned:
        if isinstance(run.spec, ProbeSpec):
            encoder = run.spec.source, run.spec.epoch
            self._asked.setdefault(encoder, {})[run.identity.sha256] = None
        present = self.planned.get(run.identity.sha256)
        if present:
            return present
        found = runs.by_hash(self.runs_dir, run.identity.sha256)
        run = dataclasses.replace(run, run_id=found.id if found else run.identity.run_id)
        self.planned[run.identity.sha256] = self._judge(run)
        return self.planned[run.identity.sha256]

    def _judge(self, run: Planned) -> Planned:
        action, reason = judging.judge(self.runs_dir, run.run_id, run.identity, run.spec)
        return dataclasses.replace(run, action=action, reason=reason)

    def _fingerprint(self, images: Data) -> str:
        key = (images.name, images.path, images.unreadable)  # all that says which files
        if key not in self._fingerprints:
            cache = self.runs_dir / ".cache" / "fingerprints.json"
            self._fingerprints[key] = data.fingerprint(images, self.data_dir, cache)
        return self._fingerprints[key]


@contextlib.contextmanager
def _as_recorded(run: Run) -> Iterator[None]:
    """What a run's folder says is used as it is: where it cannot be, the folder is named."""
    try:
        yield
    except (KeyError, ValueError) as error:
        why = records.broken(run.path) or (
            "its spec.json or job.json is not of this version; ask for it anew by its spec.yaml"
        )
        raise CommandError(f"{run.id}: {why}", ENVIRONMENT) from error


def _called(data: Data) -> str:
    """A dataset's name, of a folder the folder's."""
    return Path(data.path).name if data.path else data.name


def source_of(
    runs_dir: Path, text: str, epoch: int | None = None
) -> tuple[PretrainSpec, Run | Path]:
    """What `carectl eval RUN|CHECKPOINT` names: a pretraining and where its weights lie.

    Raises:
        CommandError: no such run, not a pretraining, or not yet trained to its end.
    """
    path, exists = Path(text), False
    if path.suffix == ".pt":
        with contextlib.suppress(OSError):  # such as a name that is too long for one
            exists = path.exists()
        if not exists:
            raise CommandError(f"no checkpoint file '{text}'; `carectl status` lists the runs")
        from care_core import checkpoint  # torch is loaded for a file from outside alone

        try:
            return PretrainSpec.model_validate_json(checkpoint.read(path)["spec"]), path
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}; `carectl import` reads those of the official code"
            ) from error
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path}: not a checkpoint of this engine (it has no spec, or another version's)"
            ) from error
    run = runs.find(runs_dir, text)
    if why := records.broken(run.path):
        raise CommandError(f"{run.id}: {why}", ENVIRONMENT)
    if run.record.get("kind") != "pretrain":
        raise CommandError(
            f"{run.id} is not a pretraining, so there is no encoder to probe; "
            "`carectl status` lists those"
        )
    epochs = runs.epochs(run)
    if epoch is not None and epoch not in epochs:
        there = ", ".join(map(str, epochs)) or "none"
        raise CommandError(
            f"{run.id} has no checkpoint of epoch {epoch}; there are: {there} "
            "(checkpoint.keep in the spec decides which stay)"
        )
    state = runs.status(run).state
    if state != "done" and epoch is None:
        raise CommandError(
            f"{run.id} is {state}, so its last epoch is not there yet; give --epoch N for an "
            "earlier one, or finish it with the command that began it"
        )
    with _as_recorded(run):
        return PretrainSpec.model_validate(run.record["spec"]), run
