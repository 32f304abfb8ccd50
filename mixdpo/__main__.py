"""The command line: `train`, `generate` and `export`; `audit` and `explain`; and the workflow's jobs, STAGE …."""

import argparse
import contextlib
import errno
import gc
import importlib
import json
import os
import shutil
import sys
import time
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

from mixdpo.errors import UserError
from mixdpo.run.stages import STAGES
from mixdpo.warm import hand_over

OPTIONS = {"epochs": int, "batch_size": int, "learning_rate": float}
"""Keys of a method's optimiser that have an option of their own."""


def job_parser() -> argparse.ArgumentParser:
    """The parser of the calls that the workflow's rules make."""
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
    """The parser of the commands that a person types; it lists the stages too."""
    jobs = f"Jobs of the workflow: python -m mixdpo STAGE --help, where STAGE is one of {', '.join(STAGES)}."
    parser = argparse.ArgumentParser(prog="mixdpo", epilog=jobs)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands)
    add_generate(commands)
    explain = commands.add_parser("explain", help="make a printed number again, define it and trace it to raw reviews")
    explain.add_argument("table", help="a table or figure, as paper_tables/RUN/NAME")
    explain.add_argument("label", nargs="*", help="row and column of a cell, as they stand in NAME.csv")
    explain.set_defaults(function=explain_cell)
    audit = commands.add_parser(
        "audit", help="check every number of a run against its artifacts, configuration and code"
    )
    audit.add_argument("run", nargs="?", default="", help="default: the one that config.yaml names")
    audit.add_argument(
        "--crate", type=Path, help="if nothing is wrong, write the run as an RO-Crate: a folder, or a file *.zip"
    )
    audit.set_defaults(function=audit_run)
    for command in explain, audit:
        command.add_argument("--configfile", default="", help="the run's overlay, if not in config/")
    return parser


def add_train(commands: argparse._SubParsersAction) -> None:
    """`train`; options left out have the defaults of `mixdpo.train` and `mixdpo.recipe`."""
    train = commands.add_parser(
        "train", help="train a policy on preferences of your own", argument_default=argparse.SUPPRESS
    )
    train.add_argument("--preferences", required=True, help="parquet, jsonl or csv: prompt, chosen, rejected, …")
    train.add_argument("--model", required=True, help="folder of a causal language model, or NAME[@COMMIT] of the hub")
    train.add_argument("--out", required=True, help="folder to write; after a kill, the same call continues")
    train.add_argument("--method", help="dpo, mix (global weights) or moe (a gate over prompt and user, the default)")
    train.add_argument("--experts", type=int, help="K, default 4")
    train.add_argument("--architecture", help="heads on one encoder (default), models, or adapters (LoRA) of one model")
    train.add_argument("--validation-share", type=float, help="share of the prompts, default 0.1")
    train.add_argument(
        "--max-tokens", type=int, help="limit on prompt and completion together; longer triplets are dropped"
    )
    train.add_argument("--tensorboard", metavar="DIR", help="write the curve there while training")
    for key, kind in {"beta": float, **OPTIONS}.items():
        train.add_argument(f"--{key.replace('_', '-')}", type=kind, help="a setting of the method")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting of the method, in docs/settings.md, as in optimiser.accumulate=4; the value in YAML",
    )
    train.set_defaults(function=train_own)
    add_machine(train)


def add_generate(commands: argparse._SubParsersAction) -> None:
    """`generate` and `export`; options left out have the defaults of `mixdpo.TextPolicy`."""
    how = {"argument_default": argparse.SUPPRESS}
    generate = commands.add_parser("generate", help="write text from a policy", **how)
    generate.add_argument("--policy", required=True, help="the --out of train, or a policy's folder")
    generate.add_argument("--prompt", required=True)
    routing = generate.add_mutually_exclusive_group()
    routing.add_argument("--expert", type=int, metavar="K", help="from this expert alone")
    routing.add_argument(
        "--mixture", choices=("token", "sequence"), help="draw an expert for every token (default), or once"
    )
    generate.add_argument("--top-s", type=int, metavar="S", help="from the S experts with the largest weights")
    generate.add_argument("--user", help="who asks, if the preferences had users")
    generate.add_argument("--comparisons", metavar="FILE", help="a few of that user's preferences, to learn who it is")
    generate.add_argument("--n", type=int, help="number of texts, default 1")
    generate.add_argument("--max-new-tokens", type=int, help="default 48")
    generate.add_argument("--temperature", type=float, help="default 1")
    generate.set_defaults(function=generate_own)
    add_machine(generate)
    export = commands.add_parser("export", help="write experts of a policy as models of transformers", **how)
    export.add_argument("--policy", required=True, help="the --out of train, or a policy's folder")
    export.add_argument("--out", required=True, help="new folder; without --expert it gets expert0, expert1, …")
    export.add_argument("--expert", type=int, metavar="K", help="this expert alone")
    export.set_defaults(function=export_own)


def add_machine(command: argparse.ArgumentParser) -> None:
    """Seed, and where to compute."""
    command.add_argument("--seed", type=int, help="default 0")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default auto")
    command.add_argument("--precision", choices=("auto", "fp32", "bf16"), help="default auto")
    command.add_argument("--threads", type=int, help="default: one per core; the number changes the last bits")


def given(arguments: argparse.Namespace, *others: str) -> dict[str, Any]:
    """The options that a call gives, without `others`."""
    return {key: value for key, value in vars(arguments).items() if key not in ("function", *others)}


def train_own(arguments: argparse.Namespace) -> None:
    """Train, and print the report."""
    from mixdpo.data.preferences import read_preferences
    from mixdpo.fields import merged
    from mixdpo.library.recipes import recipe

    options = given(arguments, "set")
    changes = {"optimiser": {key: options.pop(key) for key in OPTIONS.keys() & options.keys()}}
    changes |= {"beta": options.pop("beta")} if "beta" in options else {}
    changes = reduce(merged, [nested(pair, options) for pair in arguments.set], changes)
    shape = {key: options.pop(key) for key in ("experts", "architecture") & options.keys()}
    columns = read_preferences(options["preferences"]).columns
    method = recipe(options.pop("method", "moe"), **shape, by_user="user" in columns, changes=changes)
    from mixdpo.library.training import train

    print(train(**options, method=method).report)


def nested(pair: str, options: dict[str, Any]) -> dict[str, Any]:
    """KEY=VALUE as a mapping, a.b=1 as {a: {b: 1}}, the value in YAML; 1e-4, which YAML reads as text, is a number."""
    import yaml

    key, sign, text = pair.partition("=")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        sign = ""
    if not sign:
        raise UserError(
            f"--set: expected KEY=VALUE with a value in YAML, found {pair}; type one, as in --set beta=0.05"
        )
    if key in {"seed", "device", "precision", "threads", "validation_share", "max_tokens", "tensorboard", *options}:
        raise UserError(f"--set: expected a setting of the method, found {key}; type --{key.replace('_', '-')}")
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def generate_own(arguments: argparse.Namespace) -> None:
    """Print texts, an empty line between them."""
    from mixdpo.library.generation import generate

    options = given(arguments, "prompt", "user")
    print("\n\n".join(generate(prompts=arguments.prompt, users=getattr(arguments, "user", None), **options)))


def export_own(arguments: argparse.Namespace) -> None:
    """Write experts as models of transformers, and print their folders."""
    from mixdpo.library.generation import export

    print("\n".join(map(str, export(**given(arguments)))))


def explain_cell(arguments: argparse.Namespace) -> None:
    from mixdpo.run.audit import explain
    from mixdpo.run.layout import parse_printed

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
    from mixdpo.run.checks import check_tables, validate
    from mixdpo.run.config import configuration, published
    from mixdpo.run.graph import PUBLISHED

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
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "mixdpo":
            raise
        sys.exit(f"error: {error.name}: expected this package, found none; type pip install 'mixdpo[workflow]'")
    except Exception as error:
        if not hasattr(arguments, "out") or not disk_is_full(error):
            raise
        sys.exit(f"error: {arguments.out}: no space left on the disk; free some and type the same command again")


def disk_is_full(error: Exception) -> bool:
    """Each library wraps the system's error in its own way: ask the error, its text, and the disk itself."""
    told = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    return told or shutil.disk_usage(".").free < 2**20


def run(arguments: argparse.Namespace) -> None:
    gc.disable()  # imports leave no garbage, and looking for it, then and at exit, takes seconds of a job
    from mixdpo.method.runtime import Runtime
    from mixdpo.provenance.artifact import keep, publish, there, write_json
    from mixdpo.provenance.record import facts, processor_time

    stage, spec, code = arguments.stage, arguments.spec, arguments.code
    runtime = Runtime.choose(arguments.device, arguments.precision, arguments.threads)
    inputs = {name: Path(path) for name, path in (pair.split("=", 1) for pair in arguments.inputs)}
    folders = {name: p.parent if p.name == "manifest.json" else p for name, p in inputs.items()}
    function = getattr(importlib.import_module(STAGES[stage]), stage)
    gc.freeze()
    gc.enable()
    start, used = time.time(), processor_time()  # without imports, of which a warm start has none
    work = {"stage": stage, "spec": spec, "code": code, "inputs": inputs}
    if arguments.record.is_file() and there(arguments.out, **work):
        print(f"{arguments.out}: everything is there, nothing was done; to make it again delete its files")
        return
    with publish(arguments.out, **work, runtime=asdict(runtime)) as (staging, resume):
        function(staging, spec, runtime=runtime, resume=resume, **folders)
    keep([arguments.out])
    write_json(arguments.record, facts(asdict(runtime), start, used))
    gc.freeze()  # what the stage imported or still holds


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in STAGES:
        hand_over()
        # Libraries may write sets of names in the order of their hashes: a job has the same order every time.
        if os.environ.get("PYTHONHASHSEED") != "0":
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONHASHSEED": "0"})
    main()
