"""What the rules of the workflow ask of the graph: functions of Snakemake's wildcards, for each stage of a run."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

from mixdpo.errors import UserError
from mixdpo.provenance.fingerprint import fingerprint
from mixdpo.run.checks import check_tables, validate
from mixdpo.run.config import published
from mixdpo.run.graph import inputs_of, job, records
from mixdpo.run.layout import PUBLISHED, pattern
from mixdpo.run.settings import completed
from mixdpo.run.stages import STAGES
from mixdpo.run.yaml import read, shipped


def complete(config: dict, overlays: Iterable[str]) -> dict[str, dict]:
    """Fill in Snakemake's `config` in place, check it and return the published tables; a fault ends the call in one
    line.

    Snakemake keeps the last of equal keys in a file; here its files are read once more, and equal keys refused.
    """
    try:
        shipped()
        for overlay in overlays:
            read(overlay)
        config.update(completed(config))
        validate(config)
        tables = published(PUBLISHED, config)
        check_tables(config, tables)
    except UserError as error:
        sys.exit(f"error: {error}")
    return tables


def made_from(config: dict, tables: dict[str, dict], stage: str) -> Callable[[Mapping], dict[str, str]]:
    """The inputs of a stage's artifacts, by name."""
    where = pattern(config["run"], stage)
    return lambda wildcards: inputs_of(config, tables, where.manifest.format(**wildcards))


def work(config: dict, tables: dict[str, dict], stage: str) -> dict[str, str | Callable[[Mapping], str]]:
    """The params of a rule: the stage that its jobs run, their slice of the configuration as JSON, their code.

    A job is run again when one of these changes, so the functions take only wildcards: Snakemake does not
    compare params that depend on inputs or outputs.
    """
    where = pattern(config["run"], stage)

    @cache
    def today(manifest: str) -> tuple[str, str]:
        stage, spec = job(config, tables, manifest)
        return stage, json.dumps(spec, sort_keys=True)

    return {
        "stage": lambda wildcards: today(where.manifest.format(**wildcards))[0],
        "spec": lambda wildcards: today(where.manifest.format(**wildcards))[1],
        "code": lambda wildcards: fingerprint(STAGES[today(where.manifest.format(**wildcards))[0]]),
        "record": where.record,
    }


def named(config: dict, tables: dict[str, dict], wildcards: Mapping, input: Mapping) -> list[str]:
    """Inputs as name=path, as the command line takes them; of a table of times also the run records that are there."""
    found = records(config, tables, wildcards["table"]) if "table" in {**wildcards} else {}
    there = {name: path for name, path in found.items() if Path(path).is_file()}
    return [f"{name}={path}" for name, path in ({**input} | there).items()]
