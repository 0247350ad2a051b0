"""Whether the kernel has ended a process for want of memory."""

from pathlib import Path

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_KERNEL = Path("/proc/vmstat")


def memory_kills() -> int:
    """How many processes the kernel has ended for want of memory, of this control group or of the machine."""
    return _count(_own_group() / "memory.events") or _count(_KERNEL)


def _own_group() -> Path:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return _CONTROL_GROUPS
    relative = next((line.rpartition(":")[2] for line in lines if line.startswith("0:")), "/")
    return _CONTROL_GROUPS / relative.lstrip("/")


def _count(path: Path) -> int:
    """The line `oom_kill N` of a file; 0 without one."""
    try:
        pairs = dict(line.split(maxsplit=1) for line in path.read_text().splitlines() if " " in line)
        return int(pairs.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
