"""A step beside its floors, in turns and in one run."""

from __future__ import annotations

import contextlib
import platform
import resource
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from care_core.bench import floor, work
from care_core.bench.engine import PHASES, Engine
from care_core.bench.turns import Timing, in_turns
from care_core.device import set_up
from care_core.spec import PretrainSpec

#: Steps that a GPU is given before it is waited for.
BLOCK = 10

#: The floors by name, and what each is.
FLOORS = {
    "floor": "the same passes on ready tensors",
    "pooled_floor": "with plain batch norm over all views at once",
    "compiled_floor": "with the networks compiled",
}


def measure(
    specs: Sequence[PretrainSpec],
    repeats: int,
    threads: int | None = None,
    device: torch.device | str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Time the step of each spec and its floors, all in turns, on one process and one device.

    Args:
        specs: what is measured together, such as one recipe at two precisions.
        repeats: how often each is timed; a GPU does BLOCK steps each time.
        threads: CPU threads; default: torch's own choice.
        say: gets sentences about what happens.

    Returns:
        For each spec plain values: times are medians in seconds of one step, with the fastest in
        `times`; FLOP/s are of the networks (`work.flops_per_image`); memory is in bytes.

    Raises:
        SpecError: the spec asks for what there is not.
    """
    on = set_up(device, threads)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        subjects = []
        for number, spec in enumerate(specs):
            folder = Path(name) / str(number)
            folder.mkdir()
            subjects.append(_Subject(spec, on, folder, say))
            stack.callback(subjects[-1].engine.close)
        _share_memory(subjects, on)
        kinds = {
            f"{number}.{kind}": run
            for number, subject in enumerate(subjects)
            for kind, run in subject.kinds.items()
        }
        say(f"timing {len(kinds)} kinds of work in turns, {repeats} times each")
        times = in_turns(kinds, repeats, on, block=BLOCK if on.type == "cuda" else 1)
        return [
            subject.report({kind: times[f"{number}.{kind}"] for kind in subject.kinds}, repeats)
            for number, subject in enumerate(subjects)
        ]


def _share_memory(subjects: Sequence[_Subject], device: torch.device) -> None:
    """Let all that is recorded use the same memory: it is played in turns, never at once."""
    if device.type != "cuda":
        return
    pool = torch.cuda.graph_pool_handle()
    for subject in subjects:
        floors = [made.recorded for made in subject.floors.values()]
        for recorded in (subject.engine.stepper.recorded, *floors):
            recorded.pool = pool


class _Subject:
    """A spec that is measured: its engine and its floors."""

    def __init__(
        self, spec: PretrainSpec, device: torch.device, folder: Path, say: Callable[[str], None]
    ) -> None:
        self.spec, self.device, self.say = spec, device, say
        self.engine = Engine(spec, device, folder)
        ready = next(self.engine.feed.steps(0, 1))
        self.floors = {
            "floor": floor.same_function(spec, ready, device),
            "pooled_floor": floor.pooled(spec, self.engine.stepper.method, ready, device),
        }
        if device.type == "cuda" and spec.launch.compile == "off":  # else the floor is compiled
            self._try("compiled_floor", lambda: floor.compiled(spec, ready, device))

    def _try(self, name: str, make: Callable[[], floor.Floor]) -> None:
        """A compiler that is missing or gives up costs a line, not the rest."""
        try:
            made = make()
            made.step()
        except Exception as error:
            self.say(f"{name} is left out: {type(error).__name__}: {str(error).splitlines()[0]}")
            return
        self.floors[name] = made

    @property
    def kinds(self) -> dict[str, Callable[[], object]]:
        return {"step": self.engine.step, **{k: f.step for k, f in self.floors.items()}}

    def report(self, times: dict[str, Timing], repeats: int) -> dict[str, Any]:
        """Everything about the spec, with the phases, which are timed apart."""
        spec, device = self.spec, self.device
        record = in_turns({"record": self.engine.record}, repeats, device, warm_up=1)["record"]
        phases = self._phases(min(repeats, 5)) | {"record": record.median_s}
        # a row of the curves is written every so many steps: each step bears its share
        step = times["step"].median_s + record.median_s / spec.log.every_steps
        batch, flops = spec.training.batch_size, work.flops_per_image(spec)
        peak = work.matrix_peak(device, spec.training.precision)
        floors = {f"{kind}_s": times[kind].median_s for kind in self.floors}
        over = {f"step_over_{kind}": step / times[kind].median_s for kind in self.floors}
        return {
            "name": spec.name,
            "method": spec.method.name,
            "backbone": spec.model.backbone,
            "image_size": spec.image_size,
            "batch": batch,
            "precision": spec.training.precision,
            "compile": spec.launch.compile,
            "recorded": self.engine.stepper.recorded.on,
            "passes": sum(work.passes(spec)),
            "device": describe(device),
            "step_s": step,
            **floors,
            **over,
            "phases_s": phases,
            "times": {kind: timing._asdict() for kind, timing in times.items()},
            "images_per_s": batch / step,
            "flops_per_image": flops,
            "flops_per_s": flops * batch / step,
            "matrix_peak_flops_per_s": peak,
            "share_of_peak": flops * batch / step / peak,
            "data_bound": self.engine.feed.data_bound(),
            "memory": self._memory(),
        }

    def _phases(self, repeats: int) -> dict[str, float]:
        found = [self.engine.phases() for _ in range(repeats)]
        return {phase: statistics.median(one[phase] for one in found) for phase in PHASES}

    def _memory(self) -> dict[str, float]:
        """Bytes: of a step and of its floor on a GPU; of the whole process on a CPU."""
        if self.device.type != "cuda":
            return {"process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        stepper, base = self.engine.stepper, self.floors["floor"]
        with stepper.recorded.launched(), base.recorded.launched():  # a recording keeps its memory
            step = _peak(self.engine.step, stepper.method, stepper.optimizer)
            least = _peak(base.step, base.encoder, base.optimizer)
        return {"step_bytes": step, "floor_bytes": least, "step_over_floor": step / least}


def _peak(run: Callable[[], None], module: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Bytes that a step needs on a GPU where others' weights lie too: its own, and what it adds."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    moments = [v for state in optimizer.state.values() for v in state.values()]
    own = [*module.parameters(), *module.buffers(), *moments]
    own += [p.grad for p in module.parameters() if p.grad is not None]
    held = sum(t.numel() * t.element_size() for t in own if isinstance(t, torch.Tensor))
    return held + torch.cuda.max_memory_allocated() - before


def describe(device: torch.device) -> dict[str, Any]:
    """What figures depend on: the device by name, threads, torch."""
    gpu = device.type == "cuda"
    return {
        "kind": device.type,
        "name": torch.cuda.get_device_name(device) if gpu else _processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def _processor() -> str:
    """The CPU's name, as Linux has it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
