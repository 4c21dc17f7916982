"""How long a planned run may take: by runs that did the same, by a bench of it, or by a projection.

What `carectl bench` measured lies in <runs folder>/.bench, one file a device, number of threads,
torch and work; measuring the same again replaces it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from care_core.errors import CareError
from care_core.files import read_json, write_json
from care_core.spec import PretrainSpec
from care_core.spec.facts import DATASETS
from carectl import runs
from carectl.identity import SHOWN
from carectl.plan import Planned
from carectl.wording import counted, number


class Estimate(NamedTuple):
    """Hours on all GPUs of a run together (on the CPU, of the machine), and how that is known.

    `measured` is by how many measurements; `source` what kind they are; `origin` says so in words.
    """

    gpu_hours: float
    measured: int
    source: Literal["done", "bench", "projection"]
    origin: str
    on_cpu: bool = False

    @property
    def words(self) -> str:
        """Such as: about 12 GPU-hours by 2 done."""
        amount, unit = number(self.gpu_hours), "CPU" if self.on_cpu else "GPU"
        return f"about {amount} {unit}-hours by {self.origin}"


class Bench(NamedTuple):
    """A step that was measured: of which spec, where, when, and what was found."""

    spec: dict[str, Any]
    found: dict[str, Any]
    date: str

    @property
    def device(self) -> str:
        """As people call it."""
        device = self.found["device"]
        threads = f", {counted(device['threads'], 'thread')}" if self.on_cpu else ""
        return f"{device['name']}{threads}"

    @property
    def on_cpu(self) -> bool:
        return bool(self.found["device"]["kind"] == "cpu")

    @property
    def subject(self) -> str:
        """What was measured, in few words."""
        return f"{self.found['backbone']}, batch {self.found['batch']}, {self.found['precision']}"


def keep(runs_dir: Path, spec: PretrainSpec, found: dict[str, Any]) -> Path:
    """Write down what was measured of a spec's step. Returns the file.

    Raises:
        StorageError: it cannot be written.
    """
    values = spec.model_dump(mode="json")
    key = json.dumps([found["device"], work(values)], sort_keys=True)
    path = runs_dir / ".bench" / f"{hashlib.sha256(key.encode()).hexdigest()[:SHOWN]}.json"
    date = time.strftime("%Y-%m-%d")
    write_json(path, {"version": 1, "date": date, "spec": values, "found": found})
    return path


def kept(runs_dir: Path) -> list[Bench]:
    """What was measured before, the newest first."""
    read = (_bench(read_json(path)) for path in (runs_dir / ".bench").glob("*.json"))
    found = [bench for bench in read if bench]
    return sorted(found, key=lambda bench: bench.date, reverse=True)


def _bench(record: Any) -> Bench | None:
    """A kept measurement, if it is one that an estimate can be made from."""
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        bench = Bench(record["spec"], record["found"], str(record["date"]))
        said = bench.device, bench.subject, work(bench.spec)
        counts = [bench.found[key] for key in ("images_per_s", "flops_per_image")]
        if record["version"] == 1 and all(said) and all(0 < count < 1e30 for count in counts):
            return bench
    return None


def gpu_hours(runs_dir: Path, plan: Sequence[Planned]) -> dict[str, Estimate]:
    """By run id, for pretrainings still to be done of whose speed something is known."""
    asked = [
        (planned.run_id, planned.spec)
        for planned in plan
        if isinstance(planned.spec, PretrainSpec) and planned.action in ("new", "retry")
    ]
    if not asked:
        return {}
    done: dict[str, list[dict[str, Any]]] = {}
    for run in runs.listing(runs_dir):
        result = run.result
        if run.record.get("kind") == "pretrain" and result and result.get("images_per_s"):
            with contextlib.suppress(KeyError, TypeError, AttributeError):  # not a whole spec
                done.setdefault(work(run.record["spec"]), []).append(result)
    benches = kept(runs_dir)
    found = {}
    for run_id, spec in asked:
        same = done.get(work(spec.model_dump(mode="json")), [])
        estimate = _by_done(spec, same) if same else by_bench(spec, benches)
        if estimate:
            found[run_id] = estimate
    return found


def by_bench(spec: PretrainSpec, benches: Sequence[Bench]) -> Estimate | None:
    """From a bench of the same work, else from the nearest one by the operations that both take.

    A GPU's bench comes before a CPU's, unless the spec asks for no GPU. Projected is what the
    networks compute; that several GPUs share it without loss is assumed.
    """
    size = DATASETS[spec.data.name].pretrain_images
    on_gpu = [bench for bench in benches if not bench.on_cpu] if spec.launch.gpus else []
    usable = on_gpu or [bench for bench in benches if bench.on_cpu]
    if not usable or size is None:
        return None
    asked = work(spec.model_dump(mode="json"))
    for bench in usable:
        if work(bench.spec) == asked:
            hours = _hours(spec, size, bench.found["images_per_s"])
            origin = f"a bench of the same work on {bench.device} ({bench.date})"
            return Estimate(hours, 1, "bench", origin, bench.on_cpu)
    from care_core.bench import flops_per_image  # torch, where nothing simpler will do

    try:
        flops = flops_per_image(spec)
    except CareError:  # such as a backbone that timm does not have
        return None
    bench = min(usable, key=lambda bench: _distance(spec, flops, bench))
    speed = bench.found["images_per_s"] * bench.found["flops_per_image"] / flops
    origin = f"projection from a bench of {bench.subject} on {bench.device}"
    return Estimate(_hours(spec, size, speed), 1, "projection", origin, bench.on_cpu)


def _distance(spec: PretrainSpec, flops: float, bench: Bench) -> tuple[bool, float]:
    """How unlike a bench is: in precision, then in the operations of an image."""
    other = spec.training.precision != bench.found["precision"]
    return other, abs(math.log(bench.found["flops_per_image"] / flops))


def _by_done(spec: PretrainSpec, done: Sequence[dict[str, Any]]) -> Estimate | None:
    # how many images a folder has only its files can tell, or a run that read them
    size = DATASETS[spec.data.name].pretrain_images or done[0].get("images")
    if not size:
        return None
    hours = _hours(spec, size, fmean(result["images_per_s"] for result in done))
    on_cpu = all((result.get("on") or {}).get("device") == "cpu" for result in done)
    return Estimate(hours * spec.launch.ranks, len(done), "done", f"{len(done)} done", on_cpu)


def _hours(spec: PretrainSpec, images: int, images_per_s: float) -> float:
    batch = spec.training.batch_size
    return spec.training.epochs * (images // batch) * batch / images_per_s / 3600


def work(spec: dict[str, Any]) -> str:
    """What the speed of a step depends on. A record of an older spec has fewer settings."""
    launch, term, method = spec.get("launch", {}), spec["equivariance"], spec["method"]
    return repr(
        [
            spec["data"],
            spec["model"],
            method["name"],
            method.get("base", {}).get("name"),
            term["weight"] > 0 and (term["batch"] or "all"),
            spec.get("bn"),
            spec["training"]["batch_size"],
            spec["training"].get("precision", "fp32"),
            launch.get("compile", "off"),
            launch.get("gpus"),
            launch.get("nodes"),
        ]
    )
