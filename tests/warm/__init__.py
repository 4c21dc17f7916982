"""Commands and jobs of the tests start warm: each is a fork of a process that imported torch once.

Importing torch, its compiler and MLflow is two thirds of what a tiny job costs. The server here
imports those once, and nothing of the project: a fork imports `carectl` and `care_core` itself, in
a session, folder and environment of its own, and is to the outside what the started process would
have been. `sitecustomize.py` beside this file is what stands in its place meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What takes the time; names of other people's modules alone.
HEAVY = (
    "torch._dynamo", "torch.distributed", "torchvision.transforms.v2", "torchvision.models",
    "mlflow", "mlflow.store.tracking.sqlalchemy_store", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "sklearn.datasets", "submitit", "typer", "rich.table",
)  # fmt: skip


def serve(address: str) -> None:
    """Import, then fork a process for each stand-in that connects; return in such a fork alone."""
    for name in HEAVY:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:
            return  # the tests are over
        line, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            break
        line.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    asked, files = _received(line)
    if pid := os.fork():
        for file in files:
            os.close(file)
        _keep(line, pid)
    line.close()
    _be(files, *asked)


def _received(line: socket.socket) -> tuple[list[Any], list[int]]:
    """The stand-in's arguments, environment and folder; its standard files."""
    first, files, _, _ = socket.recv_fds(line, 32, 3)
    head, _, rest = first.partition(b"\n")
    while len(rest) < int(head):
        rest += line.recv(1 << 20)
    return json.loads(rest), files


def _keep(line: socket.socket, pid: int) -> None:
    """Pass signals to the fork and tell its end; the stand-in's end is the fork's, too."""
    ended = os.pidfd_open(pid)
    while True:
        ready, _, _ = select.select([line, ended], [], [])
        if ended in ready:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with contextlib.suppress(OSError):
                line.sendall(b"%d\n" % code)
            os._exit(0)
        numbers = line.recv(1024).split() or [signal.SIGKILL]
        for number in numbers:
            os.kill(pid, int(number))
        if numbers == [signal.SIGKILL]:
            os._exit(0)


def _be(files: list[int], arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be the process that was asked for, as far as it can see."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    at_once = arguments[0] == "-u" or "PYTHONUNBUFFERED" in environment
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    out = open(1, "wb", buffering=0 if at_once else -1, closefd=False)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(out, write_through=at_once)
    sys.stderr = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(arguments[1], main.__dict__)
    else:
        module = arguments.index("-m") + 1
        sys.argv = arguments[module:]
        runpy.run_module(arguments[module], run_name="__main__", alter_sys=True)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[dict[str, str]]:
    """Within, Python starts warm where it is given this environment."""
    address, here = folder / "warm", Path(__file__).parent
    before = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    with (
        (folder / "log").open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", "import sys; from warm import serve; serve(sys.argv[1])",
             str(address)],
            cwd=here.parent, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), *before])},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        ) as server,
    ):  # fmt: skip
        assert server.stdin and server.stdout
        assert server.stdout.readline() == "ready\n", (folder / "log").read_text()
        yield {"CARE_WARM": str(address), "PYTHONPATH": os.pathsep.join([str(here), *before])}
        server.stdin.close()
