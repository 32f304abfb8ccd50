"""The page of a run: claims, tables and figures beside the published values, samples, and the chain behind each number.

One file without a network: styles, script and figures are inside. What varies from run to run of the same work (dates,
machines, versions) comes from the run records alone.
"""

import base64
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from safetensors import safe_open

from mixdpo.method.runtime import Runtime
from mixdpo.paper import page_claims, page_words
from mixdpo.paper.claims import SIGNS
from mixdpo.paper.page_claims import TESTED, claims_of, headlines, panels
from mixdpo.paper.page_texts import quoted_pairs, quoted_samples
from mixdpo.paper.page_words import listed, markdown, named, titled
from mixdpo.paper.text import number
from mixdpo.run.audit import lineage, sources
from mixdpo.run.config import is_figure
from mixdpo.run.kinds import within
from mixdpo.run.published import resolved
from mixdpo.run.yaml import read

ENVIRONMENT = ("processor", "device", "precision", "threads", "system", "python", "commit")
"""Run facts that the page lists as they are, beside the versions of packages."""
DOTS_PER_PIXEL = 300 / 96
"""Dots of a figure, drawn at 300 per inch, in one CSS pixel."""
FILTERS = (
    "duration",
    "headed",
    "listed",
    "named",
    "number",
    "prose",
    "prose_lines",
    "thousands",
    "titled",
    "weights",
    "words_of",
)


def page(out: Path, spec: dict, *, runtime: Runtime, resume: Path, **inputs: Path) -> None:
    """Write `index.html`. `inputs` are named as `graph.page_inputs` names them."""
    parts = by_kind(inputs)
    tables = {name: read(path) for name, path in parts["published"].items()}
    manifests, chain = parts["table"], {}
    folders = [*parts["policies"].values(), *parts["rewards"].values()]
    for manifest in [*manifests.values(), *(folder / "manifest.json" for folder in folders)]:
        chain |= lineage(manifest)
    artifacts = Artifacts(dict(sorted(chain.items())))
    cells, rng = Cells(artifacts), np.random.default_rng(spec["seed"])
    own = {experiment: within(inputs, experiment) for experiment in parts["preferences"]}
    order = sorted(
        manifests, key=lambda name: (not name.startswith("table"), tables[name]["where"].startswith("ours"), name)
    )
    tables = {name: resolved(tables[name], tables) for name in order}
    printed = [part for n, t in tables.items() if not is_figure(t) for part in cells.tables(n, t, manifests[n])]
    of_claims = [table for table in printed if table["kind"] == "claims"]
    claims = [claim for table in of_claims for claim in claims_of(table, tables[table["file"]]["rows"])]
    specs, sizes = {path: artifact["spec"] for path, artifact in chain.items()}, scale(artifacts)
    content = {
        "run": spec["run"],
        "scale": sizes,
        "claims": claims,
        "verdicts": {verdict: [c for c in claims if c["verdict"] == verdict] for verdict in (*SIGNS, "not tested")},
        "headlines": headlines(claims),
        "panels": panels(claims),
        "tables": [table for table in printed if table["kind"] not in ("compute", "claims")],
        "claim_tables": of_claims,
        "compute": [table for table in printed if table["kind"] == "compute"],
        "notes_of": {"perplexity": untrained([t for t in printed if t["kind"] == "perplexity"], sizes["bases"])},
        "figures": [cells.figure(n, t, manifests[n]) for n, t in tables.items() if is_figure(t)],
        "samples": [quoted_samples(e, own[e], tables, specs, spec["prompts"], rng) for e in own],
        "pairs": [quoted_pairs(e, own[e], tables, parts["preferences"][e], spec["pairs"], rng) for e in own],
        "differences": spec["differences"],
        "decisions": markdown(inputs["decisions"].read_text()),
        "notes": markdown(inputs["notes"].read_text()),
        "environment": environment(artifacts),
        "artifacts": artifacts.described(),
        "cells": cells.found,
        "seed": spec["seed"],
        **{name: Markup(inputs[name].read_text()) for name in ("style", "script")},
    }
    (out / "index.html").write_text(render(inputs["template"].read_text(), content))


def by_kind(inputs: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """Inputs named `kind:name`, by kind and then by name."""
    parts = defaultdict(dict)
    for full, path in inputs.items():
        kind, _, name = full.partition(":")
        parts[kind][name] = path
    return parts


def render(template: str, content: dict) -> str:
    """The page: every text in `content` is escaped, except what `markdown`, `prose` and the drawings of claims
    return."""
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    jinja.filters |= {name: getattr(page_words, name) for name in FILTERS}
    jinja.globals |= {name: getattr(page_claims, name) for name in ("axis", "drawn")} | {"units": page_claims.UNITS}
    return jinja.from_string(template).render(content)


class Artifacts:
    """Every artifact behind the page, by index: `chain` is what `audit.lineage` gives."""

    def __init__(self, chain: dict[str, dict]) -> None:
        self.chain = chain
        self.index = {path: i for i, path in enumerate(chain)}

    def of_stage(self, stage: str) -> dict[str, dict]:
        return {path: artifact for path, artifact in self.chain.items() if artifact["stage"] == stage}

    def facts(self) -> list[dict]:
        """The run records of the artifacts that have one."""
        return [artifact["facts"] for artifact in self.chain.values() if artifact["facts"]]

    def described(self) -> list[dict]:
        """As the page embeds them: inputs that are artifacts by index, plain files by path."""
        return [
            {
                "path": path,
                "stage": artifact["stage"],
                "spec": artifact["spec"],
                "code": artifact["code"],
                "sha256": artifact["sha256"],
                "inputs": [self.index.get(source, source) for source in artifact["inputs"].values()],
                "facts": {k: v for k, v in (artifact["facts"] or {}).items() if k != "versions"},
            }
            for path, artifact in self.chain.items()
        ]


class Cells:
    """The numbers on the page that open their lineage; `found` is what the page embeds for each."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts, self.found = artifacts, []

    def add(self, title: str, manifest: Path, paths: list[str], records: list[dict], **more: object) -> int:
        """Index of a new cell that rests on the artifacts `paths`; `records` are its lines of the csv, every digit."""
        index = self.artifacts.index
        behind = [index[manifest.as_posix()], *(index[path] for path in paths)]
        self.found.append({"title": title, "artifacts": behind, "records": records, **more})
        return len(self.found) - 1

    def tables(self, name: str, table: dict, manifest: Path) -> list[dict]:
        """What NAME.json prints: tables whose cells with records have a `cell`, the index of their lineage.

        A row of claims has one such cell, since every number of a claim rests on the same.
        """
        printed = json.loads(manifest.with_name(f"{name}.json").read_text())["printed"]
        for part in printed:
            part["file"] = name
            for row in part["rows"]:
                measured = [(cell, heading) for cell, heading in zip(row, part["headings"]) if opens(cell)]
                for cell, heading in measured[: 1 if part["kind"] == "claims" else None]:
                    cell["cell"] = self.of(cell, heading["text"], row, part, table, manifest)
        return printed

    def of(self, cell: dict, heading: str, row: list[dict], part: dict, table: dict, manifest: Path) -> int:
        """Index of the lineage of a printed cell."""
        labels = [named(other["text"]) for other in row if other["label"]]
        title, statistic, record = f"{', '.join(labels)}: {named(heading)}", part["statistic"], cell["records"][0]
        if part["kind"] == "claims":
            title, statistic = record["text"], TESTED.get(record["test"], statistic)
        shown = {"value": cell["text"], "published": cell["published"], "statistic": statistic}
        if cell["experiment"] and cell["policy"]:
            decoding = cell["decoding"] or "token"
            shown |= {"experiment": cell["experiment"], "sample": f"{cell['policy']}/{decoding}"}
            shown["domain"] = cell["domain"] or ""
        paths = sources(table, manifest, cell["row"], cell["column"])
        return self.add(title, manifest, paths, cell["records"], **shown)

    def figure(self, name: str, table: dict, manifest: Path) -> dict:
        """A figure inside the page, and the values that the paper prints for it."""
        png = manifest.with_name(f"{name}.png").read_bytes()
        width, height = (int.from_bytes(png[at : at + 4], "big") / DOTS_PER_PIXEL for at in (16, 20))
        values = [
            (p["what"], p.get("value", ", ".join(p.get("words", []))), p["where"]) for p in table.get("published", [])
        ]
        cell = self.add(f"{titled(name)}: {table['title']}", manifest, sources(table, manifest, "", ""), [])
        shown = {"png": base64.b64encode(png).decode(), "width": round(width), "height": round(height)}
        about = {key: table[key] for key in ("title", "where")}
        return about | shown | {"name": name, "published": values, "cell": cell}


def opens(cell: dict) -> bool:
    """Whether a printed cell shows a measurement: it has lines of the csv behind it and a digit."""
    return bool(cell["records"]) and not cell["label"] and any(c.isdigit() for c in cell["text"])


def size(base: Path) -> dict:
    """Weights, layers and width of a base model."""
    weights = 0
    for file in (base / "model").glob("*.safetensors"):
        with safe_open(file, "numpy") as model:
            weights += sum(math.prod(model.get_slice(name).get_shape()) for name in model.keys())  # noqa: SIM118
    config = json.loads((base / "model/config.json").read_text())
    names = {"layers": ("n_layer", "num_hidden_layers"), "width": ("n_embd", "hidden_size")}  # GPT-2's, and the others'
    return {"weights": weights, "vocabulary": config.get("vocab_size", 0)} | {
        k: next((config[n] for n in known if n in config), "?") for k, known in names.items()
    }


def scale(artifacts: Artifacts) -> dict:
    """How large the run is, from its artifacts: base models, prompts, seeds, machine, dates."""
    facts = artifacts.facts()
    policies = [artifact["spec"] for artifact in artifacts.of_stage("policies").values()]

    def prompts(stage: str) -> list[int]:
        return sorted({artifact["spec"]["prompts"] for artifact in artifacts.of_stage(stage).values()})

    return {
        "bases": [size(Path(path).parent) for path in artifacts.of_stage("base")],
        "train": prompts("completions"),
        "users": bool(artifacts.of_stage("user_preferences")),
        "test": prompts("evaluations"),
        "seeds": sorted({spec["seed"] for spec in policies}),
        "policies": len(policies),
        "devices": sorted({fact["device"].replace("cpu", "CPU") for fact in facts}),
        "first": min((fact["started"][:10] for fact in facts), default=""),
        "last": max((fact["started"][:10] for fact in facts), default=""),
        "jobs": len(facts),
        "seconds": sum(fact["seconds"] for fact in facts),
    }


def untrained(printed: list[dict], bases: list[dict]) -> str:
    """What a base model's perplexity near the size of its vocabulary means; nothing where there is none.

    A model that gives all its tokens the same probability has a perplexity of the vocabulary's size.
    """
    vocabulary = max((base["vocabulary"] for base in bases), default=0)
    records = [record for table in printed for row in table["rows"] for cell in row for record in cell["records"]]
    before = {record["domain"]: float(record["before"]) for record in records}
    strange = [(named(d), value) for d, value in before.items() if vocabulary and value > vocabulary / 2]
    if not strange:
        return ""
    where = listed([f"{number(value, 0)} on texts of the domain “{domain}”" for domain, value in strange])
    return (
        f"A guess among the {vocabulary:,} tokens of the vocabulary has a perplexity of {vocabulary:,}. The base model "
        f"is little better than that, at {where}, because it has seen no such text before SFT."
    )


def environment(artifacts: Artifacts) -> list[tuple[str, list[tuple[str, int]]]]:
    """Every fact of the machines and versions of packages, with each value and the jobs that had it."""
    changes = {True: "yes", False: "no", None: "unknown"}
    facts = [
        {name: fact[name] for name in ENVIRONMENT} | {"uncommitted changes": changes[fact["dirty"]]} | fact["versions"]
        for fact in artifacts.facts()
    ]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    counts = {name: Counter(str(fact.get(name, "not recorded")) for fact in facts) for name in names}
    return [(name, sorted(values.items(), key=lambda item: (-item[1], item[0]))) for name, values in counts.items()]
