"""Run one stage: `python -m mixdpo STAGE --out MANIFEST --spec JSON --code HASH name=path …`."""

import argparse
import errno
import importlib
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

from mixdpo.artifact import label, publish, write_json
from mixdpo.errors import UserError
from mixdpo.stages import STAGES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mixdpo", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("inputs", nargs="*", metavar="name=path", help="manifests or files the stage reads")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to publish")
    parser.add_argument("--spec", type=json.loads, required=True, help="the stage's slice of the configuration")
    parser.add_argument("--code", required=True, help="fingerprint of the stage's code")
    parser.add_argument("--facts", type=Path, required=True, help="folder for the run record")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_intermixed_args()
    try:
        run(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if not disk_is_full(error):
            raise
        sys.exit(f"error: {arguments.out}: no space left on the disk; free some and type the same command again")


def disk_is_full(error: Exception) -> bool:
    """Libraries wrap the system's error each in its own way: ask the error, its text, and the disk itself."""
    told = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    return told or shutil.disk_usage(".").free < 2**20


def run(arguments: argparse.Namespace) -> None:
    from mixdpo.record import facts
    from mixdpo.runtime import Runtime

    start = time.time()
    stage, spec, code = arguments.stage, arguments.spec, arguments.code
    runtime = Runtime.choose(arguments.device, arguments.precision, arguments.threads)
    inputs = {name: Path(path) for name, path in (pair.split("=", 1) for pair in arguments.inputs)}
    folders = {name: p.parent if p.name == "manifest.json" else p for name, p in inputs.items()}
    function = getattr(importlib.import_module(STAGES[stage]), stage)
    work = {"stage": stage, "spec": spec, "code": code, "inputs": inputs, "runtime": asdict(runtime)}
    with publish(arguments.out, **work) as (staging, resume):
        function(staging, spec, runtime=runtime, resume=resume, **folders)
    write_json(arguments.facts / f"{label(arguments.out)}.json", facts(runtime, start))


if __name__ == "__main__":
    main()
