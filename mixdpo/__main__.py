"""The command line: jobs of the workflow (`python -m mixdpo STAGE …`), `train`, `generate`, `explain` and `audit`."""

import argparse
import errno
import gc
import importlib
import inspect
import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import yaml

from mixdpo.errors import UserError
from mixdpo.provenance.artifact import keep, publish, there, write_json
from mixdpo.run.checks import check_tables, validate
from mixdpo.run.config import configuration, published
from mixdpo.run.graph import PUBLISHED
from mixdpo.run.layout import parse_printed
from mixdpo.run.stages import STAGES


def job_parser() -> argparse.ArgumentParser:
    """Of the calls that the rules of the workflow make."""
    parser = argparse.ArgumentParser(prog="python -m mixdpo", description="Run one stage, as the workflow does.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("inputs", nargs="*", metavar="name=path", help="manifests or files the stage reads")
    parser.add_argument("--out", type=Path, required=True, help="the manifest to publish")
    parser.add_argument("--spec", type=json.loads, required=True, help="the stage's slice of the configuration")
    parser.add_argument("--code", required=True, help="fingerprint of the stage's code")
    parser.add_argument("--record", type=Path, required=True, help="the run record to write")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def person_parser() -> argparse.ArgumentParser:
    """Of the commands that a person types, and the names of the stages."""
    parser = argparse.ArgumentParser(prog="python -m mixdpo")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    explain = commands.add_parser("explain", help="a printed number: made again, defined, and traced to raw reviews")
    explain.add_argument("table", help="a table or figure, as paper_tables/RUN/NAME")
    explain.add_argument("label", nargs="*", help="row and column of a cell, as they stand in NAME.csv")
    explain.set_defaults(function=explain_cell)
    audit = commands.add_parser("audit", help="every number of a run against its artifacts, configuration and code")
    audit.add_argument("run", nargs="?", default="", help="default: the one that config.yaml names")
    audit.add_argument("--crate", type=Path, help="then write the run as an RO-Crate: a folder, or a file *.zip")
    audit.set_defaults(function=audit_run)
    for command in explain, audit:
        command.add_argument("--configfile", default="", help="the run's overlay, if not in config/")
    add_own(commands)
    for stage in STAGES:
        commands.add_parser(stage, help=f"a job of the workflow: python -m mixdpo {stage} --help", add_help=False)
    return parser


def add_own(commands: argparse._SubParsersAction) -> None:
    """`train` and `generate`; what a call leaves out is as in `mixdpo.api`."""
    how = {"argument_default": argparse.SUPPRESS}
    train = commands.add_parser("train", help="a policy from preferences of your own", **how)
    train.add_argument("--preferences", required=True, help="parquet, jsonl or csv: prompt, chosen, rejected, …")
    train.add_argument("--model", required=True, help="folder of a causal language model, or NAME@COMMIT of the hub")
    train.add_argument("--out", required=True, help="folder to write; the same call continues what was killed")
    train.add_argument("--method", help="dpo, mix (global weights) or moe (a gate over prompt and user, the default)")
    train.add_argument("--experts", type=int, help="K, default 4")
    train.add_argument("--architecture", help="heads on one encoder (default), models, or adapters (LoRA) of one model")
    train.add_argument("--validation-share", type=float, help="of the prompts, default 0.1")
    train.add_argument("--max-tokens", type=int, help="of prompt and completion; longer ones are dropped")
    train.add_argument("--tensorboard", metavar="DIR", help="write the curve there while training")
    for key, kind in {"epochs": int, "batch_size": int, "learning_rate": float, "beta": float}.items():
        train.add_argument(f"--{key.replace('_', '-')}", type=kind, help="of the method")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the method by its dotted key, as in optimiser.accumulate=4; see docs/settings.md",
    )
    train.set_defaults(function=train_own)
    generate = commands.add_parser("generate", help="text from a policy", **how)
    generate.add_argument("--policy", required=True, help="the --out of train, or a policy's folder")
    generate.add_argument("--prompt", required=True)
    routing = generate.add_mutually_exclusive_group()
    routing.add_argument("--expert", type=int, metavar="K", help="of this expert alone")
    routing.add_argument(
        "--mixture", choices=("token", "sequence"), help="an expert drawn each token (default), or once"
    )
    generate.add_argument("--top-s", type=int, metavar="S", help="of the S experts with the largest weights")
    generate.add_argument("--user", help="for whom, if the preferences had users")
    generate.add_argument("--n", type=int, help="texts, default 1")
    generate.add_argument("--max-new-tokens", type=int, help="default 48")
    generate.add_argument("--temperature", type=float, help="default 1")
    generate.set_defaults(function=generate_own)
    for command in train, generate:
        command.add_argument("--seed", type=int, help="default 0")
        command.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default auto")
        command.add_argument("--precision", choices=("auto", "fp32", "bf16"), help="default auto")
        command.add_argument("--threads", type=int, help="default: one a core; their number changes the last bits")


def train_own(arguments: argparse.Namespace) -> None:
    from mixdpo.api import train

    options = {k: value for k, value in vars(arguments).items() if k not in ("function", "set")}
    keys = dict(key_and_value(pair) for pair in arguments.set)
    for key in keys.keys() & inspect.signature(train).parameters.keys():
        raise UserError(f"--set: expected a setting of the method, found {key}; type --{key.replace('_', '-')}")
    train(**options | keys)


def key_and_value(pair: str) -> tuple[str, object]:
    """KEY=VALUE, the value in YAML; 1e-4, text to YAML, is the number that it looks like."""
    key, sign, text = pair.partition("=")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        sign = ""
    if not sign:
        raise UserError(
            f"--set: expected KEY=VALUE with a value in YAML, found {pair}; type one, as in --set beta=0.05"
        )
    try:
        return key, float(value) if isinstance(value, str) else value
    except ValueError:
        return key, value


def generate_own(arguments: argparse.Namespace) -> None:
    from mixdpo.api import generate

    texts = generate(**{k: value for k, value in vars(arguments).items() if k != "function"})
    print("\n\n".join(texts))


def explain_cell(arguments: argparse.Namespace) -> None:
    from mixdpo.run.audit import explain

    key = parse_printed(Path(arguments.table).as_posix())
    print(explain(*run_named(key.run, arguments.configfile), key.table, arguments.label))


def audit_run(arguments: argparse.Namespace) -> None:
    from mixdpo.run.audit import audit

    config, tables = run_named(arguments.run, arguments.configfile)
    faults, summary = audit(config, tables)
    print("\n".join([*faults, summary]))
    if faults:
        sys.exit(1)
    if arguments.crate:
        from mixdpo.run.crate import write_crate

        write_crate(config, tables, arguments.crate)


def run_named(run: str, overlay: str) -> tuple[dict, dict[str, dict]]:
    """The configuration of a run and the tables that it prints, both checked."""
    config = configuration(run, overlay)
    tables = published(PUBLISHED, config)
    validate(config)
    check_tables(config, tables)
    return config, tables


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in STAGES:
        arguments = job_parser().parse_intermixed_args()
        arguments.function = run
    else:
        arguments = person_parser().parse_args()
    try:
        arguments.function(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if not hasattr(arguments, "out") or not disk_is_full(error):
            raise
        sys.exit(f"error: {arguments.out}: no space left on the disk; free some and type the same command again")


def disk_is_full(error: Exception) -> bool:
    """Libraries wrap the system's error each in its own way: ask the error, its text, and the disk itself."""
    told = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    return told or shutil.disk_usage(".").free < 2**20


def run(arguments: argparse.Namespace) -> None:
    gc.disable()  # nothing that an import makes is garbage; looking for some, then and at exit, takes seconds of a job
    from mixdpo.method.runtime import Runtime
    from mixdpo.provenance.record import facts

    start = time.time()
    stage, spec, code = arguments.stage, arguments.spec, arguments.code
    runtime = Runtime.choose(arguments.device, arguments.precision, arguments.threads)
    inputs = {name: Path(path) for name, path in (pair.split("=", 1) for pair in arguments.inputs)}
    folders = {name: p.parent if p.name == "manifest.json" else p for name, p in inputs.items()}
    function = getattr(importlib.import_module(STAGES[stage]), stage)
    gc.freeze()
    gc.enable()
    work = {"stage": stage, "spec": spec, "code": code, "inputs": inputs}
    if arguments.record.is_file() and there(arguments.out, **work):
        print(f"{arguments.out}: everything is there, nothing was done; to make it again delete its files")
        return
    with publish(arguments.out, **work, runtime=asdict(runtime)) as (staging, resume):
        function(staging, spec, runtime=runtime, resume=resume, **folders)
    keep([arguments.out])
    write_json(arguments.record, facts(asdict(runtime), start))
    gc.freeze()  # what the stage imported or still holds


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # libraries write sets of names in the order of their hashes (peft)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONHASHSEED": "0"})
    main()
