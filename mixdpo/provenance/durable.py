"""Files that are whole on the disk or not there at all, even after a crash of the machine."""

import os
from collections.abc import Callable
from pathlib import Path


def sync(path: Path) -> None:
    """Return once the file or folder is on the disk, and not only in a buffer."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(staged: Path, final: Path) -> None:
    """Give a finished file or folder its final name, and wait until the rename is on the disk."""
    if staged.is_file():
        sync(staged)
    os.replace(staged, final)
    sync(final.parent)


def write(path: Path, save: Callable[[Path], None]) -> None:
    """Let `save` write a file beside `path`, then move it there."""
    staged = path.with_name(f"{path.name}.tmp")
    save(staged)
    replace(staged, path)
