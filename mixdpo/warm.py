"""Jobs that start warm: a server that has imported what they need forks itself for each. Linux only.

Snakemake starts the server and leaves its name in `MIXDPO_WARM`. A job that finds this name sends its command line,
folder and environment to the server and waits; if no server accepts, it does the work itself. The work dies with the
job, and with the server, which dies with Snakemake.
"""

import ctypes
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise

VARIABLE = "MIXDPO_WARM"
"""The name of a server, a space, and the place where it was started."""
SETTINGS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "PYTHONHASHSEED": "0",
}
"""The environment of the server: no threads and no call of CUDA before a fork, and hashes as jobs have them."""
LENGTH = struct.Struct("!I")


def start() -> None:
    """Start a server for the jobs of this process, and go on: jobs start cold until it has imported everything."""
    if sys.platform != "linux":
        return
    name = f"mixdpo-{secrets.token_hex(8)}"
    subprocess.Popen(
        [sys.executable, "-m", "mixdpo.server", name, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | SETTINGS,
        start_new_session=True,  # Ctrl-C is for Snakemake and its jobs
    )
    os.environ[VARIABLE] = f"{name} {place()}"


def place() -> str:
    """The files and the Python that this process sees: those of a container or a conda environment are others."""
    return f"{os.readlink('/proc/self/ns/mnt')} {sys.prefix}"


def hand_over() -> None:
    """Have the job of this process done, and exit with its status; return if no server is there to take it."""
    name, _, home = os.environ.get(VARIABLE, "").partition(" ")
    if not name or sys.platform != "linux" or home != place():
        return
    for address in addresses(name, sys.argv):
        with socket.socket(socket.AF_UNIX) as server:
            if server.fileno() < 3:  # a standard stream is closed, and cannot be handed over
                return
            if accepted(server, address):
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                status = answer(server)
                if not status:
                    print("error: the process of this job was killed; run snakemake again", file=sys.stderr)
                sys.exit(status[0] if status else 128 + signal.SIGKILL)


def addresses(name: str, argv: Sequence[str]) -> list[str]:
    """Whom to ask, in turn; the kernel forgets these names with their sockets.

    A process that has initialised CUDA is the first choice of a job that may use the device.
    """
    device = next((value for option, value in pairwise(argv) if option == "--device"), "cpu")
    return [f"\0{name}-cuda"] * (device != "cpu") + [f"\0{name}"]


def accepted(server: socket.socket, address: str) -> bool:
    """Whether the process at this address accepts the job."""
    try:
        server.connect(address)
        if not same_user(server):
            return False
        send(server, {"argv": sys.argv, "cwd": os.getcwd(), "environ": dict(os.environ)}, [0, 1, 2])
        return server.recv(1) != b""
    except OSError:
        return False


def answer(server: socket.socket) -> bytes:
    """The status with which the job has ended, one byte; none if its process was killed."""
    try:
        return server.recv(1)
    except ConnectionError:
        return b""


def same_user(peer: socket.socket) -> bool:
    """Whether the process at the other end is this user's."""
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return user == os.getuid()


def send(peer: socket.socket, call: dict, files: list[int]) -> None:
    """Send what a process was called with, and its open files."""
    content = json.dumps(call).encode()
    socket.send_fds(peer, [LENGTH.pack(len(content))], files)
    peer.sendall(content)


def receive(peer: socket.socket) -> tuple[dict, list[int]]:
    """What `send` sent. Raises `ValueError` or `struct.error` if the other end was killed before it had sent all."""
    head, files, _, _ = socket.recv_fds(peer, LENGTH.size, 3)
    return json.loads(peer.recv(*LENGTH.unpack(head), socket.MSG_WAITALL)), files


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
    ctypes.CDLL(None).prctl(death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
