"""What the tests of the library share: small settings, triplets, calls of the command line, contents of a folder."""

import json
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

from mixdpo import Experts, Method, Optimiser
from mixdpo import __main__ as command

HOW = {"device": "cpu", "precision": "fp32", "threads": 1}
SMALL = Optimiser(epochs=2, batch_size=4)
DPO = Method(Experts(models=1), optimiser=SMALL)
PAIR = " was fine.", " was warm, and I would eat it again."


def rows(prompts: int = 8, **labels) -> list[dict]:
    """Two triplets a prompt, one each way round; `labels` are pairs of values, one for each way."""
    return [
        {"prompt": f"Dish {i}", "chosen": PAIR[way], "rejected": PAIR[1 - way]} | {k: v[way] for k, v in labels.items()}
        for i in range(prompts)
        for way in (0, 1)
    ]


def written(path: Path, triplets: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in triplets))
    return path


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def typed(line: str, monkeypatch) -> None:
    """Run a line of a shell that calls `mixdpo`."""
    words = shlex.split(os.path.expandvars(line))
    assert words[0] == "mixdpo"
    monkeypatch.setattr(sys, "argv", words)
    command.main()


def ran(code: str, **names) -> dict:
    """The names that a block of Python defines."""
    Path("block.py").write_text(code)
    return runpy.run_path("block.py", names)


def contents(folder: Path) -> dict[str, bytes | None]:
    """What is in a folder, by relative path, but for locks, staging folders and resume state."""
    paths = [p for p in folder.rglob("*") if ".mixdpo" not in p.parts]
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in paths}
