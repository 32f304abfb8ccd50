"""The server that `mixdpo.warm` starts: `python -m mixdpo.server NAME PARENT`.

Each job is a fork of its own, with one exception. A process takes seconds to initialise CUDA, and no fork inherits
that; so one that has done it waits for the next job of the same environment.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from threadpoolctl import threadpool_limits

from mixdpo import warm
from mixdpo.__main__ import main
from mixdpo.run.stages import STAGES

TAKEN = b"t"
LATE = (
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "mixdpo.provenance.record",
    "pandas.io.formats.csvs",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "spacy.pipeline.factories",
    "statsmodels.stats.multitest",
    "statsmodels.stats.proportion",
    "transformers.models.gpt2.tokenization_gpt2",
)
"""What jobs import where they need it, and not before."""


def serve(name: str, work: Callable[[], None], keep: Callable[[], bool]) -> None:
    """Fork for every call, without end. After a job, `keep()` tells whether its process waits for another."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a job tells its status itself, so nobody waits for the forks
    server = os.getpid()
    with listening(name) as listener:
        while True:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):  # no process or memory left: the job starts cold
                if warm.same_user(client) and os.fork() == 0:
                    try:
                        warm.die_with(server)
                        os.setsid()
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        listener.close()
                        run_jobs(client, f"{name}-cuda", work, keep)
                    finally:
                        os._exit(1)


def listening(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{name}")
    listener.listen()
    return listener


def run_jobs(client: socket.socket, name: str, work: Callable[[], None], keep: Callable[[], bool]) -> None:
    """What a fork does: one job; and while it is worth keeping, those of the same environment that ask for `name`."""
    call, files = warm.receive(client)
    while True:
        die_without(client)
        client.send(TAKEN)
        status = attend(call, files, work)
        waiting = None
        with contextlib.suppress(OSError):  # one that waits is enough
            waiting = listening(name) if status == 0 and keep() else None
        if waiting:
            fcntl.fcntl(client, fcntl.F_SETFL, 0)  # no longer die with this client
        client.send(bytes([status]))
        client.close()
        if not waiting:
            return
        release()
        with waiting:
            client, call, files = next_call(waiting, call["environ"])


def die_without(client: socket.socket) -> None:
    """Have the kernel kill this process, and the children in its group, when the client's end closes."""
    fcntl.fcntl(client, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(client, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(client, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([client], [], [], 0)[0]:
        os._exit(1)  # it closed before


def release() -> None:
    """Let go of what a job leaves behind: its files, its memory here and on the device, and its peak of memory."""
    with open(os.devnull, "r+b", buffering=0) as null:
        for number in range(3):
            os.dup2(null.fileno(), number)
    gc.unfreeze()
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()
    Path("/proc/self/clear_refs").write_text("5")


def next_call(listener: socket.socket, environ: dict[str, str]) -> tuple[socket.socket, dict, list[int]]:
    while True:
        client, _ = listener.accept()
        with contextlib.suppress(OSError, ValueError, struct.error):  # the client died while it sent
            call, files = warm.receive(client)
            if call["environ"] == environ and warm.same_user(client):
                return client, call, files
            for file in files:
                os.close(file)
        client.close()


def attend(call: dict, files: list[int], work: Callable[[], None]) -> int:
    """Do a job in the place of the process that was called for it, and return the status that it exits with."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(call["cwd"])
    os.environ.clear()
    os.environ.update(call["environ"] | {"PYTHONHASHSEED": "0"})
    sys.argv = call["argv"]
    threads, _, _ = os.environ.get("OMP_NUM_THREADS", "1").partition(",")  # further numbers are for nested threads
    threadpool_limits(int(threads) if threads.isdigit() else 1)
    status = outcome(work)
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
    return status


def outcome(work: Callable[[], None]) -> int:
    """Call `work`, print how it fails as Python does, and return the status that Python exits with."""
    try:
        work()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 0xFF
        print(stop.code, file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001
        traceback.print_exception(error.with_traceback(error.__traceback__.tb_next))
        return 1
    return 0


def imported() -> Callable[[], bool]:
    """Import what jobs need, on one thread; returns a function that tells whether this process has initialised CUDA."""
    gc.disable()
    import torch

    torch.set_num_threads(1)
    for module in (*STAGES.values(), *LATE):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    return torch.cuda.is_initialized


if __name__ == "__main__":
    warm.die_with(int(sys.argv[2]))
    serve(sys.argv[1], main, keep=imported())
