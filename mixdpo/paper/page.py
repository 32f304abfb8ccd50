"""The page of a run: claims, tables and figures beside the published values, samples, and the chain behind each number.

One file without a network: styles, script and figures are inside. What varies from run to run of the same work (dates,
machines, versions) comes from the run records alone.
"""

import base64
import contextlib
import json
import math
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from safetensors import safe_open

from mixdpo.errors import Corrupt
from mixdpo.method.runtime import Runtime
from mixdpo.paper.claims import CLAIM_COLUMNS, SIGNS
from mixdpo.paper.scores import head_order, policies_in, within
from mixdpo.run.audit import lineage, sources
from mixdpo.run.config import configuration, experiments_of, is_figure, methods_of
from mixdpo.run.graph import job
from mixdpo.run.layout import PRINTED, parse
from mixdpo.run.published import resolved
from mixdpo.run.stages import STAGES

STATISTIC = {
    "rewards": "mean over test prompts ± SD/√n, each prompt's score first averaged over training seeds",
    "alignment": "mean over test prompts ± SD/√n of the difference to the reference on the same prompt",
    "best_heads": "mean over test prompts ± SD/√n of the difference to the baseline on the same prompt",
    "gates": "share of prompts ± its standard error",
    "comparisons": "difference to the baseline on the same prompts: mean ± SD/√n, bootstrap interval, Wilcoxon p",
    "validity": "area under the ROC curve, or share of pairs ordered rightly",
    "perplexity": "exp of the mean negative log-likelihood per token",
    "compute": "sums over jobs, and the largest resident set of one",
    "preferences": "counts, and shares of the pairs that neither style ties",
    "win_rates": "mean over pairs ± SD/√n, each the mean of its two orders, a tie half a win; KL over the test prompts",
    "length_bias": "mean over the pairs of that length ± SD/√n, a tie half a win",
    "users": "share ± √(p(1 − p)/n), or mean over test prompts ± SD/√n",
}
"""Kind of table → what its numbers are."""
NO_RESULT = re.compile(r"n\b|Published|Aim|Chance|by chance|Pairs$|Judgements failed")
"""What the headings of printed columns begin with that are no measurement."""
TESTED = {
    "greater": "claimed to lie above zero; 95 % interval, p two-sided and corrected by Holm for all claims",
    "less": "claimed to lie below zero; 95 % interval, p two-sided and corrected by Holm for all claims",
    "equal": "claimed to lie within a margin of a value; p of two one-sided tests, corrected by Holm for all claims",
}
"""Test of a claim → what was asked."""
ENVIRONMENT = ("processor", "device", "precision", "threads", "system", "python", "commit")
"""Run facts that the page lists as they are, beside the versions of packages."""


def page(out: Path, spec: dict, *, runtime: Runtime, resume: Path, **inputs: Path) -> None:
    """Write `index.html`. `inputs` are named as `graph.page_inputs` names them."""
    parts = by_kind(inputs)
    tables = {name: yaml.safe_load(path.read_text()) for name, path in parts["published"].items()}
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
    printed = [cells.table(n, t, manifests[n]) for n, t in tables.items() if not is_figure(t) and n != "claims"]
    claims = cells.claims(tables.get("claims"), manifests.get("claims"))
    content = {
        "run": spec["run"],
        "scale": scale(artifacts),
        "claims": claims,
        "verdicts": {verdict: [c for c in claims if c["verdict"] == verdict] for verdict in (*SIGNS, "not tested")},
        "tables": [table for table in printed if table["kind"] != "compute"],
        "compute": [table for table in printed if table["kind"] == "compute"],
        "figures": [cells.figure(n, t, manifests[n]) for n, t in tables.items() if is_figure(t)],
        "samples": [quoted_samples(e, own[e], tables, artifacts, spec["prompts"], rng) for e in own],
        "pairs": [quoted_pairs(e, own[e], tables, parts["preferences"][e], spec["pairs"], rng) for e in own],
        "differences": differences(artifacts, configuration(overlay=str(inputs["paper"])) | {"run": spec["run"]}),
        "decisions": markdown(inputs["decisions"].read_text()),
        "notes": markdown(inputs["notes"].read_text()),
        "environment": environment(artifacts),
        "artifacts": artifacts.described(),
        "cells": cells.found,
        "seed": spec["seed"],
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
    """The page: every text of `content` is escaped, but for what `markdown` and `interval` set."""
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    jinja.filters |= {function.__name__: function for function in (duration, interval, number, titled)}
    return jinja.from_string(template).render(content)


class Artifacts:
    """Every artifact behind the page, by index: `chain` is what `audit.lineage` gives."""

    def __init__(self, chain: dict[str, dict]) -> None:
        self.chain = chain
        self.index = {path: i for i, path in enumerate(chain)}

    def of_stage(self, stage: str) -> dict[str, dict]:
        return {path: artifact for path, artifact in self.chain.items() if artifact["stage"] == stage}

    def facts(self) -> list[dict]:
        """The run records, of those artifacts that have one."""
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
    """The numbers of the page that open their lineage; `found` is what the page embeds of each."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts, self.found = artifacts, []

    def add(self, title: str, manifest: Path, paths: list[str], records: list[dict], **more: object) -> int:
        """Index of a new cell that rests on the artifacts `paths`; `records` are its lines of the csv, every digit."""
        index = self.artifacts.index
        behind = [index[manifest.as_posix()], *(index[path] for path in paths)]
        self.found.append({"title": title, "artifacts": behind, "records": records, **more})
        return len(self.found) - 1

    def table(self, name: str, table: dict, manifest: Path) -> dict:
        """A table as it is printed, the published value with ours where a column `X, published` follows `X`."""
        csv = pd.read_csv(manifest.with_name(f"{name}.csv"), dtype=str, keep_default_na=False)
        head, *body = grid(manifest.with_name(f"{name}.md").read_text())
        statistic, rows = STATISTIC.get(table["kind"], ""), []
        for line in body:
            values, cells = dict(zip(head, line, strict=True)), []
            labels = [line[0], *(value for value in line[1:] if re.fullmatch(r"[^\d–]+", value))]
            for heading, value in values.items():
                if heading.removesuffix(", published") in {*values} - {heading}:
                    continue
                theirs = [v for v in values.get(f"{heading}, published", "").split("; ") if v]
                cells.append({"heading": heading, "value": signed(value), "published": theirs})
                if not cells[1:] or NO_RESULT.match(heading) or not re.search(r"\d", value):
                    continue
                records, column = records_of(csv, values, heading, table)
                shown = {"value": signed(value), "published": theirs, "statistic": statistic}
                shown |= texts_of(table, line[0], records, column)
                paths = sources(table, manifest, line[0], column)
                cells[-1]["cell"] = self.add(f"{', '.join(labels)}: {heading}", manifest, paths, records, **shown)
            rows.append(cells)
        headings = [h for h in head if h.removesuffix(", published") not in {*head} - {h}]
        figures = [
            i for i in range(len(headings)) if all(re.match(r"[-−+≥]? ?\d|–?$", row[i]["value"]) for row in rows)
        ]
        about = {key: table[key] for key in ("kind", "title", "where")}
        return about | {"name": name, "headings": headings, "figures": figures, "rows": rows, "statistic": statistic}

    def figure(self, name: str, table: dict, manifest: Path) -> dict:
        """A figure inside the page, and what the paper prints of it."""
        png = base64.b64encode(manifest.with_name(f"{name}.png").read_bytes()).decode()
        values = [(p["what"], p.get("value", ", ".join(p.get("words", []))), p["where"]) for p in table["published"]]
        cell = self.add(f"{titled(name)}: {table['title']}", manifest, sources(table, manifest, "", ""), [])
        about = {key: table[key] for key in ("title", "where")}
        return about | {"name": name, "png": png, "published": values, "cell": cell}

    def claims(self, table: dict | None, manifest: Path | None) -> list[dict]:
        """The claims as their csv has them, and as they are printed; none if the run has no such table."""
        if table is None:
            return []
        lines = pd.read_csv(manifest.with_name("claims.csv")).fillna({"experiment": ""}).to_dict("records")
        head, *body = grid(manifest.with_name("claims.md").read_text())
        for line, row, printed in zip(lines, table["rows"], body, strict=True):
            shown = {heading.partition(" (")[0]: signed(text) for heading, text in zip(head, printed, strict=True)}
            line |= {"ours": shown["Ours"], "printed": shown["Published"], "p_shown": shown["p"], "n_shown": shown["n"]}
            line["reason"] = shown["Verdict"].removeprefix(line["verdict"]).removeprefix(": ")
            line["sign"], line["null"] = SIGNS.get(line["verdict"], "–"), row.get("target", 0)
            if math.isnan(line["effect"]):
                continue
            record = {key: str(value) for key, value in line.items() if key in CLAIM_COLUMNS and pd.notna(value)}
            about = {"value": shown["Ours"], "published": [shown["Published"]], "statistic": TESTED[line["test"]]}
            if "reward" in row:
                about |= {"sample": f"{row['policy']}/{row.get('decoding', 'token')}", "domain": row.get("domain", "")}
                about["experiment"] = row["experiment"]
            paths = sources(table, manifest, line["claim"], "effect")
            line["cell"] = self.add(line["text"], manifest, paths, [record], **about)
        return lines


def grid(text: str) -> list[list[str]]:
    """Cells of the one table in a Markdown text, its head first."""
    tokens, rows = MarkdownIt("commonmark").enable("table").parse(text), []
    for opening, inline in pairwise(tokens):
        if opening.type == "tr_open":
            rows.append([])
        if opening.type in ("th_open", "td_open"):
            rows[-1].append(inline.content)
    return rows


def records_of(csv: pd.DataFrame, values: dict[str, str], heading: str, table: dict) -> tuple[list[dict], str]:
    """Lines of the csv behind a printed cell, and the csv's name of its column.

    A line of a csv with `row` and `column` belongs to the row of that name and the column whose heading it has; of
    any other, to the printed rows that have its words under the headings of the same name.
    """
    if {"row", "column"} <= {*csv}:
        label, *others = values.values()
        own = csv[csv["row"] == label]
        headings = {title: name for name, title in (table.get("columns") or {}).items()}
        wanted = {headings.get(text, text) for text in (heading, *others)}
        column = next((c for c in own["column"] if c in wanted), heading)
        return (own[own["column"] == column] if column in {*own["column"]} else own).to_dict("records"), column
    known = {h: v for h, v in values.items() if h.lower() in csv and (csv[h.lower()] == v).any()}
    own = csv[np.logical_and.reduce([csv[h.lower()] == v for h, v in known.items()])] if known else csv
    return own.to_dict("records"), heading


def texts_of(table: dict, label: str, records: list[dict], column: str) -> dict[str, str]:
    """Which quoted completions stand behind a cell: method and decoding, and the domain where the column is one."""
    if table["kind"] not in ("rewards", "alignment", "best_heads", "comparisons"):
        return {}
    row = next(row for row in table["rows"] if row["name"] == label)
    head = next((record["head"] for record in records if record.get("head")), "")
    decoding = f"expert{head.removeprefix('Head ')}" if head else row.get("decoding", "token")
    domain = column if "reward" in table else ""
    return {"experiment": table["experiment"], "sample": f"{row['policy']}/{decoding}", "domain": domain}


def number(value: float, digits: int = 3) -> str:
    """For reading; a dash if there is none."""
    return "–" if math.isnan(value) else f"{value:,.{digits}f}".replace("-", "−")


def signed(text: str) -> str:
    """A text with minus signs before its numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def titled(name: str) -> str:
    """The name of a table, figure or experiment as a heading."""
    return re.sub(r"(\d+)", r" \1", name.replace("_", " ")).capitalize()


def duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def interval(claim: dict) -> Markup:
    """A claim's effect and interval as a line, on a scale of its own that holds what it is compared with."""
    if math.isnan(claim["effect"]):
        return Markup("")
    null, effect = claim["null"], claim["effect"]
    bounds = [effect if math.isnan(claim[key]) else claim[key] for key in ("low", "high")]
    low, high = min(null, effect, *bounds), max(null, effect, *bounds)
    x = [f"{6 + 108 * (value - low) / ((high - low) or 1):.1f}" for value in (null, *bounds, effect)]
    said = f"{number(effect)}, interval {number(bounds[0])} to {number(bounds[1])}, against {number(null)}"
    return Markup(
        '<svg class="interval" viewBox="0 0 120 20" role="img" aria-label="{}"><line class="null" x1="{}" x2="{}" y1="1" '
        'y2="19"/><line x1="{}" x2="{}" y1="10" y2="10"/><circle cx="{}" cy="10" r="3.5"/></svg>'
    ).format(said, x[0], x[0], *x[1:])


def size(base: Path) -> dict:
    """Weights, layers and width of a base model."""
    weights = 0
    for file in (base / "model").glob("*.safetensors"):
        with safe_open(file, "numpy") as model:
            weights += sum(math.prod(model.get_slice(name).get_shape()) for name in model.keys())  # noqa: SIM118
    config = json.loads((base / "model/config.json").read_text())
    names = {"layers": ("n_layer", "num_hidden_layers"), "width": ("n_embd", "hidden_size")}  # GPT-2's, and the others'
    return {"weights": weights} | {
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


def quoted_samples(
    experiment: str, own: dict[str, Path], tables: dict[str, dict], artifacts: Artifacts, prompts: int, rng
) -> dict:
    """Test prompts drawn evenly from the domains, each with every policy's completions (first seed) and rewards."""
    names, methods = {}, {}
    for table in tables.values():
        if experiment in experiments_of(table):
            methods |= dict.fromkeys(methods_of(table, experiment))
            if table["kind"] in ("rewards", "alignment", "win_rates"):
                rows = {(row["policy"], row.get("decoding", "token")): row["name"] for row in table["rows"]}
                opponents = {(method, "token"): name for method, name in table.get("opponents", {}).items()}
                names = rows | opponents | names
    drawn, quoted = None, defaultdict(list)
    for method in methods:
        policy = policies_in(own, method, "completions")[0]
        frame = pd.read_parquet(own[f"completions:{policy}"] / "completions.parquet")
        rewards = []
        if f"rewards:{policy}" in own:
            scores = pd.read_parquet(own[f"rewards:{policy}"] / "scores.parquet")
            rewards = [name for name in scores if name not in ("prompt_id", "sample", "decoding")]
            frame = frame.merge(scores, on=["prompt_id", "sample", "decoding"], validate="1:1")
        if "style" in frame:  # who asks is what the prompts of users differ in
            frame["domain"] = "for " + frame["style"].str.replace("_", " ")
        weights = pd.read_parquet(own[f"completions:{policy}"] / "weights.parquet").set_index("prompt_id")
        order = head_order(own, method).get(policy, [0])
        if drawn is None:
            drawn = draw(frame, prompts, rng)
        shown = {f"expert{k}": f"expert{i}" for i, k in enumerate(order)}
        for prompt_id, own_lines in frame[frame["prompt_id"].isin(drawn.index)].groupby("prompt_id"):
            w = [float(weights.loc[prompt_id, f"w{k}"]) for k in order]
            entries = []
            for line in own_lines.to_dict("records"):
                decoding = shown.get(line["decoding"], line["decoding"])
                expert = int(decoding.removeprefix("expert")) if decoding in shown.values() else None
                largest = len(order) > 1 and expert == int(np.argmax(w))
                entries.append(
                    {
                        "name": names.get((method, decoding), decoding.replace("expert", "Head ")),
                        "samples": f"{method}/{decoding}" + f" {method}/sparse" * largest,
                        "text": line["completion"],
                        "scores": [(name, line[name]) for name in rewards],
                        "weight": w[expert] if expert is not None else None,
                        "largest": largest and len(set(w)) > 1,
                        "expert": expert,
                    }
                )
            entries.sort(key=lambda entry: -1 if entry["expert"] is None else entry["expert"])
            manifest = own.get(f"policies:{policy}")
            about = describe(artifacts.chain[(manifest / "manifest.json").as_posix()]["spec"]) if manifest else ""
            quoted[prompt_id].append({"method": method, "about": about, "entries": entries})
    texts = [
        {"text": drawn.loc[i, "prompt"], "domain": drawn.loc[i, "domain"], "methods": quoted[i]} for i in drawn.index
    ]
    return {"experiment": experiment, "prompts": texts}


def draw(frame: pd.DataFrame, n: int, rng) -> pd.DataFrame:
    """At most n prompts in the order of their ids, an equal share from every domain and at least one."""
    prompts = frame.drop_duplicates("prompt_id").set_index("prompt_id")[["prompt", "domain"]]
    shares = [part.index.to_numpy() for _, part in prompts.groupby("domain")]
    drawn = [rng.choice(ids, min(len(ids), max(1, n // len(shares))), replace=False) for ids in shares]
    return prompts.loc[np.sort(np.concatenate(drawn))]


def describe(spec: dict) -> str:
    """A method in words, from the spec that it was trained with."""
    heads, models = spec["shared_heads"], spec["independent_models"]
    experts = [f"{heads} heads on one encoder"] * (heads > 0)
    experts += [f"{models} model" + "s" * (models > 1)] * (models > 0)
    experts += [f"{spec['adapters']} adapters of one model"] * (spec["adapters"] > 0)
    experts += [f"experts of {', '.join(spec['initial_experts'])}"] * bool(spec["initial_experts"])
    learned = "learned" if spec["learn_weights"] else "fixed"
    several = heads + models + spec["adapters"] > 1 or bool(spec["initial_experts"])
    weights = f", {learned} {'gate' if spec['weights'] == 'gate' else 'weights'}" * several
    return f"{' and '.join(experts)}{weights}, {spec['epochs']} epoch{'s' * (spec['epochs'] > 1)}"


def quoted_pairs(
    experiment: str, own: dict[str, Path], tables: dict[str, dict], preferences: Path, n: int, rng
) -> dict:
    """Validation pairs, what each style prefers, and responsibilities of every policy of several experts (first seed).

    Rows of `responsibilities.parquet` are those of `validation.parquet`.
    """
    triplets = pd.read_parquet(preferences / "validation.parquet")
    both = triplets[["chosen", "rejected"]]
    triplets["pair"] = pd.factorize(pd.Series(zip(triplets["prompt_id"], both.min(axis=1), both.max(axis=1))))[0]
    q = {}
    for method in dict.fromkeys(
        m for t in tables.values() if experiment in experiments_of(t) for m in methods_of(t, experiment)
    ):
        for policy, order in list(head_order(own, method).items())[:1]:
            table = pd.read_parquet(own[f"policies:{policy}"] / "responsibilities.parquet")
            if len(table) != len(triplets) or (table["style"] != triplets["style"]).any():
                raise Corrupt(
                    f"{own[f'policies:{policy}']}: expected responsibilities of the {len(triplets)} triplets of "
                    f"{preferences}, found {len(table)} others; delete it and run again"
                )
            if len(order) > 1:
                q[method] = table[[f"q{k}" for k in order]].to_numpy()
    pairs = triplets["pair"].unique()
    chosen, quoted = np.sort(rng.choice(pairs, min(n, len(pairs)), replace=False)), []
    for pair in chosen:
        lines = triplets[triplets["pair"] == pair]
        first = lines.iloc[0]
        styles = []
        for line in lines.to_dict("records"):
            is_a = line["chosen"] == first["chosen"]
            scores = [line["chosen_score"], line["rejected_score"]][:: 1 if is_a else -1]
            styles.append({"style": line["style"], "prefers": "A" if is_a else "B", "scores": scores})
        quoted.append(
            {
                "prompt": first["prompt"],
                "domain": first["domain"],
                "texts": {"A": first["chosen"], "B": first["rejected"]},
                "styles": styles,
                "methods": {method: values[lines.index].tolist() for method, values in q.items()},
            }
        )
    return {"experiment": experiment, "pairs": quoted, "experts": max((v.shape[1] for v in q.values()), default=0)}


def differences(artifacts: Artifacts, paper: dict) -> list[dict]:
    """Settings in which the artifacts differ from what the paper's configuration `paper` would give them."""
    found, jobs = defaultdict(list), Counter()
    for path, artifact in artifacts.chain.items():
        if (key := parse(path)).stage in PRINTED:
            continue
        with contextlib.suppress(KeyError):  # a method or experiment of this run alone has nothing to be compared with
            _, theirs = job(paper, {}, path)
            stage, ours = artifact["stage"].removeprefix("embedded_"), artifact["spec"]
            jobs[stage] += 1
            if theirs.get("source") != ours.get("source"):
                theirs, ours = ({"source": {"source": side["source"]} | side} for side in (theirs, ours))
            for name in sorted({*flat(theirs), *flat(ours)}):
                values = [written(flat(side).get(name)) for side in (theirs, ours)]
                if values[0] != values[1]:
                    found[stage, name, *values].append(key.place.partition("/")[2])
    lines = [
        {"stage": stage, "key": key, "paper": theirs, "here": ours, "of": of if len(of) < jobs[stage] else []}
        for (stage, key, theirs, ours), of in found.items()
    ]
    return sorted(lines, key=lambda line: list(STAGES).index(line["stage"]))


def flat(spec: dict, prefix: str = "") -> dict:
    """A spec with nested keys joined by dots; what comes from another source stays one value."""
    items = {}
    for key, value in spec.items():
        nested = isinstance(value, dict) and key != "source"
        items |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return items


def written(value: object) -> str:
    """A setting as the configuration writes it."""
    if value is None:
        return "–"
    text = yaml.safe_dump(value, default_flow_style=not isinstance(value, dict), sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


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


def markdown(text: str) -> Markup:
    """A document of docs/ as a part of the page: its title left out, its headings below the page's."""
    parser = MarkdownIt("commonmark", {"html": False, "typographer": False}).enable("table")
    tokens = parser.parse(text)
    title = next((i for i, token in enumerate(tokens) if token.type == "heading_close"), -1)
    for token in (body := tokens[title + 1 :]):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
        if token.type == "th_open":
            token.attrSet("scope", "col")
    html = parser.renderer.render(body, parser.options, {})
    scroll = '<div class="scroll" tabindex="0" role="group" aria-label="Table, scrolls sideways"><table>'
    return Markup(html.replace("<table>", scroll).replace("</table>", "</table></div>"))
