"""A real Slurm on the loopback address: controller, node daemon and commands in a folder, for tests alone."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = (
    "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "libmunge2", "libhwloc15", "liblua5.1-0",
)  # fmt: skip
_START_SECONDS = 60

# submitit asks sacct, which needs an accounting database; scontrol knows the same of jobs that are not long gone.
_SACCT = """#!{python}
import subprocess
listed = subprocess.run(["scontrol", "show", "job", "-o"], capture_output=True, text=True).stdout
print("JobID|State|NodeList")
for line in listed.splitlines():
    fields = dict(word.split("=", 1) for word in line.split() if "=" in word)
    if "JobId" not in fields:
        continue
    array = fields.get("ArrayJobId")
    name = f"{{array}}_{{fields['ArrayTaskId']}}" if array else fields["JobId"]
    node = fields.get("NodeList", "").replace("(null)", "None assigned")
    print(f"{{name}}|{{fields['JobState']}}|{{node}}")
"""

_CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
MinJobAge=7200
KillWait=5
InactiveLimit=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,sched_interval=1
{plugins}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


class MissingSlurmError(Exception):
    """There is no Slurm here, and none could be had; says why."""


def provide(folder: Path) -> Path | None:
    """The root under which Slurm lies: None where it is installed, otherwise unpacked from Debian's packages.

    Raises:
        MissingSlurmError: if it is neither here nor to be had.
    """
    if all(_program(name) for name in ("slurmctld", "slurmd", "sbatch", "scontrol")):
        return None
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise MissingSlurmError("Slurm is not installed, and there is no apt-get to fetch it")
    packages = folder / "packages"
    packages.mkdir(parents=True)
    fetched = subprocess.run(
        ["apt-get", "download", *PACKAGES], cwd=packages, capture_output=True, text=True, check=False
    )
    if fetched.returncode:
        raise MissingSlurmError(f"apt-get cannot fetch Slurm: {fetched.stderr.strip().splitlines()[-1]}")
    root = folder / "root"
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
    return root


@contextmanager
def cluster(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """The environment in which `sbatch` and its like talk to a cluster of one node, which ends with the block.

    Raises:
        MissingSlurmError: if there is no Slurm, or if it does not come up.
    """
    root = provide(folder)
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    environment = _environment(folder, root)
    (folder / "slurm.conf").write_text(
        _CONFIG.format(
            host=socket.gethostname().partition(".")[0],
            controller=_free_port(),
            daemon=_free_port(),
            user=_user(),
            folder=folder,
            cpus=cpus,
            plugins="" if root is None else f"PluginDir={_plugins(root)}",
        )
    )
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for name in ("slurmctld", "slurmd"):
            program = _program(name, environment["PATH"])
            with (folder / f"{name}.out").open("wb") as out:
                argv = [str(program), "-D", "-f", str(folder / "slurm.conf")]
                if name == "slurmd":
                    argv += ["-d", str(_program("slurmstepd", environment["PATH"]))]
                daemons.append(
                    subprocess.Popen(argv, env=environment, stdout=out, stderr=out, start_new_session=True)
                )
        _wait_until_idle(environment, folder, daemons)
        yield environment
    finally:
        if daemons:
            subprocess.run(["scancel", "--full", "-u", _user()], env=environment, capture_output=True, check=False)
            time.sleep(1)
        for daemon in reversed(daemons):
            with suppress(ProcessLookupError):
                daemon.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=20)
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)


def _environment(folder: Path, root: Path | None) -> dict[str, str]:
    sacct = folder / "bin" / "sacct"
    sacct.write_text(_SACCT.format(python=sys.executable))
    sacct.chmod(sacct.stat().st_mode | stat.S_IXUSR)
    folders = [str(folder / "bin"), os.environ["PATH"], "/usr/sbin"]
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    if root is not None:
        folders[1:1] = [str(root / "usr" / "bin"), str(root / "usr" / "sbin")]
        libraries = [root / "usr" / "lib" / "x86_64-linux-gnu", _plugins(root), root / "lib" / "x86_64-linux-gnu"]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))
    environment["PATH"] = os.pathsep.join(folders)
    return environment


def _plugins(root: Path) -> Path:
    [folder] = [path.parent for path in root.rglob("auth_none.so")]
    return folder


def _program(name: str, path: str | None = None) -> str | None:
    """A program; Debian's packages call the daemons `slurmd-wlm` and give them their names when installed."""
    path = path or os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    return shutil.which(name, path=path) or shutil.which(f"{name}-wlm", path=path)


def _user() -> str:
    import getpass

    return getpass.getuser()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_until_idle(environment: dict[str, str], folder: Path, daemons: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        for daemon in daemons:
            if daemon.poll() is not None:
                logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("slurm*.log"))
                outs = "\n".join(path.read_text()[-2000:] for path in folder.glob("slurm*.out"))
                raise MissingSlurmError(f"{daemon.args} has ended: {outs}{logs}")
        listing = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False
        )
        if listing.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    raise MissingSlurmError(f"the node does not become idle: {listing.stdout} {listing.stderr}")
