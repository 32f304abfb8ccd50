"""A run as a Workflow Run RO-Crate (Provenance Run Crate 0.5), from manifests and run records."""

import io
import json
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import yaml
from rocrate.model import ContextEntity, Entity
from rocrate.rocrate import ROCrate

from mixdpo.provenance.artifact import sha256
from mixdpo.run.audit import causes_first, facts, flat
from mixdpo.run.graph import printed, targets
from mixdpo.run.layout import is_manifest, short
from mixdpo.run.stages import STAGES

PROFILES = {"process": "Process Run Crate", "workflow": "Workflow Run Crate", "provenance": "Provenance Run Crate"}
PROFILE_VERSION = "0.5"
CODE = (
    "mixdpo/**/*.py",
    "mixdpo/paper/published/*.yaml",
    "mixdpo/paper/*.j2",
    "workflow/**/*.smk",
    "workflow/**/*.yaml",
    "envs/*",
    "config.yaml",
    "config/methods/*.yaml",
    "pyproject.toml",
    "LICENSE",
)
TERMS = "https://w3id.org/ro/terms/workflow-run#"
LICENSE = "https://spdx.org/licenses/Apache-2.0"


def write_crate(config: dict, tables: dict[str, dict], to: Path) -> None:
    """Write the run with all its artifacts to a folder, or to a file if `to` ends in .zip.

    One CreateAction a job: its stage's module is the instrument, manifests and files are object and result (SHA-256),
    the spec's leaves are parameters, memory is resource usage (MiB). Files from outside the project stay outside and
    are named with their SHA-256. The artifacts must be there: audit the run first.
    """
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms |= {term: TERMS + term for term in ("resourceUsage", "sha256")}
    crate.name = f"Mix- and MoE-DPO, replicated: run {config['run']}"
    crate.description = "Every table and figure of the run, every artifact behind it, and how each was made"
    crate.license = LICENSE
    crate.root_dataset["conformsTo"] = [
        crate.add(described(crate, f"https://w3id.org/ro/wfrun/{key}/{PROFILE_VERSION}", "CreativeWork", name=name))
        for key, name in PROFILES.items()
    ]
    chain = causes_first(targets(config, tables))
    types = {"@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]}
    workflow = crate.add_workflow("Snakefile", "Snakefile", main=True, lang="snakemake", properties=types)
    workflow["sha256"] = sha256(Path("Snakefile"))
    stages = [stage for stage in STAGES if any(content["stage"] == stage for content in chain.values())]
    tools = {stage: tool(crate, stage) for stage in stages}
    for path in sorted(path.as_posix() for pattern in CODE for path in Path().glob(pattern) if path.is_file()):
        file(crate, path, sha256(Path(path)))
    workflow["hasPart"] = list(tools.values())
    actions = {path: action(crate, path, content, tools[content["stage"]]) for path, content in chain.items()}
    steps = {
        stage: described(crate, f"#step-{stage}", "HowToStep", position=str(n), workExample=tools[stage])
        for n, stage in enumerate(stages, 1)
    }
    workflow["step"] = list(steps.values())
    whole = io.StringIO(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    overlaid = crate.add_file(whole, "configuration.yaml", properties={"name": "The configuration, overlay included"})
    times = [a[key] for a in actions.values() for key in ("startTime", "endTime") if a.get(key)]
    run = crate.add_action(
        workflow,
        "#run",
        object=[overlaid, *(file(crate, path, sha256(Path(path))) for path in raw(chain))],
        result=[crate.get(path) for path in (printed(config, name) for name in [*tables, "index"]) if path in chain],
        properties={"name": f"Run {config['run']}", "startTime": min(times), "endTime": max(times)},
    )
    engine = described(crate, "#snakemake", "SoftwareApplication", name="Snakemake", url="https://snakemake.github.io")
    controls = []
    for stage, step in steps.items():
        own = [actions[path] for path, content in chain.items() if content["stage"] == stage]
        controls.append(described(crate, f"#control-{stage}", "ControlAction", instrument=step, object=own))
    described(crate, "#engine", "OrganizeAction", instrument=engine, result=run, object=controls)
    crate.root_dataset["mentions"] = [run, *actions.values()]
    crate.write_zip(to) if to.suffix == ".zip" else crate.write(to)


def described(crate: ROCrate, identifier: str, kind: str, **properties: object) -> Entity:
    """An entity about which the crate tells something, made on its first mention."""
    entity = crate.get(identifier) or crate.add(ContextEntity(crate, identifier, properties={"@type": kind}))
    for key, value in ({"name": identifier.lstrip("#")} | properties).items():
        entity[key] = value
    return entity


def raw(chain: dict[str, dict]) -> list[str]:
    """Plain files that artifacts were made from: published tables, run records, local reviews and models."""
    return sorted({path for content in chain.values() for path in content["inputs"] if not is_manifest(path)})


def tool(crate: ROCrate, stage: str) -> Entity:
    """The module of a stage, as the tool that its jobs run."""
    stem = STAGES[stage].replace(".", "/")
    path = next(path for path in (f"{stem}.py", f"{stem}/__init__.py") if Path(path).is_file())
    types = {"@type": ["File", "SoftwareSourceCode"], "name": f"stage {stage}", "sha256": sha256(Path(path))}
    return crate.add_file(path, path, properties=types)


def file(crate: ROCrate, path: str, digest: str) -> Entity:
    """A file of the project, in the crate; one from outside only by name and SHA-256."""
    if entity := crate.get(path):
        return entity
    if Path(path).is_absolute() or ".." in Path(path).parts:
        return described(crate, f"#{quote(path)}", "CreativeWork", name=path, sha256=digest)
    return crate.add_file(path, path, properties={"name": path, "sha256": digest})


def action(crate: ROCrate, manifest: str, content: dict, instrument: Entity) -> Entity:
    """The job that made an artifact."""
    results = [file(crate, manifest, sha256(Path(manifest)))]
    results += [file(crate, (Path(manifest).parent / name).as_posix(), d) for name, d in content["files"].items()]
    objects = [file(crate, path, digest) for path, digest in content["inputs"].items()]
    for key, value in flat(content["spec"]).items():
        text, name = json.dumps(value, ensure_ascii=False), f"{content['stage']}.{key}"
        objects.append(described(crate, f"#{quote(f'{name}={text}')}", "PropertyValue", name=name, value=text))
    made = crate.add_action(instrument, f"#{short(manifest)}", objects, results, properties={"name": short(manifest)})
    made["identifier"] = f"code {content['code']}"
    if record := facts(manifest):
        start = datetime.fromisoformat(record["started"])
        made["startTime"] = start.isoformat()
        made["endTime"] = (start + timedelta(seconds=record["seconds"])).isoformat()
        made["actionStatus"] = "http://schema.org/CompletedActionStatus"
        where = ("host", "processor", "device", "precision", "threads", "commit", "dirty")
        made["description"] = ", ".join(f"{key}: {record[key]}" for key in where)
        memory = {"propertyID": "ru_maxrss", "value": str(record["peak_memory_mib"]), "unitText": "MiB"}
        made["resourceUsage"] = described(crate, f"#memory-{short(manifest)}", "PropertyValue", **memory)
        for package, version in ({"python": record["python"]} | record["versions"]).items():
            software = described(
                crate, f"#{quote(f'{package}-{version}')}", "SoftwareApplication", name=package, version=version
            )
            if software not in instrument.get("softwareRequirements", []):
                instrument.append_to("softwareRequirements", software)
    return made
