"""Starts commands in forks of one process that has imported torch and computed nothing, and kills some of them.

    python killing.py < jobs.json

A job is `{"arguments": [...], "kill": null | {"at": NAME, "count": N} | {"after_seconds": S}}`; jobs run one after
another, and the exit statuses are printed as a JSON list (−9 for one that was killed). `{"at": "file operation"}`
kills before the N-th operation that changes something below the working directory. The commands of `"recover"` run
after a kill, up to the first that succeeds; the status of the last is printed in place of −9 if none does.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import torch

import vae_exp.engine.checkpoint
import vae_exp.engine.checkpoint_manager
import vae_exp.runs.training
import vae_exp.storage.run_directory
import vae_exp.train

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(name: str, count: int) -> None:
    """Die at the `count`-th passing of a place in a save."""
    seen = 0

    def passed(place: str) -> bool:
        nonlocal seen
        seen += place == name
        return place == name and seen == count

    save, fsync, replace = torch.save, os.fsync, Path.replace

    def dying_save(state, file):
        if passed("half written"):
            save(state, file)
            file.truncate(file.tell() // 2)
            file.flush()
            die()
        save(state, file)

    def dying_fsync(number):
        if passed("before fsync"):
            die()
        fsync(number)

    def dying_replace(self, target):
        if str(target).endswith(".pt") and passed("before rename"):
            die()
        done = replace(self, target)
        if str(target).endswith(".pt") and passed("after rename"):
            die()
        return done

    torch.save, os.fsync, Path.replace = dying_save, dying_fsync, dying_replace


def die_at_file_operation(count: int) -> None:
    """Die before the `count`-th operation that changes the working directory or a file below it."""
    seen, root = 0, Path.cwd()
    fsync = os.fsync

    def passed() -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            die()

    def watch(event: str, arguments: tuple) -> None:
        if event not in CHANGES or not isinstance(arguments[0], str | Path):
            return
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not reads and Path(arguments[0]).absolute().is_relative_to(root):
            passed()

    def dying_fsync(number):
        passed()
        fsync(number)

    sys.addaudithook(watch)
    os.fsync = dying_fsync


def die_after(seconds: float) -> None:
    """Die so long after the first epoch's order has been drawn."""
    drawn = torch.randperm

    def started(*arguments, **keywords):
        torch.randperm = drawn
        threading.Timer(seconds, die).start()
        return drawn(*arguments, **keywords)

    torch.randperm = started


def run(job) -> int:
    child = os.fork()
    if child == 0:
        kill = job.get("kill") or {}
        if kill.get("at") == "file operation":
            die_at_file_operation(kill["count"])
        elif "at" in kill:
            die_at(kill["at"], kill["count"])
        elif kill:
            die_after(kill["after_seconds"])
        sys.argv = ["vae_exp.train", *job["arguments"]]
        try:
            vae_exp.train.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 70
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def recover(job) -> int:
    status = run(job)
    if status != -signal.SIGKILL or "recover" not in job:
        return status
    for arguments in job["recover"]:
        recovered = run({"arguments": arguments})
        if recovered == 0:
            return status
    return recovered


if __name__ == "__main__":
    print(json.dumps([recover(job) for job in json.load(sys.stdin)]), flush=True)
