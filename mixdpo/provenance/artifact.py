"""Artifacts: published whole, or not at all.

A stage writes into a private staging folder. Only when its body returns do the files get a manifest and
move to their final place. The manifest names the stage, the spec, the code, every input manifest and every
payload file by SHA-256, and nothing that changes from run to run; what does change (host, clock, versions)
goes to `results/<run>/runs/`.

An artifact is known by the path of its manifest. `DIR/manifest.json` owns all of DIR and appears by one
rename. `DIR/NAME.manifest.json` owns the files that it lists, beside other artifacts in the same folder.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from mixdpo.errors import Corrupt, UserError
from mixdpo.provenance import durable

PRIVATE = Path(".mixdpo")  # locks, staging folders and resume state; on the same file system as the results


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _owns_folder(manifest: Path) -> bool:
    return manifest.name == "manifest.json"


def _files(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root`, links followed, by relative path."""
    paths = (Path(folder) / name for folder, _, names in os.walk(root, followlinks=True) for name in names)
    return {p.relative_to(root).as_posix(): sha256(p) for p in sorted(paths) if p != root / "manifest.json"}


def verify(manifest: Path) -> dict:
    """Read a manifest and check the files that it names; `Corrupt` tells the first that does not match."""
    try:
        content = json.loads(manifest.read_text())
        expected = content["files"]
    except FileNotFoundError:
        raise Corrupt(f"{manifest}: expected an artifact, found nothing; run snakemake to make it") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise Corrupt(f"{manifest}: expected a manifest, found something else; delete it and run again") from None
    root, remedy = manifest.parent, f"delete {manifest} and run again"
    found = _files(root) if _owns_folder(manifest) else {n: sha256(root / n) for n in expected if (root / n).exists()}
    for name, digest in expected.items():
        if name not in found:
            raise Corrupt(f"{root / name}: named in {manifest}, not found; {remedy}")
        if found.pop(name) != digest:
            raise Corrupt(f"{root / name}: does not match its SHA-256 in {manifest}; {remedy}")
    if found:
        raise Corrupt(f"{root / min(found)}: not named in {manifest}; remove the file, or {remedy}")
    return content


def write_json(path: Path, value: object) -> None:
    """Write `value` with sorted keys; on the disk, whole, when the function returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write(path, lambda staged: staged.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n"))


def label(manifest: Path) -> str:
    """One file name for an artifact: its path with the slashes replaced."""
    path = manifest.parent if _owns_folder(manifest) else manifest.with_suffix("").with_suffix("")
    return path.as_posix().strip("/").replace("/", "--")


def scratch(*work: object) -> Path:
    """The folder for resume state of exactly this work: another spec, code, input or precision has another folder."""
    key = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:16]
    folder = PRIVATE / "scratch" / f"{work[0]}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def publish(
    manifest: Path, *, stage: str, spec: dict, code: str, inputs: Mapping[str, Path], runtime: Mapping | None = None
) -> Iterator[tuple[Path, Path]]:
    """Verify `inputs`, yield a staging and a resume folder, and publish what is staged if the body succeeds.

    The resume folder is the same for the same work on the same `runtime` until that work is published. `inputs` maps names to manifests or plain files. Raises `UserError` if another process writes the same
    artifact, `Corrupt` if an input does not match its manifest. A body that raises leaves nothing behind.
    """
    digests = {}
    for path in inputs.values():
        if path.name.endswith("manifest.json"):
            verify(path)
        digests[path.as_posix()] = sha256(path)
    for kind in ("locks", "staging"):
        (PRIVATE / kind).mkdir(parents=True, exist_ok=True)
    with open(PRIVATE / "locks" / label(manifest), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{manifest}: another process is writing it; wait for it or stop it first") from None
        staging = PRIVATE / "staging" / label(manifest)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        resume = scratch(stage, spec, code, digests, runtime)
        try:
            yield staging, resume
            files = _files(staging)
            for name in files:
                durable.sync(staging / name)
            content = {"stage": stage, "spec": spec, "code": code, "inputs": digests, "files": files}
            write_json(staging / manifest.name, content)
            if _owns_folder(manifest):
                shutil.rmtree(manifest.parent, ignore_errors=True)
                manifest.parent.parent.mkdir(parents=True, exist_ok=True)
                durable.replace(staging, manifest.parent)
            else:
                manifest.parent.mkdir(parents=True, exist_ok=True)
                for name in [*files, manifest.name]:
                    durable.replace(staging / name, manifest.parent / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(resume, ignore_errors=True)
