"""A real SLURM for tests: controller, nodes and pretend GPUs on this machine, in a temp folder."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Debian keeps the daemons where a plain user's PATH does not look.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "setpriv")
# What a surrounding job or a person's shell would tell the SLURM commands.
FOREIGN = ("SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SCANCEL_", "SALLOC_")
COLUMNS = {
    "id": "JobArrayID", "number": "JobID", "array": "ArrayJobID", "index": "ArrayTaskID",
    "state": "State", "reason": "Reason", "partition": "Partition", "nodes": "NodeList",
    "restarts": "RestartCnt", "name": "Name",
}  # fmt: skip

CONF = """\
ClusterName=care
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,default_queue_depth=1000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.log
JobRequeue=1
MinJobAge=3600
KillWait=2
OverTimeLimit=0
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=30
ReturnToService=2
SlurmdParameters=config_overrides
"""


class ClusterError(RuntimeError):
    """The cluster did not do what it should; the message ends with its logs."""


def missing() -> str:
    """Why no cluster can run here; empty when one can."""
    absent = [name for name in NEEDED if shutil.which(name, path=SEARCH) is None]
    if absent:
        return f"{', '.join(absent)} not found"
    if os.geteuid() != 0:
        return "not root"
    try:
        pwd.getpwnam("munge")
    except KeyError:
        return "no user munge"
    return ""


def foreign(environment: dict[str, str]) -> list[str]:
    """The variables that would make SLURM's commands behave otherwise than the tests expect."""
    return [name for name in environment if name.startswith(FOREIGN)]


class Cluster:
    """SLURM on this machine: partitions `debug` (default) and `urgent`, which preempts it."""

    def __init__(self) -> None:
        self.env: dict[str, str] = {}
        self.folder = Path()
        self.nodes: list[str] = []
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, nodes: int = 1, gpus: int = 2, cpus: int = 8, grace: int = 0, extra: str = ""
    ) -> None:
        """Begin, and wait until all nodes are idle; `extra` are more lines for slurm.conf.

        With a `grace` above 0 a preempted job that ends on SIGTERM is over and not requeued, and
        SLURM may let ten more seconds pass than it says.
        """
        if self._daemons:
            raise ClusterError("the cluster runs already")
        # Not $TMPDIR: user munge must get there, and the path of a socket must stay short.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        # Addresses of the loopback as names: each resolves on any machine, as a rendezvous needs.
        self.nodes = [f"127.0.0.{i + 1}" for i in range(nodes)]
        self.env = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{SEARCH}",
        }
        try:
            self._write(gpus, cpus, grace, extra)
            self._start_munge()
            self.start_controller()
            for node in self.nodes:
                self._spawn(f"slurmd-{node}", "slurmd", "-D", "-N", node)
            self.wait_idle()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process of the cluster and of its jobs, and remove its folder."""
        if not self.env:
            return
        deadline = time.monotonic() + 20
        while True:
            for daemon in self._daemons.values():
                daemon.kill()
                daemon.wait()
            left = self.processes()
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            if time.monotonic() > deadline:
                raise ClusterError(f"processes {sorted(left)} do not end")
            time.sleep(0.05)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._daemons, self.env = {}, {}

    def restart_controller(self) -> None:
        """Stop slurmctld as an administrator would, and start it from its saved state."""
        self.stop_controller()
        self.start_controller()
        self._until(self._all_respond, "nodes that respond")

    def stop_controller(self) -> None:
        """Leave the cluster without slurmctld; its jobs run on."""
        controller = self._daemons["slurmctld"]
        controller.terminate()
        try:
            controller.wait(20)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"slurmctld does not end\n{self.logs()}") from None

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        self._spawn("slurmctld", "slurmctld", "-D")
        self._until(lambda: "is UP" in self._ask("scontrol", "ping"), "a controller that answers")

    def reset(self) -> None:
        """What a test left is gone: jobs, a stopped controller."""
        if self._daemons["slurmctld"].poll() is not None:
            self.start_controller()
        if self._ask("squeue", "-h"):
            # SIGTERM alone leaves a job that ignores it five seconds, whatever KillWait says.
            self.run("scancel", "--full", "--signal=KILL", "--user=root", check=False)
            self.run("scancel", "--user=root", check=False)
        self._until(lambda: not self._ask("squeue", "-h"), "an empty queue")
        self.wait_idle()

    def run(
        self, *command: str, check: bool = True, cwd: Path | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """A command in the cluster's environment, to its end; with `check` it must succeed."""
        done = subprocess.run(
            command, env=self.environment(), cwd=cwd, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        if check and done.returncode:
            shown = " ".join(command)
            raise ClusterError(f"{shown}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def environment(self) -> dict[str, str]:
        """This process's environment, less what belongs to another SLURM."""
        own = dict(os.environ)
        for name in foreign(own):
            del own[name]
        return {**own, **self.env}

    def squeue(self) -> list[dict[str, str]]:
        """All jobs, finished ones and each element of an array included; see COLUMNS."""
        shown = ",".join(f"{column}:|" for column in COLUMNS.values())
        text = self.run("squeue", "-r", "-t", "all", "-h", "-O", shown).stdout
        # The name comes last: it alone may hold the separator.
        rows = [line.removesuffix("|").split("|", len(COLUMNS) - 1) for line in text.splitlines()]
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]

    def job(self, job: str) -> dict[str, str]:
        """One job, by its id (`12`, or `12_3` in an array)."""
        found = [row for row in self.squeue() if row["id"] == job]
        if not found:
            raise ClusterError(f"no job {job}")
        return found[0]

    def wait(self, job: str, *states: str, seconds: float = 30) -> dict[str, str]:
        """Look until the job is in one of the states; fail loudly when it never is."""
        deadline = time.monotonic() + seconds
        while (row := self.job(job))["state"] not in states:
            if time.monotonic() > deadline:
                raise ClusterError(f"job {job} is not {' or '.join(states)}: {row}\n{self.logs()}")
            time.sleep(0.1)
        return row

    def wait_idle(self) -> None:
        """Look until every node is idle."""
        self._until(
            lambda: self._states() == ["idle"] * len(self.nodes), f"{len(self.nodes)} idle node(s)"
        )

    def processes(self) -> set[int]:
        """All processes of the cluster, of its jobs, and of what was started in its environment."""
        mark = b"SLURM_CONF=" + bytes(self.folder / "slurm.conf")
        inside = f"{self.folder}/"
        found, children = set(), dict[int, list[int]]()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                if state in "ZX":
                    continue
                children.setdefault(int(parent), []).append(int(entry.name))
                # slurmstepd writes its title over its environment, but keeps the log open.
                if mark in (entry / "environ").read_bytes().split(b"\0") or any(
                    str(fd.readlink()).startswith(inside) for fd in (entry / "fd").iterdir()
                ):
                    found.add(int(entry.name))
            except OSError:
                continue  # it ended meanwhile
        new = set(found)
        while new := {child for pid in new for child in children.get(pid, [])} - found:
            found |= new
        return found

    def logs(self, lines: int = 25) -> str:
        """The last lines of every log."""
        tails = []
        for path in sorted((self.folder / "log").glob("*")):
            text = path.read_text(errors="replace").splitlines()[-lines:]
            tails.append("\n".join([f"--- {path.name}", *text]))
        return "\n".join(tails)

    def _write(self, gpus: int, cpus: int, grace: int, extra: str) -> None:
        """The folder: settings, a key of its own, and what the GPUs claim to be."""
        self.folder.chmod(0o755)
        for name in ("state", "spool", "log", "run", "munge", "gpus"):
            (self.folder / name).mkdir(mode=0o755)
        (self.folder / "plugstack.conf").touch()
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        for path in (key, key.parent):
            shutil.chown(path, "munge", "munge")
        # SLURM wants device files and takes their numbers from the end of the name.
        for number in range(gpus):
            (self.folder / "gpus" / f"gpu{number}").symlink_to("/dev/null")
        host, ports = socket.gethostname().split(".")[0], _free_ports(1 + len(self.nodes))
        conf = [CONF.format(folder=self.folder, host=host, ports=ports), extra.strip()]
        gres = []
        for node, port in zip(self.nodes, ports[1:], strict=True):
            has = f" Gres=gpu:{gpus}" if gpus else ""
            conf.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
                f" CPUs={cpus} RealMemory=8000{has} State=UNKNOWN"
            )
            gres += [
                f"NodeName={node} Name=gpu File={self.folder}/gpus/gpu{number}"
                for number in range(gpus)
            ]
        partition = "Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO"
        conf += [
            f"PartitionName=debug {partition} Default=YES PriorityTier=1 GraceTime={grace}",
            f"PartitionName=urgent {partition} PriorityTier=10",
        ]
        (self.folder / "slurm.conf").write_text("\n".join(conf) + "\n")
        (self.folder / "gres.conf").write_text("\n".join(gres) + "\n")

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        files = {"key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        self._spawn(
            "munged", "munged", "--foreground", f"--socket={munge}/socket",
            *(f"--{option}={munge}/{name}" for option, name in files.items()),
            user="munge",
        )  # fmt: skip
        self._until((munge / "socket").exists, "munged's socket")

    def _spawn(self, name: str, program: str, *arguments: str, user: str = "") -> None:
        """A daemon in the foreground, which the kernel ends when this process is killed."""
        path = shutil.which(program, path=SEARCH)
        change = ["--reuid", user, "--regid", user, "--clear-groups"] if user else []
        command = ["setpriv", *change, "--pdeathsig", "KILL", "--", str(path), *arguments]
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment(), cwd=self.folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _ask(self, *command: str) -> str:
        """What a command printed; empty while nobody answers it."""
        try:
            return self.run(*command, check=False, seconds=10).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    def _all_respond(self) -> bool:
        """A restarted controller takes jobs at once, but its nodes are unknown for seconds."""
        states = self._states()
        return len(states) == len(self.nodes) and not any("unk" in s or "*" in s for s in states)

    def _states(self) -> list[str]:
        """The state of each node; a star marks one that does not respond."""
        return self._ask("sinfo", "-h", "-N", "-p", "debug", "-o", "%T").split()

    def _until(self, what: Callable[[], bool], name: str, seconds: float = 30) -> None:
        """Look until it is so; a daemon that has ended or the deadline is an error with logs."""
        deadline = time.monotonic() + seconds
        while not what():
            ended = [n for n, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                why = f"{', '.join(ended)} ended" if ended else f"none in {seconds:.0f} s"
                raise ClusterError(f"waited for {name}: {why}\n{self.logs()}")
            time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on, below those that the kernel or a rendezvous hands out."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(10_000, 20_000), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ClusterError("no free ports")
