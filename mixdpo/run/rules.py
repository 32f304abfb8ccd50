"""What the rules of the workflow ask of the graph: functions of Snakemake's wildcards, for each stage of a run."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from mixdpo.provenance.fingerprint import fingerprint
from mixdpo.run.graph import inputs_of, job, records
from mixdpo.run.layout import pattern
from mixdpo.run.stages import STAGES


def made_from(config: dict, tables: dict[str, dict], stage: str) -> Callable[[Mapping], dict[str, str]]:
    """The inputs of a stage's artifacts, by name."""
    where = pattern(config["run"], stage)
    return lambda wildcards: inputs_of(config, tables, where.manifest.format(**wildcards))


def work(config: dict, tables: dict[str, dict], stage: str) -> dict[str, str | Callable[[Mapping], str]]:
    """The params of a rule: the stage that its jobs run, their slice of the configuration as JSON, their code.

    A job is run again when one of these changes, so the functions take wildcards alone: Snakemake does not compare
    what else depends on inputs or outputs.
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
