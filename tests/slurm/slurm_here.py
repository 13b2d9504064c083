"""Debian's SLURM on this machine: a controller and two nodes with two pretended GPUs each, without systemd.

Everything lives in one folder except two links in /etc/slurm, since `srun` inside a job looks nowhere else.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ETC = Path("/etc/slurm")
NODES = ("node1", "node2")
GPUS_PER_NODE = 2
CONTROLLER_PORT, DATABASE_PORT, ACCOUNTING_PORT = 16817, 13306, 16819
ACCOUNT = "test"
REQUEUE_S = 15  # how long SLURM lets a requeued job wait
PROGRAMS = ("slurmctld", "slurmd", "munged", "sinfo", "sbatch", "srun")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mysql_install_db", "sacctmgr")

_CONF = """\
ClusterName=fixture
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={requeue_s}
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
ReturnToService=1
SlurmdParameters=config_overrides
SlurmdTimeout=300
MinJobAge=300
KillWait=30
InactiveLimit=0
Waittime=0
GresTypes=gpu
NodeName={nodes} NodeHostname=localhost Port=[17001-17002] CPUs=2 RealMemory=64000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU=200 OverSubscribe=NO State=UP
PartitionName=gpu Nodes=ALL Default=NO MaxTime=INFINITE DefMemPerCPU=200 OverSubscribe=NO State=UP
"""
_NO_ACCOUNTING = """\
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
"""
_ACCOUNTING = """\
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu
"""
_DATABASE_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdPort={port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
"""
_DATABASE = """\
CREATE DATABASE slurm_acct;
CREATE USER 'slurm'@'localhost' IDENTIFIED BY 'slurm';
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct.* TO 'slurm'@'localhost';
GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';
FLUSH PRIVILEGES;
"""


@dataclass(frozen=True)
class ClusterJob:
    """A job as `scontrol show job` tells it."""

    id: int
    state: str
    rule: str
    node: str
    mem_mb: int
    minutes: int
    facts: dict[str, str]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60, pause: float = 0.2) -> Any:
    """Polls until `condition` gives something true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds:g} s")


def command(*words: str, seconds: float = 60, ok: bool = True) -> str:
    """Runs a command and returns what it printed; never waits for ever, as SLURM's clients may."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    output = done.stdout + done.stderr
    assert not ok or done.returncode == 0, f"{' '.join(words)}: {output[-2000:]}"
    return output


def missing_programs(accounting: bool) -> list[str]:
    wanted = (*PROGRAMS, *ACCOUNTING_PROGRAMS) if accounting else PROGRAMS
    return [name for name in wanted if shutil.which(name) is None]


class Slurm:
    """A cluster that is started and stopped as a whole.

    Args:
        folder: An empty folder for configuration, state and logs.
        accounting: Also start mariadb and slurmdbd, and make an account.
    """

    def __init__(self, folder: Path, *, accounting: bool = False) -> None:
        self.folder = folder
        self.accounting = accounting
        self._forgotten = 0

    @property
    def site(self) -> dict[str, Any]:
        """What a profile must say on this cluster."""
        return {"default-resources": {"slurm_account": ACCOUNT}} if self.accounting else {}

    # --- starting and stopping -----------------------------------------------------------------------
    def start(self) -> None:
        self._claim_etc()
        for name in ("state", "munge", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self._write_configuration()
        self._start_munge()
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.node_states() == dict.fromkeys(NODES, "IDLE"), "both nodes idle")

    def stop(self) -> None:
        """Ends every job and daemon of this cluster and gives /etc/slurm back."""
        if self._running("slurmctld"):
            command("scancel", "--user", "root", ok=False)
            for node in NODES:  # a killed job's daemons end with the node's
                command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=end", ok=False)
        for name in ("slurmctld", *(f"slurmd.{node}" for node in NODES), "slurmdbd", "mariadb", "munge/munged"):
            self.end(name)
        for process in psutil.process_iter(["name", "cmdline"]):
            words = process.info["cmdline"] or []
            if process.info["name"] == "slurmstepd" and any(str(self.folder) in word for word in words):
                process.kill()
        for name in ("slurm.conf", "gres.conf", "slurmdbd.conf"):
            link = ETC / name
            if link.is_symlink() and link.readlink().parent == self.folder:
                link.unlink()

    def end(self, name: str, how: int = signal.SIGTERM) -> None:
        """Ends the daemon whose process id stands in `<name>.pid`."""
        process = self._running(name)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(20)
        except psutil.TimeoutExpired:
            process.kill()

    def _running(self, name: str) -> psutil.Process | None:
        try:
            return psutil.Process(int((self.folder / f"{name}.pid").read_text()))
        except (OSError, ValueError, psutil.NoSuchProcess):
            return None

    def _claim_etc(self) -> None:
        ETC.mkdir(exist_ok=True)
        for name in ("slurm.conf", "gres.conf", "slurmdbd.conf"):
            link = ETC / name
            if link.is_symlink() and (not link.exists() or (link.resolve().parent / "of-a-test").exists()):
                Slurm(link.readlink().parent).stop()  # left by a test that was killed
                link.unlink(missing_ok=True)
            assert not link.exists(), f"{link} exists: these tests want a machine without a SLURM of its own"
        (self.folder / "of-a-test").touch()

    def _write_configuration(self) -> None:
        conf = _CONF.format(
            folder=self.folder,
            controller_port=CONTROLLER_PORT,
            nodes=",".join(NODES),
            gpus=GPUS_PER_NODE,
            requeue_s=REQUEUE_S,
        )
        conf += _ACCOUNTING.format(port=ACCOUNTING_PORT, folder=self.folder) if self.accounting else _NO_ACCOUNTING
        (self.folder / "slurm.conf").write_text(conf)
        lines = []
        for position, node in enumerate(NODES):
            first = position * GPUS_PER_NODE
            for number in range(first, first + GPUS_PER_NODE):  # SLURM wants character devices with a number
                os.mknod(self.folder / f"fakegpu{number}", 0o20666, os.makedev(1, 3))
            lines.append(f"NodeName={node} Name=gpu File={self.folder}/fakegpu[{first}-{first + GPUS_PER_NODE - 1}]\n")
        (self.folder / "gres.conf").write_text("".join(lines))
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).symlink_to(self.folder / name)

    def _start_munge(self) -> None:
        key = self.folder / "munge/key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        self.start_munge()

    def start_munge(self) -> None:
        folder = self.folder / "munge"
        command(
            "munged",
            "--force",  # pytest's folders may be group-readable
            f"--key-file={folder}/key",
            f"--socket={folder}/socket",
            f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munged.seed",
        )

    def start_controller(self) -> None:
        command("slurmctld", "-f", str(self.folder / "slurm.conf"))
        wait_until(lambda: "is UP" in command("scontrol", "ping", ok=False), "the controller")

    def start_node(self, node: str) -> None:
        command("slurmd", "-N", node, "-f", str(self.folder / "slurm.conf"))

    def _start_accounting(self) -> None:
        data, socket = self.folder / "mariadb", self.folder / "mariadb.socket"
        command("mysql_install_db", "--no-defaults", "--user=root", f"--datadir={data}", seconds=120)
        with open(self.folder / "mariadb.log", "w") as log:
            subprocess.Popen(
                [
                    "mariadbd",
                    "--no-defaults",
                    "--user=root",
                    f"--datadir={data}",
                    f"--socket={socket}",
                    f"--pid-file={self.folder}/mariadb.pid",
                    f"--port={DATABASE_PORT}",
                    "--bind-address=127.0.0.1",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ask = ["mariadb", "--no-defaults", f"--socket={socket}", "--user=root"]
        wait_until(lambda: "1" in command(*ask, "-e", "SELECT 1", ok=False) and socket.exists(), "the database")
        command(*ask, "-e", _DATABASE)
        conf = self.folder / "slurmdbd.conf"
        conf.write_text(_DATABASE_CONF.format(folder=self.folder, port=ACCOUNTING_PORT, database_port=DATABASE_PORT))
        conf.chmod(0o600)
        (ETC / conf.name).symlink_to(conf)
        command("slurmdbd")
        wait_until(lambda: "Adding" in command("sacctmgr", "-i", "add", "cluster", "fixture", ok=False), "slurmdbd")
        command("sacctmgr", "-i", "add", "account", ACCOUNT)
        command("sacctmgr", "-i", "add", "user", "root", f"account={ACCOUNT}")

    # --- looking and meddling ------------------------------------------------------------------------
    def node_states(self) -> dict[str, str]:
        """Returns each node's state, without the flags."""
        lines = command("sinfo", "-N", "-h", "-o", "%N %T", ok=False).splitlines()
        pairs = [line.split() for line in lines]
        return {pair[0]: pair[1].rstrip("*").upper() for pair in pairs if len(pair) == 2}

    def jobs(self) -> list[ClusterJob]:
        """Returns every job since `forget_jobs`, in the order of submission."""
        found = []
        for line in command("scontrol", "show", "jobs", "--oneliner", ok=False).splitlines():
            facts = dict(re.findall(r"(\S+?)=(.*?)(?= \S+?=|$)", line))
            if int(facts.get("JobId", 0)) <= self._forgotten:
                continue
            rule = re.match(r"rule_(\w+?)(_wildcards_.*)?$", facts.get("Comment", "").strip())
            found.append(
                ClusterJob(
                    id=int(facts["JobId"]),
                    state=facts["JobState"],
                    rule=rule[1] if rule else "",
                    node=facts.get("NodeList", ""),
                    mem_mb=_megabytes(facts.get("MinMemoryNode", "0")),
                    minutes=_minutes(facts.get("TimeLimit", "0")),
                    facts=facts,
                )
            )
        return sorted(found, key=lambda job: job.id)

    def forget_jobs(self) -> None:
        """Leaves the jobs up to now out of `jobs`: the controller remembers them for minutes."""
        self._forgotten = max((job.id for job in self.jobs()), default=self._forgotten)

    def cancel_all(self) -> None:
        """Cancels whatever is left and waits until it has ended."""
        command("scancel", "--user", "root", ok=False)
        over = ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL")
        wait_until(lambda: all(job.state in over for job in self.jobs()), "all jobs have ended", 90)

    def jobs_of(self, rule: str, *states: str) -> list[ClusterJob]:
        """Returns the jobs of a rule, in the order of submission, in any of the states."""
        return [job for job in self.jobs() if job.rule == rule and (not states or job.state in states)]

    def running(self, rule: str) -> ClusterJob:
        """Waits until a job of the rule runs and returns it."""
        return wait_until(lambda: self.jobs_of(rule, "RUNNING"), f"a job of {rule} runs", 180)[0]


def _megabytes(text: str) -> int:
    match = re.fullmatch(r"([0-9.]+)([KMGT]?)", text)
    return round(float(match[1]) * {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}[match[2]]) if match else 0


def _minutes(text: str) -> int:
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    return (int(match[1] or 0) * 24 + int(match[2])) * 60 + int(match[3]) if match else 0
