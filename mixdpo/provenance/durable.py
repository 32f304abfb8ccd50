"""Files that are either whole on the disk or not there, whatever happens to the machine in between."""

import os
from collections.abc import Callable
from pathlib import Path


def sync(path: Path) -> None:
    """Return when the file or folder is on the disk and not in a buffer only."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(staged: Path, final: Path) -> None:
    """Give a finished file or folder its final name, the rename itself on the disk too."""
    if staged.is_file():
        sync(staged)
    os.replace(staged, final)
    sync(final.parent)


def write(path: Path, save: Callable[[Path], None]) -> None:
    """Let `save` write a file beside `path`, then move it there."""
    staged = path.with_name(f"{path.name}.tmp")
    save(staged)
    replace(staged, path)
