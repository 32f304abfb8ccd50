"""A made-up run with one table, one figure and two claims, and its page."""

import json
import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import yaml
from planted import whole
from safetensors.numpy import save_file

from mixdpo.paper.page import page as make_page
from mixdpo.paper.tables import tables as print_table
from mixdpo.provenance.artifact import publish, write_json
from mixdpo.run.config import configuration, published, spec
from mixdpo.run.graph import job, page_inputs, table_inputs
from mixdpo.run.layout import parse

ROOT = Path(__file__).parent.parent
HOSTILE = '</script><b id="hostile">bold</b> & "quoted" <img src=x onerror=alert(1)>'
TABLE = {
    "kind": "rewards",
    "title": "Reward scores of a small world",
    "where": "Table 1, section 4.1",
    "experiment": "multi_reward",
    "columns": {"sentiment": "Sentiment", "grammar": "Grammar"},
    "rows": [
        {"name": "Reference (SFT)", "policy": "reference"},
        {
            "name": "Baseline DPO",
            "policy": "dpo",
            "published": {"sentiment": [{"mean": 0.61, "se": 0.004, "where": "Table 1"}]},
        },
        {"name": "Case 1, by token", "policy": "mix_case1", "decoding": "token"},
        {"name": "Case 1, Head 0", "policy": "mix_case1", "decoding": "expert0"},
    ],
}
CLAIMS = {
    "kind": "claims",
    "title": "What the paper claims, tested",
    "where": "sections",
    "experiments": ["multi_reward"],
    "cells_of": ["table1"],
    "published_prompts": {"multi_reward": 10000},
    "seed": 0,
    "rows": [
        {
            "claim": "case1_over_dpo",
            "text": "The mixture beats DPO by `mix_case1`",
            "where": "section 4.1",
            "experiment": "multi_reward",
            "policy": "mix_case1",
            "decoding": "token",
            "baseline": "dpo",
            "reward": "sentiment",
            "test": "greater",
        },
        {
            "claim": "sizes",
            "text": "The gains hold over sizes",
            "where": "abstract",
            "test": "none",
            "reason": "one size of multi_reward",
        },
    ],
}
FIGURE = {
    "kind": "words",
    "title": "Words of the heads",
    "where": "Figure 2",
    "experiment": "multi_reward",
    "rows": [{"name": "Case 1", "policy": "mix_case1"}],
    "published": [{"what": "Head 0", "words": ["average"], "where": "Figure 2"}],
}


DIFFERENCES = [
    {"stage": "sft", "key": "optimiser.epochs", "paper": "3", "here": "2", "of": []},
    {"stage": "policies", "key": "seed", "paper": "–", "here": f"a: {HOSTILE}", "of": ["multi_reward/dpo/seed0"]},
]


def artifact(manifest: str, stage: str, settings: dict, inputs: list[str], write) -> None:
    with publish(
        Path(manifest), stage=stage, spec=settings, code="0123456789abcdef", inputs={i: Path(i) for i in inputs}
    ) as (out, _):
        write(out)
    facts = dict.fromkeys(("host", "system", "processor", "precision", "python", "commit"), "made up")
    facts |= {"device": "cpu", "threads": 1, "dirty": False, "seconds": 61.0, "peak_memory_mib": 512}
    write_json(
        Path(parse(manifest).record),
        facts | {"started": "2026-01-02T03:04:05Z", "versions": {"numpy": np.__version__}},
    )


def made_page() -> Path:
    for name in (
        "config.yaml",
        "config",
        "docs",
        *(f"mixdpo/paper/page.{suffix}" for suffix in ("html.j2", "css", "js")),
    ):
        source, to = ROOT / name, Path(name)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, to) if source.is_dir() else shutil.copy(source, to)
    Path("mixdpo/paper/published").mkdir(parents=True)
    for name, table in ("table1", TABLE), ("claims", CLAIMS), ("figure2", FIGURE):
        Path(f"mixdpo/paper/published/{name}.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    config, tables = configuration() | {"run": "made"}, published(Path("mixdpo/paper/published"), configuration())
    run, rng = "results/made", np.random.default_rng(0)
    reviews, base = f"{run}/assets/reviews/manifest.json", f"{run}/assets/base/manifest.json"
    made(reviews, config, [], lambda out: (out / "reviews.parquet").write_bytes(b"reviews"))

    def model(out: Path) -> None:
        (out / "model").mkdir()
        save_file({"wte": np.zeros((300, 10), np.float32)}, out / "model/model.safetensors")
        (out / "model/config.json").write_text(json.dumps({"n_layer": 2, "n_embd": 10, "vocab_size": 300}))

    made(base, config, [reviews], model)
    sft = f"{run}/sft/multi_reward/manifest.json"
    made(sft, config, [base, reviews], model)
    preferences = f"{run}/preferences/multi_reward/manifest.json"
    prompts = [f"Prompt number {i}" for i in range(20)]
    triplets = pd.DataFrame(
        [(i, prompts[i], *pair, style, "movie", 0.9, 0.1, "0-1") for i in range(6) for style, pair in sides(i).items()],
        columns=[
            "prompt_id",
            "prompt",
            "chosen",
            "rejected",
            "style",
            "domain",
            "chosen_score",
            "rejected_score",
            "pair",
        ],
    )
    completions = f"{run}/completions/multi_reward/manifest.json"
    made(completions, config, [sft, reviews], lambda out: (out / "completions.parquet").write_bytes(b"completions"))
    made(preferences, config, [completions], lambda out: triplets.to_parquet(out / "validation.parquet"))
    for policy in ("reference", "dpo/seed0", "mix_case1/seed0"):
        experts = 3 if policy.startswith("mix") else 1
        trained = f"{run}/policies/multi_reward/{policy}/manifest.json"
        if policy != "reference":
            q = pd.DataFrame(rng.dirichlet([1] * experts, len(triplets))).add_prefix("q")
            q.insert(0, "style", triplets["style"])
            q = whole(q).sort_values("split", kind="stable")
            made(trained, config, [preferences, sft], lambda out, q=q: q.to_parquet(out / "responsibilities.parquet"))
        decodings = ["token", *(["sequence", "expert0", "expert1", "expert2"] if experts > 1 else [])]
        frame = pd.DataFrame({"prompt_id": range(20), "prompt": prompts, "domain": "movie", "sample": 0})
        frame = frame.merge(pd.DataFrame({"decoding": decodings}), how="cross").assign(
            completion=f" {policy} {HOSTILE}"
        )
        weights = pd.DataFrame(
            {"prompt_id": range(20), "domain": "movie"} | {f"w{k}": 1 / experts for k in range(experts)}
        )
        folder = f"{run}/evaluations/multi_reward/{policy}"

        def completed(out: Path, frame=frame, weights=weights) -> None:
            frame.to_parquet(out / "completions.parquet")
            weights.to_parquet(out / "weights.parquet")

        source = sft if policy == "reference" else trained
        made(f"{folder}/completions/manifest.json", config, [source, reviews], completed)
        scores = frame[["prompt_id", "sample", "decoding"]].assign(
            sentiment=rng.random(len(frame)), informativeness=1.0, grammar=rng.random(len(frame))
        )
        made(
            f"{folder}/rewards/manifest.json",
            config,
            [f"{folder}/completions/manifest.json"],
            lambda out, scores=scores: scores.to_parquet(out / "scores.parquet"),
        )
    for name in tables:
        named = {key: path for key, path in table_inputs(config, tables, name).items() if Path(path).exists()}
        folders = {
            key: Path(path).parent if path.endswith("manifest.json") else Path(path) for key, path in named.items()
        }
        manifest = f"paper_tables/made/{name}.manifest.json"

        def printed(out: Path, name=name, folders=folders) -> None:
            if name == "figure2":
                matplotlib.image.imsave(out / "figure2.png", np.zeros((4, 8)))
            else:
                print_table(out, {"table": name}, runtime=None, resume=out, **folders)

        artifact(manifest, "figures" if name == "figure2" else "tables", {"table": name}, list(named.values()), printed)
    return rendered(config, tables, Path("page"))


def made(manifest: str, config: dict, inputs: list[str], write) -> None:
    """An artifact with the stage and spec that the configuration gives it."""
    artifact(manifest, *job(config, {}, manifest), inputs, write)


def sides(i: int) -> dict[str, tuple[str, str]]:
    """Two styles that order the two completions of a prompt alike, and one that does not."""
    pair = (f" good {i} {HOSTILE}", f" bad {i}")
    return {"sentiment": pair, "grammar": pair, "informativeness": pair[::-1]}


def rendered(config: dict, tables: dict, out: Path) -> Path:
    inputs = {name: Path(path) for name, path in page_inputs(config, tables).items()}
    folders = {name: path.parent if path.name == "manifest.json" else path for name, path in inputs.items()}
    out.mkdir()
    make_page(out, spec(config, "page") | {"differences": DIFFERENCES}, runtime=None, resume=out, **folders)
    return (out / "index.html").absolute()


def cell(text: str, records: list[dict] = (), label: bool = False, published: list[str] = (), **more) -> dict:
    keys = ("policy", "decoding", "domain", "experiment")
    about = {"text": text, "published": list(published), "records": list(records), "label": label}
    return about | dict.fromkeys(keys) | {"row": "", "column": ""} | more
