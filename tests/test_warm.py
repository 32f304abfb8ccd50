"""Jobs that start warm: they do, print and leave what they would have cold, and nothing of them outlives its cause."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from mixdpo import warm
from mixdpo.run.config import configuration, published
from mixdpo.run.graph import inputs_of
from mixdpo.run.layout import PUBLISHED, parse

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server needs Linux")
SERVER = """
import os, signal, sys, time
from mixdpo import warm
from mixdpo.errors import UserError
from mixdpo.server import serve

def work():
    what = sys.argv[1]
    print(what, os.getpid(), os.getcwd(), os.environ.get("COLOUR"), sys.stdin.read(), flush=True)
    if what == "fault":
        sys.exit("error: a fault")
    if what == "seven":
        sys.exit(7)
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait":
        time.sleep(60)
    if what == "raise":
        raise ValueError("a mistake")

warm.die_with(int(sys.argv[2]))
serve(sys.argv[1], work, keep=lambda: "cuda" in sys.argv)
"""
CLIENT = "import sys; from mixdpo.warm import hand_over; hand_over(); sys.exit('cold')"


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[subprocess.Popen]:
    """A server whose jobs print what they are given; it keeps those that are called for `cuda`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    name = f"mixdpo-test-{tmp_path.name}-{os.getpid()}"
    process = subprocess.Popen([sys.executable, "-c", SERVER, name, str(os.getpid())])
    wait_for(name, process)
    monkeypatch.setenv(warm.VARIABLE, f"{name} {warm.place()}")
    yield process
    process.kill()
    process.wait()


def wait_for(name: str, process: subprocess.Popen | None = None) -> None:
    """Until a server of this name listens."""
    for _ in range(600):
        if f"@{name}\n" in Path("/proc/net/unix").read_text():
            return
        assert process is None or process.poll() is None
        time.sleep(0.05)
    raise AssertionError(f"nobody listens as {name}")


def job(*arguments: str, **how) -> subprocess.Popen:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", CLIENT, *arguments], text=True, **pipes, **how)


def done(*arguments: str, **how) -> tuple[int, list[str], str]:
    """Status of a job, the words that it prints and what it says on stderr."""
    process = job(*arguments, **how)
    printed, told = process.communicate("read")
    return process.returncode, printed.split(), told


def ends(pid: int) -> bool:
    """Whether a process ends within two seconds."""
    for _ in range(40):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
                time.sleep(0.05)
                continue
        return True
    return False


@pytest.mark.parametrize(
    ("what", "status", "last"),
    [("all", 0, ""), ("seven", 7, ""), ("fault", 1, "error: a fault"), ("raise", 1, "ValueError: a mistake")],
)
def test_a_job_works_in_the_place_of_its_caller(server, tmp_path, what, status, last):
    folder = tmp_path / "there"
    folder.mkdir()
    code, printed, told = done(what, cwd=folder, env=os.environ | {"COLOUR": "red"})
    assert code == status and [printed[0], *printed[2:]] == [what, str(folder), "red", "read"]
    assert told.strip().splitlines()[-1:] == ([last] if last else []) and "mixdpo/server.py" not in told


@pytest.mark.parametrize("threads", ["", "2,1", "0", "many"])
def test_any_number_of_threads_that_openmp_knows_will_do(server, threads):
    assert done("all", env=os.environ | {"OMP_NUM_THREADS": threads})[0] == 0


def test_a_job_without_a_standard_stream_starts_cold(server):
    line = f'{sys.executable} -c "{CLIENT}" all >&-'
    told = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, check=False)
    assert (told.returncode, told.stderr) == (1, "cold\n")


def test_a_job_that_is_killed_is_one_line(server):
    status, _, told = done("killed")
    assert status == 137 and told == "error: the process of this job was killed; run snakemake again\n"


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_job_dies_with_its_caller(server, name):
    caller = job("wait")
    caller.stdin.close()
    pid = int(caller.stdout.readline().split()[1])
    caller.send_signal(name)
    assert caller.wait() == -name and ends(pid)
    assert done("all")[0] == 0


def test_a_job_dies_with_the_server_and_others_start_cold(server):
    caller = job("wait")
    caller.stdin.close()
    pid = int(caller.stdout.readline().split()[1])
    server.kill()
    assert caller.wait() == 137 and "was killed" in caller.stderr.read() and ends(pid)
    assert done("all") == (1, [], "cold\n")


@pytest.mark.parametrize("value", [None, "", "mixdpo-none HERE", "NAME mnt:[0] /usr"])
def test_without_a_server_here_a_job_starts_cold(server, monkeypatch, value):
    name = os.environ[warm.VARIABLE].partition(" ")[0]
    monkeypatch.delenv(warm.VARIABLE)
    if value is not None:
        monkeypatch.setenv(warm.VARIABLE, value.replace("HERE", warm.place()).replace("NAME", name))
    assert done("all") == (1, [], "cold\n")


def test_a_process_that_has_initialised_cuda_takes_the_next_job_of_its_environment(server):
    cuda, cpu = ("--device", "cuda"), ("--device", "cpu", "--precision", "auto")
    first = done("all", *cuda)[1][1]
    assert done("all", *cpu)[1][1] != first == done("all", *cuda)[1][1]
    assert done("all", *cuda, env=os.environ | {"COLOUR": "red"})[1][1] != first
    status, printed, told = done("fault", *cuda)
    assert (status, printed[1], told) == (1, first, "error: a fault\n")
    assert ends(int(first)) and done("all", *cuda)[1][1] != first


def test_a_kept_process_has_let_go_of_its_caller_and_dies_with_the_server(server):
    with job("all", "--device", "cuda") as caller:
        assert caller.communicate("read")[0]  # the pipes have closed
    pid = int(done("all", "--device", "cuda")[1][1])
    assert not ends(pid)
    server.kill()
    assert ends(pid)


@pytest.fixture
def of_the_workflow(project, monkeypatch) -> Iterator[None]:
    """The server that the workflow starts, with the code of the project."""
    monkeypatch.chdir(project)
    name = f"mixdpo-test-{os.getpid()}"
    command = [sys.executable, "-m", "mixdpo.server", name, str(os.getpid())]
    with subprocess.Popen(command, env=os.environ | warm.SETTINGS) as process:
        wait_for(name, process)
        monkeypatch.setenv(warm.VARIABLE, f"{name} {warm.place()}")
        yield
        process.kill()


@pytest.mark.slow
def test_jobs_leave_the_same_bytes_warm_and_cold(project, of_the_workflow, tmp_path, monkeypatch):
    """Training on two threads, spaCy beside a classifier, a table: made again in two folders."""
    places = [f"results/tiny/{place}/manifest.json" for place in ("policies/multi_reward/dpo/seed0", "validity")]
    manifests = [*places, "paper_tables/tiny/table1.manifest.json"]
    config = configuration("tiny", "tests/tiny.yaml")
    inputs = {path: inputs_of(config, published(PUBLISHED, config), path) for path in manifests}
    for name in "warm", "cold":
        for manifest in manifests:
            make_again(project, tmp_path / name, manifest, inputs[manifest])
        monkeypatch.delenv(warm.VARIABLE, raising=False)
    for manifest in manifests:
        assert (tmp_path / "cold" / manifest).read_bytes() == (tmp_path / "warm" / manifest).read_bytes()
        forked, alone = (json.loads((tmp_path / n / parse(manifest).record).read_text()) for n in ("warm", "cold"))
        assert 0 < forked["cpu_seconds"] < 2 * forked["seconds"] + 0.5  # no more than two threads can use
        # That of a process called by a larger one is what its caller had, by which a cold job has more.
        assert 200 < forked["peak_memory_mib"] < 1.4 * alone["peak_memory_mib"]


def make_again(project: Path, folder: Path, manifest: str, inputs: dict[str, str]) -> None:
    """The job of a finished artifact, with two threads, in a folder with links to what it is made from."""
    for path in inputs.values():
        source = Path(path).parent if Path(path).name == "manifest.json" else Path(path)
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / source).exists():
            (folder / source).symlink_to(project / source)
    content = json.loads((project / manifest).read_text())
    call = [content["stage"], *(f"{name}={path}" for name, path in inputs.items()), "--out", manifest]
    call += ["--spec", json.dumps(content["spec"]), "--code", content["code"], "--record", parse(manifest).record]
    call += ["--precision", "fp32", "--threads", "2"]
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "mixdpo", *call]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
