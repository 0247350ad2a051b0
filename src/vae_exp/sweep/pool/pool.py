"""A pool of slots: each job runs in a fresh process, and its failure does not affect the others."""

import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait

from vae_exp.engine.shutdown import GracefulShutdown
from vae_exp.engine.thread_variables import POOL_VARIABLE, VARIABLES
from vae_exp.errors import UserError
from vae_exp.sweep.job_records import last_metrics
from vae_exp.sweep.pool.display import PoolDisplay
from vae_exp.sweep.pool.job import (
    Job,
    JobGroup,
    JobOutcome,
    RunningJobs,
    epochs_trained,
    finalize_job,
)
from vae_exp.sweep.pool.slots import Slot
from vae_exp.sweep.pool.worker import JobTask, WorkerTask, worker_main

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_PRELOADED = [  # once for all jobs: with the first comes torch, the others are what a first step would import
    "vae_exp.sweep.run_job",
    "vae_exp.runs.training",
    "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
]
_THREADS = (*VARIABLES, "OPENBLAS_NUM_THREADS", POOL_VARIABLE)


class Pool:
    """Runs jobs on the slots of a node.

    The processes are forked from one that has imported torch and nothing more, so that a job pays no import: an
    import starts neither CUDA nor, with the thread counts set here, threads that wait for work, and what is
    forked afterwards is whole. Each process has a session of its own, and none is used twice.

    Args:
        slots: Where jobs may run.
        compose: Sets the directory and the epochs of a job that is about to start, and returns what its process
            needs, pickled; None for a job that is finished.
        grace_seconds: How long a job may take to end in order when the sweep is stopped.
        display: Shows the progress of the sweep.
        share_gpus: A block around all jobs, which gives the slots their environment.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        compose: Callable[[Job], bytes | None],
        grace_seconds: float,
        display: PoolDisplay,
        share_gpus: Callable[[Sequence[Slot]], AbstractContextManager[Sequence[Slot]]] = nullcontext,
    ) -> None:
        self._slots = slots
        self._share_gpus = share_gpus
        self._compose = compose
        self._grace_seconds = grace_seconds
        self._display = display
        self._running: list[RunningJobs] = []
        self._out_of_memory: deque[JobGroup] = deque()  # each is run once more, without neighbours
        self._halves: deque[JobGroup] = deque()  # of stacks that ran out of memory
        self._exhausted = False
        self._stopping = False
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)

    def run(self, groups: Iterable[JobGroup], on_end: Callable[[Job], None] = lambda job: None) -> None:
        """Run jobs, and set their outcomes.

        Args:
            groups: Each is taken when a slot is free.
            on_end: Called with every job that has ended.

        Raises:
            SystemExit: with 130 or 143 on Ctrl-C or SIGTERM, once every job has ended.
        """
        self._groups, self._on_end = iter(groups), on_end
        with (
            GracefulShutdown(second_signal_kills=False) as stop,
            self._share_gpus(self._slots) as self._slots,
            self._display,
            _thread_variables(self._slots[0].threads),
        ):
            _start_forkserver()
            try:
                while not stop.count and (self._fill_slots(stop) or self._running):
                    self._collect(stop)
            finally:
                if self._running:  # the sweep is stopped, or something has gone wrong here
                    self._stop(stop)
            if stop.signal_number is not None:
                raise SystemExit(128 + stop.signal_number)

    def _fill_slots(self, stop: GracefulShutdown) -> bool:
        """Fill the free slots; whether there may be more to start."""
        while self._out_of_memory and not stop.count and (slot := self._slot_on_idle_gpu()):
            self._start(self._out_of_memory.popleft(), slot)
        while (self._halves or not self._exhausted) and not stop.count and (slot := self._free_slot()):
            group = self._halves.popleft() if self._halves else next(self._groups, None)
            if group is None:
                self._exhausted = True
            else:
                self._start(group, slot)
        return bool(self._out_of_memory or self._halves) or not self._exhausted

    def _free_slot(self) -> Slot | None:
        """A slot without a job, on a GPU (or on the cores) that no repeated job has to itself."""
        busy = {running.slot for running in self._running}
        exclusive = {running.slot.gpu for running in self._running if running.is_exclusive}
        return next((slot for slot in self._slots if slot not in busy and slot.gpu not in exclusive), None)

    def _slot_on_idle_gpu(self) -> Slot | None:
        busy = {running.slot.gpu for running in self._running}
        return next((slot for slot in self._slots if slot.gpu not in busy), None)

    def _start(self, group: JobGroup, slot: Slot) -> None:
        tasks: list[JobTask] = []
        jobs = []
        for job in group.jobs:
            payload = self._payload(job)
            if payload is not None:
                jobs.append(job)
            else:
                self._ended(job)
            if job.directory is not None:
                tasks.append(JobTask(payload, job.directory.output, epochs_trained(job), job.optimizer))
        if jobs:
            self._fork(group, jobs, tasks, slot)

    def _payload(self, job: Job) -> bytes | None:
        """What the process of a job needs; None, and the job has its outcome, where it needs no process."""
        try:
            payload = self._compose(job)
            assert job.directory is not None
            if payload is None:
                job.outcome, job.status = JobOutcome.SKIPPED, "completed"
            elif job.directory.is_locked():
                job.outcome, job.status = JobOutcome.RUNNING_ELSEWHERE, "running"
            else:
                job.directory.path.mkdir(parents=True, exist_ok=True)
                return payload
        except Exception as error:  # that job alone fails
            job.reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            job.outcome, job.status = JobOutcome.FAILED, "failed"
            _log.debug("Job %d could not be started.", job.number, exc_info=True)
        return None

    def _fork(self, group: JobGroup, jobs: list[Job], tasks: list[JobTask], slot: Slot) -> None:
        environment = dict.fromkeys(_THREADS, str(slot.threads))
        environment |= {} if slot.gpu is None else {"CUDA_VISIBLE_DEVICES": slot.gpu}
        environment |= slot.environment
        task = WorkerTask(tasks, group.largest, environment, slot.threads, self._grace_seconds)
        launcher_end, worker_end = self._context.Pipe(duplex=False)
        process = self._context.Process(target=worker_main, args=(task, worker_end))
        start, started_at = time.monotonic(), time.time()
        process.start()
        worker_end.close()
        self._running.append(RunningJobs(group, jobs, slot, process, launcher_end, start, started_at))
        self._display.started(jobs, slot)

    def _ended(self, job: Job) -> None:
        self._display.ended(job)
        self._on_end(job)

    def _collect(self, stop: GracefulShutdown) -> None:
        """Wait a moment for jobs to end."""
        if not self._running:
            return
        wait([running.process.sentinel for running in self._running], timeout=0 if stop.count else _POLL_SECONDS)
        for running in self._running:
            running.receive_results()  # a worker waits until a long message is read
        for running in [running for running in self._running if not running.process.is_alive()]:
            self._running.remove(running)
            self._finish(running)
        for running in self._running:
            for job in running.jobs:
                job.seconds = running.seconds_per_job
            first = running.jobs[0]  # of a stack the one that is shown
            if self._display.is_live and first.directory is not None:
                first.metrics = last_metrics(first.directory) or first.metrics
        self._display.refresh()

    def _finish(self, running: RunningJobs) -> None:
        """Record how jobs ended.

        Those that ran out of memory are repeated: a stack as two halves, one after the other; a single job with a
        GPU, or all cores, to itself.
        """
        process = running.process
        process.join()
        results, code = running.receive_results(), process.exitcode or 0
        running.results.close()
        process.close()
        exhausted = []
        for job, result in zip(running.jobs, results, strict=True):
            job.seconds = running.seconds_per_job
            finalize_job(job, code, result, running.started_at, stopping=self._stopping)
            if result is not None and result.out_of_memory and self._can_repeat(running):
                job.outcome, job.reason = None, ""
                exhausted.append(job)
            else:
                self._ended(job)
        if len(exhausted) > 1:
            self._display.halved(len(exhausted))
            self._halves.extend(JobGroup(exhausted, running.group.largest).halves())
        elif exhausted:
            exhausted[0].retried = True
            self._display.requeued(exhausted[0])
            self._out_of_memory.append(JobGroup(exhausted))

    def _can_repeat(self, running: RunningJobs) -> bool:
        return len(running.jobs) > 1 or (not running.is_exclusive and self._shares_its_gpu(running.slot))

    def _shares_its_gpu(self, slot: Slot) -> bool:
        return sum(other.gpu == slot.gpu for other in self._slots) > 1

    def _stop(self, stop: GracefulShutdown) -> None:
        """Ask all jobs to end, and wait; a second request, or too long a wait, ends them by force."""
        self._stopping = True
        self._display.stopping(sum(len(running.jobs) for running in self._running))
        for running in self._running:
            if running.process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(running.process.pid, stop.signal_number or signal.SIGTERM)
        until = time.monotonic() + self._grace_seconds
        while self._running and stop.count < 2 and time.monotonic() < until:
            time.sleep(0.05)
            self._collect(stop)
        self._kill()

    def _kill(self) -> None:
        """End every job that is left, with all that it has started."""
        for running in self._running:
            if running.process.pid is not None:
                try:
                    os.killpg(running.process.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):  # it has no session of its own yet
                    running.process.kill()
        for running in list(self._running):
            self._running.remove(running)
            self._finish(running)


def _start_forkserver() -> None:
    """Start the process from which jobs are forked; Ctrl-C is not for it."""
    resource_tracker.ensure_running()  # which unblocks signals
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextmanager
def _thread_variables(count: int) -> Iterator[None]:
    """A block whose processes are started with so many threads, however they compute."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
