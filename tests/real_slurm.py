"""A Slurm of one node, which is this machine: Debian's munged, slurmctld and slurmd as children of the tests, in a folder of their own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
LONGEST = 240.0
"""Seconds that anything here may take."""

# A job that goes back into the queue waits for the time that its credential lives, by default two minutes.
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=6
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES State=UP PriorityTier=10
PartitionName=first Nodes=ALL State=UP PriorityTier=20
PartitionName=grace Nodes=ALL State=UP PriorityTier=5 GraceTime=60
"""


def missing() -> list[str]:
    """What is not installed of it."""
    return [name for name in DAEMONS if _which(name) is None]


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """While the block runs there is a Slurm; yields its slurm.conf, which SLURM_CONF is to name."""
    host = socket.gethostname().partition(".")[0]
    user = pwd.getpwuid(os.geteuid()).pw_name
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, user=user, folder=folder, ports=_ports(), cpus=os.cpu_count()))
    own = [f"--{name}={folder / file}" for name, file in (
        ("key-file", "munge.key"), ("socket", "munge.sock"), ("pid-file", "munged.pid"),
        ("log-file", "munged.log"), ("seed-file", "munged.seed"),
    )]  # fmt: skip
    commands = (
        ["munged", "--foreground", "--force", *own],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    )
    env = {**os.environ, "SLURM_CONF": str(conf)}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as out:
                words = [_which(command[0]) or command[0], *command[1:]]
                daemons.append(subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=env))
            if command[0] == "munged":
                wait_until((folder / "munge.sock").exists, "munged")

        def idle() -> bool:
            if any(daemon.poll() is not None for daemon in daemons):
                said = "\n".join(file.read_text(errors="replace")[-2000:] for file in folder.glob("*.out"))
                raise AssertionError(f"a daemon ended:\n{said}")
            asked = subprocess.run(
                ["sinfo", "-h", "-p", "debug", "-o", "%T"],
                env=env,
                capture_output=True,
                text=True,
                check=False,
            )
            return asked.stdout.strip() == "idle"

        wait_until(idle, "an idle node")
        yield conf
        subprocess.run(["scancel", f"--user={user}"], env=env, check=False)
        wait_until(lambda: not _queue(env), "the end of all jobs")
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def _queue(env: dict[str, str]) -> str:
    return subprocess.run(["squeue", "-h"], env=env, capture_output=True, text=True, check=False).stdout


def _ports() -> list[int]:
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until(reached: Callable[[], object], what: str) -> None:
    """Look until something is so: a real scheduler decides in its own time."""
    until = time.monotonic() + LONGEST
    while not reached():
        assert time.monotonic() < until, f"{what}: not within {LONGEST:.0f} seconds"
        time.sleep(0.1)
