"""Artifacts: published whole, or not at all.

A stage writes into a private staging folder. Only when its body returns do the files get a manifest and
move to their final place. The manifest names the stage, the spec, the code, every input manifest and every
payload file by SHA-256, and nothing that changes from run to run; what does change (host, clock, versions)
goes to `results/<run>/runs/`.

An artifact is known by the path of its manifest. `DIR/manifest.json` owns all of DIR and appears by one
rename. `DIR/NAME.manifest.json` owns the files that it lists, beside other artifacts in the same folder.

A manifest and its inputs are named by paths below a root, the working folder unless told otherwise; `.mixdpo/` in the
root has the locks, staging folders and resume state. So a root can move with all that is in it.

What no manifest of ours names is never removed or overwritten. Snakemake deletes a manifest before it reruns the
job and after the job fails; a copy in `.mixdpo/manifests/`, made before, still tells what is ours and what is done.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mixdpo.errors import Corrupt, UserError
from mixdpo.provenance import durable

PRIVATE = Path(".mixdpo")  # locks, staging folders, resume state, copies of manifests; on the results' file system
KEPT = PRIVATE / "manifests"


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
    """Read a manifest and check the files that it names; `Corrupt` names the first that does not match."""
    try:
        content = json.loads(manifest.read_text())
        expected = content["files"]
    except FileNotFoundError:
        raise Corrupt(f"{manifest}: expected an artifact, found nothing; run snakemake to make it") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
        raise Corrupt(f"{manifest}: expected a manifest, found something else; {remake(manifest)}") from None
    _match(manifest, expected)
    return content


def remake(manifest: Path) -> str:
    """What to type to have an artifact made again; files left without a manifest would be taken for a person's."""
    files = manifest.parent if _owns_folder(manifest) else manifest.with_suffix("").with_suffix(".*")
    return f"delete {files} and run again"


def _match(manifest: Path, expected: dict[str, str]) -> None:
    """Raise `Corrupt` if the files of an artifact are not the `expected` ones, SHA-256 by relative path."""
    root, remedy = manifest.parent, remake(manifest)
    found = _files(root) if _owns_folder(manifest) else {n: sha256(root / n) for n in expected if (root / n).exists()}
    for name, digest in expected.items():
        if name not in found:
            raise Corrupt(f"{root / name}: named in {manifest}, not found; {remedy}")
        if found.pop(name) != digest:
            raise Corrupt(f"{root / name}: does not match its SHA-256 in {manifest}; {remedy}")
    if found:
        raise Corrupt(f"{root / min(found)}: not named in {manifest}; move the file away and run again")


def _said(manifest: Path) -> dict:
    """What a manifest says; nothing if there is none, or one that is not ours."""
    try:
        content = json.loads(manifest.read_text())
    except (OSError, ValueError):
        return {}
    ours = isinstance(content, dict) and "stage" in content and isinstance(content.get("files"), dict)
    return content if ours else {}


def refuse_foreign(manifest: Path, written: Iterable[str] = (), root: Path = Path()) -> None:
    """Raise `Corrupt` if a file that publishing would remove, or overwrite (`written`), is in no manifest of ours."""
    kept, manifest = root / KEPT / label(manifest), root / manifest
    folder, ours = manifest.parent, {*_said(manifest).get("files", {}), *_said(kept).get("files", {})}
    ours |= {parent.as_posix() for name in ours for parent in Path(name).parents}  # a link to a folder is an entry
    ours |= {manifest.name} if _said(manifest) else set()
    if not _owns_folder(manifest):
        found = [name for name in (*written, manifest.name) if os.path.lexists(folder / name)]
    elif folder.exists() and not folder.is_dir():
        raise Corrupt(f"{folder}: expected a folder, found a file; move it away, or choose another folder")
    else:
        paths = (Path(f, n) for f, folders, names in os.walk(folder) for n in (*folders, *names))
        found = sorted(p.relative_to(folder).as_posix() for p in paths if p.is_symlink() or not p.is_dir())
    if foreign := next((name for name in found if name not in ours), None):
        raise Corrupt(
            f"{folder / foreign}: expected only files that were made here, named in {manifest}, found another; move it "
            "away, or choose another folder"
        )


def keep(manifests: Iterable[Path]) -> None:
    """Copy the manifests that are there to where Snakemake does not delete them."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for manifest in filter(Path.is_file, manifests):
        kept = KEPT / label(manifest)
        if not kept.is_file() or kept.read_bytes() != manifest.read_bytes():
            _copy(manifest, kept)


def _copy(file: Path, to: Path, root: Path = Path()) -> None:
    """Copy a file so that a kill leaves no part of it beside `to`."""
    staged = root / PRIVATE / "staging" / f"{label(to)}.{os.getpid()}"
    staged.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, staged)
    durable.replace(staged, to)


def there(manifest: Path, *, stage: str, spec: dict, code: str, inputs: Mapping[str, Path]) -> bool:
    """Whether exactly this work is finished; its manifest is put back if Snakemake deleted it. Checks `inputs`."""
    content = _said(manifest) or _said(KEPT / label(manifest))
    work = {"stage": stage, "spec": spec, "code": code}
    if work != {key: content.get(key) for key in work} or content.get("inputs") != digests(inputs):
        return False
    try:
        _match(manifest, content["files"])
    except Corrupt:
        return False
    if not manifest.exists():
        _copy(KEPT / label(manifest), manifest)
    return True


def digests(inputs: Mapping[str, Path], root: Path = Path()) -> dict[str, str]:
    """SHA-256 of each input by its path below `root`, artifacts verified."""
    for path in inputs.values():
        if path.name.endswith("manifest.json"):
            verify(root / path)
    return {path.as_posix(): sha256(root / path) for path in inputs.values()}


def write_json(path: Path, value: object) -> None:
    """Write `value` with sorted keys; on the disk, whole, when the function returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write(path, lambda staged: staged.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n"))


def label(manifest: Path) -> str:
    """One file name for an artifact: its path with the slashes replaced."""
    path = manifest.parent if _owns_folder(manifest) else manifest.with_suffix("").with_suffix("")
    return path.as_posix().strip("/").replace("/", "--")


def scratch(*work: object, root: Path = Path()) -> Path:
    """The folder for resume state of exactly this work: another spec, code, input or precision has another folder."""
    key = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:16]
    folder = root / PRIVATE / "scratch" / f"{work[0]}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def publish(
    manifest: Path,
    *,
    stage: str,
    spec: dict,
    code: str,
    inputs: Mapping[str, Path],
    runtime: Mapping | None = None,
    root: Path = Path(),
) -> Iterator[tuple[Path, Path]]:
    """Verify `inputs`, yield a staging and a resume folder, and publish what is staged if the body succeeds.

    The resume folder is the same for the same work on the same `runtime` until that work is published. `inputs` maps
    names to manifests or plain files; their paths and `manifest` are relative to `root`. Raises `UserError` if another
    process writes the same artifact or a file that is not ours is in the way, `Corrupt` if an input does not match its
    manifest. A body that raises leaves what was there.
    """
    used = digests(inputs, root)
    for kind in ("locks", "staging"):
        (root / PRIVATE / kind).mkdir(parents=True, exist_ok=True)
    with open(root / PRIVATE / "locks" / label(manifest), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{root / manifest}: another process is writing it; wait for it or stop it first") from None
        staging = root / PRIVATE / "staging" / label(manifest)
        old = staging.with_name(f"{staging.name}.old")
        if old.exists():  # killed between two renames: put it back if its place is empty, else it was on its way out
            with contextlib.suppress(OSError):
                os.replace(old, (root / manifest).parent)
        _remove(old)
        shutil.rmtree(staging, ignore_errors=True)
        refuse_foreign(manifest, root=root)
        staging.mkdir()
        resume = scratch(stage, spec, code, used, runtime, root=root)
        try:
            yield staging, resume
            files = _files(staging)
            for name in files:
                durable.sync(staging / name)
            content = {"stage": stage, "spec": spec, "code": code, "inputs": used, "files": files}
            write_json(staging / manifest.name, content)
            refuse_foreign(manifest, files, root)
            _move(staging, manifest, files, old, root)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(resume, ignore_errors=True)


def _move(staging: Path, manifest: Path, files: Iterable[str], old: Path, root: Path) -> None:
    """Move what is staged to its place; what was there goes through `old`."""
    folder = (root / manifest).parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    if _owns_folder(manifest):
        if folder.exists():
            os.replace(folder, old)
        durable.replace(staging, folder)
        _remove(old)
        return
    folder.mkdir(exist_ok=True)
    kept = root / KEPT / label(manifest)
    kept.parent.mkdir(exist_ok=True)
    _copy(staging / manifest.name, kept, root)  # if killed half-way, all files are still known as ours
    for name in [*files, manifest.name]:
        durable.replace(staging / name, folder / name)
    kept.unlink()


def _remove(folder: Path) -> None:
    """Delete a folder, or a link to one and not what it leads to."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
