"""`carectl ui`: MLflow's own interface on the store of the runs, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from carectl import redaction, tracking
from carectl.console import steps
from carectl.console.output import Output
from carectl.errors import ENVIRONMENT, CommandError

HOST = "127.0.0.1"  # nobody else's business: MLflow asks no password
START_S, STOP_S = 120.0, 5.0
_LOOK = "carectl doctor looks at it"


def serve(runs_dir: Path, port: int, output: Output) -> None:
    """Say where the interface is and keep it there until Ctrl-C; a server's own is only named.

    Raises:
        CommandError: nothing was tracked yet, the port is taken, or MLflow does not start.
    """
    address = tracking.uri(runs_dir.resolve().parent)
    if address.startswith("http"):
        output.result(f"MLflow: {redaction.address(address)}")
        output.next("open this address: it is MLFLOW_TRACKING_URI's own interface")
        return
    store = Path(address.removeprefix("sqlite:///"))
    if address.startswith("sqlite:///") and not store.exists():
        raise CommandError(
            f"{store} is not there: nothing was tracked yet; carectl pretrain digits/care-simclr "
            "would be the first"
        )
    _free(port)
    with tempfile.TemporaryFile("w+") as log:
        command, environment = tracking.interface(address, HOST, port)
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
        try:
            output.note("MLflow starts …")
            _await(server, port, log)
            output.result(f"MLflow: http://{HOST}:{port} (Ctrl-C ends it)")
            server.wait()
            raise CommandError(f"MLflow ended: {_last(log)}; {_LOOK}", ENVIRONMENT)
        except KeyboardInterrupt:
            output.note("")
            output.next(f"carectl status{steps.places(runs_dir)} lists the runs here")
        finally:
            _stop(server)


def _free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CommandError(
                f"--port {port}: {error.strerror}; give another, such as --port {port + 1}",
                ENVIRONMENT,
            ) from None


def _await(server: subprocess.Popen[bytes], port: int, log: IO[str]) -> None:
    deadline = time.monotonic() + START_S
    while server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=1).close()
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    raise CommandError(f"MLflow does not start: {_last(log)}; {_LOOK}", ENVIRONMENT)


def _last(log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server with its workers, which are a process group of their own."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)
