"""The page of a run: what it says, that nothing in it is loaded or run, and that it works by mouse and by keyboard."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import save_file

from mixdpo.paper.page import page as make_page
from mixdpo.paper.page import untrained
from mixdpo.paper.page_claims import SECTIONS, UNITS, Scale, claims_of, drawn, headlines, panels, section_of
from mixdpo.paper.page_texts import describe, draw
from mixdpo.paper.page_words import headed, listed, markdown, named, number, prose, signed, titled, words_of
from mixdpo.paper.tables import tables as print_table
from mixdpo.provenance.artifact import publish, write_json
from mixdpo.run.config import configuration, method_of, published, spec
from mixdpo.run.graph import job, page_inputs, table_inputs

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


OPEN = "document.querySelectorAll('details').forEach(fold => { fold.open = true; })"
OVERFLOWING = """() => {
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const box = e.getBoundingClientRect();
    if (!(e instanceof HTMLElement) || !e.checkVisibility() || e.matches(".skip, .scroll") || !box.width) continue;
    if (getComputedStyle(e).display === "inline") continue;
    const cut = e.scrollWidth > e.clientWidth + 1 && e.clientWidth;
    const out = !e.closest(".scroll") && (box.right > innerWidth + 0.5 || box.left < -0.5);
    if (cut || out) found.push(`${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 60)}`);
  }
  return found;
}"""
DIFFERENCES = [
    {"stage": "sft", "key": "optimiser.epochs", "paper": "3", "here": "2", "of": []},
    {"stage": "policies", "key": "seed", "paper": "–", "here": f"a: {HOSTILE}", "of": ["multi_reward/dpo/seed0"]},
]


def artifact(manifest: str, stage: str, settings: dict, inputs: list[str], write) -> None:
    with publish(
        Path(manifest), stage=stage, spec=settings, code="0123456789abcdef", inputs={i: Path(i) for i in inputs}
    ) as (out, _):
        write(out)
    record = manifest.removesuffix("/manifest.json").removesuffix(".manifest.json").replace("/", "--")
    facts = dict.fromkeys(("host", "system", "processor", "precision", "python", "commit"), "made up")
    facts |= {"device": "cpu", "threads": 1, "dirty": False, "seconds": 61.0, "peak_memory_mib": 512}
    write_json(
        Path(f"results/made/runs/{record}.json"),
        facts | {"started": "2026-01-02T03:04:05Z", "versions": {"numpy": np.__version__}},
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """`index.html` of a made-up run: 20 test prompts, three policies, one table, one figure, two claims."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        return made_page()


def made_page() -> Path:
    for name in ("config.yaml", "config", "docs", "workflow/report"):
        source, to = ROOT / name, Path(name)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, to) if source.is_dir() else shutil.copy(source, to)
    Path("workflow/published").mkdir()
    for name, table in ("table1", TABLE), ("claims", CLAIMS), ("figure2", FIGURE):
        Path(f"workflow/published/{name}.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    config, tables = configuration() | {"run": "made"}, published(Path("workflow/published"), configuration())
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
        [(i, prompts[i], *pair, style, "movie", 0.9, 0.1) for i in range(6) for style, pair in sides(i).items()],
        columns=["prompt_id", "prompt", "chosen", "rejected", "style", "domain", "chosen_score", "rejected_score"],
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
                write_json(out / f"{name}.json", contract(out, name, tables[name]))

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


def contract(out: Path, name: str, table: dict) -> dict:
    """What NAME.json holds for the page, of the two kinds of tables here."""
    csv = pd.read_csv(out / f"{name}.csv", dtype=str, keep_default_na=False)
    rows = (claim_row if table["kind"] == "claims" else reward_row)(table, csv)
    names = (
        ("Claim", "Ours", "p (Holm, 1)", "Verdict")
        if table["kind"] == "claims"
        else ("Model", "Sentiment", "Grammar", "n")
    )
    headings = [{"text": text, "number": i > 0 and text != "Verdict"} for i, text in enumerate(names)]
    about = {key: table[key] for key in ("title", "where", "kind")} | {"name": name, "statistic": "mean ± SE"}
    return {"numbers": {}, "printed": [about | {"headings": headings, "rows": list(rows)}]}


def cell(text: str, records: list[dict] = (), label: bool = False, published: list[str] = (), **more) -> dict:
    keys = ("policy", "decoding", "domain", "experiment")
    about = {"text": text, "published": list(published), "records": list(records), "label": label}
    return about | dict.fromkeys(keys) | {"row": "", "column": ""} | more


def reward_row(table: dict, csv: pd.DataFrame):
    for row in table["rows"]:
        own = csv[csv["row"] == row["name"]]
        cells = [cell(row["name"], label=True)]
        behind = {"policy": row["policy"], "decoding": row.get("decoding"), "experiment": table["experiment"]}
        for column in table["columns"]:
            records = own[own["column"] == column].to_dict("records")
            theirs = [f"{v['mean']:.3f} ± {v['se']:.3f}" for v in row.get("published", {}).get(column, [])]
            text = f"{float(records[0]['mean']):.3f} ± {float(records[0]['se']):.3f}"
            cells.append(cell(text, records, published=theirs, row=row["name"], column=column, **behind))
        yield [*cells, cell(records[0]["prompts"])]


def claim_row(table: dict, csv: pd.DataFrame):
    for row, record in zip(table["rows"], csv.to_dict("records"), strict=True):
        sigma = {f"{key}_sigma": record[key] and str(2 * float(record[key])) for key in ("effect", "low", "high")}
        records = [record | sigma | {"published_sigma": "0.11" if record["effect"] else ""}]
        behind = {key: row.get(key) for key in ("policy", "decoding", "experiment")} | {"row": row["claim"]}
        reason = ": interval too wide" if row["test"] != "none" else f": {row['reason']}"
        yield [
            cell(row["text"], label=True),
            cell(record["effect"] or "–", records, published=["+0.110"], column="effect", **behind),
            cell("<0.001" if record["p"] else "–", records, column="p_holm", **behind),
            cell(f"{record['verdict']}{reason}"),
        ]


class Page(HTMLParser):
    """Checks nesting while it reads; keeps elements with their attributes, and the text."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(path.read_text())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.elements if tag == name]


def test_page_is_well_formed_and_its_links_lead_somewhere(page):
    html = Page(page)
    ids = [attributes["id"] for _, attributes in html.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [a["href"][1:] for a in html.all("a") if a["href"].startswith("#")]
    assert len(anchors) > 10 and set(anchors) <= set(ids)
    labels = [v for _, a in html.elements for k, v in a.items() if k == "aria-labelledby"]
    assert set(labels) <= set(ids)
    assert all("scope" in th for th in html.all("th")) and all(img["alt"] for img in html.all("img"))
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in html.elements}


def test_page_loads_nothing(page):
    html, text = Page(page), page.read_text()
    loaded = [a["src"] for _, a in html.elements if "src" in a] + [a["href"] for a in html.all("link")]
    assert len(loaded) > 1 and all(url.startswith("data:") for url in loaded)
    assert "@import" not in text and "url(" not in text and "fetch(" not in text


def test_hostile_texts_stay_texts(page):
    html = Page(page)
    assert "hostile" not in [attributes.get("id") for _, attributes in html.elements]
    assert not any("onerror" in attributes for _, attributes in html.elements)
    assert html.text.count('</script><b id="hostile">bold</b> & "quoted"') >= 10


def test_page_says_what_the_run_is_from_its_artifacts(page):
    text = " ".join(Page(page).text.split())
    assert "2 policies (training seed 0) were trained on completions of 2,000 prompts" in text
    assert "0.0 million weights (2 layers of width 10)" in text
    assert "measured on 800 test prompts" in text and "on CPU" in text
    assert "Of the 2 claims of the paper" in text and "1 is not tested" in text and "one size" in text
    assert "paper: 0.610 ± 0.004" in text
    assert "run made · 2026-01-02" in text
    assert "uncommitted changes no" in text


def test_every_cell_leads_down_to_the_reviews(page):
    data = page.read_text().partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    data = json.loads(data)
    paths = [a["path"] for a in data["artifacts"]]

    def behind(i: int) -> set[str]:
        return {paths[i]}.union(*(behind(j) for j in data["artifacts"][i]["inputs"] if isinstance(j, int)))

    assert len(data["cells"]) == 4 * 2 + 1 + 1  # the table, the claim that is tested, the figure
    for cell in data["cells"]:
        assert "results/made/assets/reviews/manifest.json" in set().union(*map(behind, cell["artifacts"]))
    cell = next(c for c in data["cells"] if c["title"] == "Baseline DPO: Sentiment")
    own = [paths[i] for i in cell["artifacts"]]
    assert own[0] == "paper_tables/made/table1.manifest.json" and not any("mix_case1" in path for path in own)
    assert [record["prompts"] for record in cell["records"]] == ["20"] and cell["sample"] == "dpo/token"
    run = next(a for a in data["artifacts"] if a["stage"] == "sft")
    assert run["spec"]["epochs"] == 2 and run["facts"]["started"] == "2026-01-02T03:04:05Z" and len(run["sha256"]) == 64


def test_same_inputs_same_bytes(page):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(page.parent.parent)
        again = rendered(
            configuration() | {"run": "made"}, published(Path("workflow/published"), configuration()), Path("again")
        )
    assert again.read_bytes() == page.read_bytes()


def test_a_run_without_claims_or_figures_has_a_page(page):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(page.parent.parent)
        tables = published(Path("workflow/published"), configuration())
        few = rendered(configuration() | {"run": "made"}, {"table1": tables["table1"]}, Path("few"))
    assert "claims of the paper" not in " ".join(Page(few).text.split())


def test_spec_follows_the_configuration():
    config = configuration()
    before = spec(config, "page")
    config["page"]["prompts"] += 1
    assert spec(config, "page") == before | {"prompts": before["prompts"] + 1}


def test_prompts_are_drawn_evenly_from_the_domains():
    frame = pd.DataFrame({"prompt_id": range(100), "prompt": "p", "domain": ["movie"] * 90 + ["book"] * 10})
    drawn = draw(frame, 12, np.random.default_rng(0))
    assert drawn["domain"].value_counts().to_dict() == {"movie": 6, "book": 6} and drawn.index.is_monotonic_increasing


def test_words_and_numbers():
    assert number(-1234.5678) == "−1,234.568" and number(float("nan")) == "–"
    assert signed("Head 1: -0.003 ± 0.017 (-0.2 SE), 2026-01-02") == "Head 1: −0.003 ± 0.017 (−0.2 SE), 2026-01-02"
    assert listed([1]) == "1" and listed([1, 2], "or") == "1 or 2" and listed(["a", "b", "c"]) == "a, b and c"
    config = configuration()
    assert describe(method_of(config, "dpo")) == "1 model, 3 epochs"
    assert describe(method_of(config, "mix_case1")) == "3 heads on one encoder, learned weights, 3 epochs"
    html = markdown("# Title\n\n## Part\n\n<script>alert(1)</script>\n\n| a |\n|---|\n| 1 |\n")
    assert "Title" not in html and "<h3>Part</h3>" in html and "<script>" not in html and '<th scope="col">' in html


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dpo", "DPO"),
        ("mix_case1", "Mix-DPO, Case 1"),
        ("mix_case2_three_epochs", "Mix-DPO, Case 2, three epochs"),
        ("moe_case1_frozen_gate", "MoE-DPO, Case 1, frozen gate"),
        ("user_moe_case1", "MoE-DPO, Case 1, for users"),
        ("user_dpo", "DPO for users"),
        ("reference", "Reference (SFT)"),
        ("multi_user", "multi-user"),
        ("instruction_following", "instruction following"),
    ],
)
def test_names_of_the_configuration_in_words(name, words):
    assert words_of(name) == words


def test_names_in_texts():
    assert named("Agrees with instruction_following, see docs/some_notes.md and a_b.csv") == (
        "Agrees with instruction following, see docs/some_notes.md and a_b.csv"
    )
    assert prose("by `a_b` <i> -1") == "by <code>a_b</code> &lt;i&gt; −1"
    assert titled("poster_figure") == "Poster figure" and titled("figure2") == "Figure 2"
    named_so = {"table2": "Table 2: T", "poster_table3": "Poster, Table 3: T", "alignment": "T"}
    assert [headed({"name": name, "title": "T"}) for name in named_so] == list(named_so.values())


def test_sections_of_the_paper():
    wheres = ["premise of sections 1 and 4", "section 1; poster", "Table 1", "section 4.1, Figure 2", "appendix H"]
    wheres += ["section 4.2, Table 2", "appendix G", "poster, Table 3", "abstract"]
    titles = list(SECTIONS.values())
    expected = [titles[0], titles[1], titles[1], titles[1], titles[2], titles[3], titles[4], titles[5]]
    assert [section_of(where) for where in wheres] == [*expected, "Elsewhere in the paper"]


NAN = float("nan")


def claim(name: str, effect: float, **more) -> dict:
    known = {"claim": name, "unit": "sigma", "section": section_of("section 4.1"), "verdict": "undecided"}
    return known | {"effect": effect, "low": effect - 0.1, "high": effect + 0.1, "published": NAN, "cell": 0} | more


def test_claims_of_a_unit_share_one_scale():
    """Effects 0 and 0.4 with ± 0.1: the axis runs from −0.2 to 0.6 by 0.2, and 0.4 lies at three quarters."""
    (panel,) = panels([claim("a", 0.0), claim("b", 0.4)])
    assert panel["scale"].ticks == pytest.approx((-0.2, 0.0, 0.2, 0.4, 0.6))
    svg = drawn(claim("b", 0.4, published=0.2), panel)
    assert 'x1="62.50%" x2="87.50%"' in svg and '<svg x="75.00%"' in svg and '<svg x="50.00%"' in svg
    assert svg.index('class="published"') < svg.index('class="effect"')
    assert "+0.40 σ, 95 % interval +0.30 to +0.50; the paper +0.20" in svg
    assert panels([claim("a", NAN)]) == []


def test_a_claim_far_away_does_not_flatten_the_others():
    lines = [claim(f"c{i}", 0.01 * i) for i in range(20)] + [claim("far", 5.0, published=NAN)]
    (panel,) = panels(lines)
    assert panel["scale"].high < 1 and panel["scale"].beyond(5.0) == 1 and panel["scale"].at(5.0) == 100
    assert "M8 0" in drawn(lines[-1], panel)


def test_a_scale_holds_zero_for_differences_alone():
    lines = [claim("a", 0.6, unit="accuracy"), claim("b", 0.65, unit="accuracy")]
    assert Scale.of(lines, UNITS["accuracy"]).low > 0 and Scale.of(lines, UNITS["gain"]).low == 0
    one = claim("a", 0.3, low=NAN, high=NAN)
    assert Scale.of([one], UNITS["sigma"]).at(0.3) == 100 and Scale.of([one | {"effect": 0.0}], UNITS["sigma"]).high > 0


def test_units_print_zero_without_a_sign():
    assert UNITS["sigma"].show(-0.004) == "0.00" and UNITS["sigma"].show(-0.006) == "−0.01"
    assert UNITS["wins"].show(0.366) == "+36.6" and UNITS["accuracy"].show(0.5) == "50.0"


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("supported",) * 3, "DPO improves every reward over the SFT model"),
        (("supported", "undecided", "not supported"), "DPO improves some of the rewards over the SFT model"),
        (("undecided", "undecided", "not supported"), "DPO does not improve the rewards over the SFT model"),
        (("undecided",) * 3, "DPO may or may not improve the rewards over the SFT model: the data are too few"),
    ],
)
def test_headlines_follow_the_verdicts(verdicts, said):
    rewards = ("sentiment", "informativeness", "grammar")
    claims = [claim(f"dpo_over_reference_{r}", 0.1, verdict=v) for r, v in zip(rewards, verdicts, strict=True)]
    (headline,) = headlines(claims)
    assert headline["text"] == said and [short for short, _ in headline["claims"]] == list(rewards)
    assert headlines([claim("case1_over_dpo", NAN)]) == []


def test_claims_are_read_from_what_is_printed():
    record = {
        "claim": "a",
        "text": "A",
        "where": "appendix H",
        "test": "greater",
        "verdict": "undecided",
        "effect": "0.2",
    }
    record |= {"published": "0.1", "low": "0.1", "high": "0.3", "p_holm": "0.04"}
    printed = {"rows": [[cell("A", label=True), cell("0.2", [record]) | {"cell": 7}, cell("undecided: too few")]]}
    (found,) = claims_of(printed, [{"claim": "a", "measure": "gate_accuracy", "baseline": "b"}])
    assert (found["unit"], found["reason"], found["cell"], found["published"]) == ("gain", "too few", 7, 0.1)
    record |= {"effect_sigma": "0.5", "published_sigma": ""}
    (found,) = claims_of(printed, [{"claim": "a"}])
    assert (found["unit"], found["effect"]) == ("sigma", 0.5) and found["published"] != found["published"]


def test_a_perplexity_like_a_guess_is_explained():
    def rows(before: str) -> list[dict]:
        return [{"rows": [[cell("x", [{"domain": "instruction", "before": before}])]]}]

    said = untrained(rows("1706.99"), [{"vocabulary": 2000}])
    assert "a perplexity of 2,000" in said and "1,707 on texts of the domain “instruction”" in said
    assert untrained(rows("5.4"), [{"vocabulary": 2000}]) == untrained(rows("5.4"), []) == ""


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture
def view(browser, page):
    """The page in a window of 1280 pixels; the test fails if it says a word on the console.

    But for the browser's own remark that a dialog's autofocus came second, which depends on when a key arrives.
    """
    said = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    view = context.new_page()
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    view.goto(page.as_uri())
    yield view
    context.close()
    assert [words for words in said if not words.startswith("Autofocus processing")] == []


def test_click_opens_the_lineage_and_escape_closes_it(view):
    view.locator("#table1 > summary").click()
    view.get_by_role("row", name="Baseline DPO").get_by_role("button").first.click()
    dialog = view.get_by_role("dialog", name="Baseline DPO: Sentiment")
    assert dialog.is_visible()
    assert "Published: 0.610 ± 0.004" in dialog.inner_text() and "assets/reviews" in dialog.inner_text()
    assert dialog.get_by_text(HOSTILE).count() == 3 and view.locator("#hostile").count() == 0
    dialog.get_by_text("policies", exact=True).click()
    assert "learning_rate" in dialog.inner_text() and "2026-01-02 03:04:05 UTC" in dialog.inner_text()
    view.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_keyboard_alone(view):
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "Skip to the results"
    view.locator("#table1 > summary").focus()
    view.keyboard.press("Enter")
    view.locator("#table1 .cells [tabindex='0']").focus()
    view.keyboard.press("ArrowDown")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Enter")
    assert view.locator("#lineage-title").inner_text() == "Baseline DPO: Grammar"
    view.keyboard.press("Escape")
    assert view.locator("dialog[open]").count() == 0
    assert view.evaluate("document.activeElement.closest('tr').cells[0].textContent") == "Baseline DPO"
    assert view.locator('.cells [tabindex="0"]').count() == 3  # one stop in each of the two tables, one in the plot


def test_click_on_a_claim_opens_its_lineage(view):
    view.locator(".forest tbody th").get_by_text("The mixture beats DPO").click()
    dialog = view.get_by_role("dialog", name="The mixture beats DPO")
    assert dialog.is_visible() and "claimed to lie above zero" in dialog.inner_text()
    assert "effect sigma" in dialog.inner_text()


def test_links_open_folds(view):
    assert not view.locator("#decisions .inside").is_visible()
    view.get_by_role("navigation").get_by_role("link", name="Decisions").click()
    assert view.locator("#decisions .inside").is_visible()


def test_opened_page_is_short(view):
    """Folds are closed: without the claims, whose number is the paper's, a screen or two."""
    height = view.evaluate("document.documentElement.scrollHeight - document.querySelector('.forest').scrollHeight")
    assert height < 1800


def test_words_that_a_reader_knows(view):
    """No name of the configuration and no backtick is on the page but where it is set as code."""
    view.evaluate(OPEN)
    text = view.evaluate(
        """() => {
          const main = document.querySelector("main").cloneNode(true);
          const files = ["csv", "md", "tex", "pdf"].map((suffix) => `a[href$='.${suffix}']`);
          const quoted = main.querySelectorAll(["code, pre, #decisions, #notes, .card p", ...files].join());
          quoted.forEach((e) => e.remove());
          return main.textContent;
        }"""
    )
    assert "Mix-DPO, Case 1" in text and "Multi-reward" in text
    assert re.findall(r"\b[a-z0-9]+_[a-z0-9_]+\b|`", text) == []


def test_browser_of_samples_shows_another_prompt_and_says_so(view):
    view.evaluate(OPEN)
    part = view.locator("#samples-multi_reward")
    shown = part.locator(".item:visible")
    assert shown.count() == 1
    first = shown.inner_text()
    part.get_by_role("button", name="Next").click()
    assert shown.count() == 1 and shown.inner_text() != first
    assert "Prompt 2 of 12" in view.locator("#said").inner_text()
    part.get_by_role("combobox").select_option(index=0)
    assert shown.inner_text() == first
    pairs = view.locator("#pairs-multi_reward .item:visible")
    assert pairs.locator("th[scope=colgroup]").all_inner_texts()[2].startswith("Informativeness prefers B")


def test_theme_can_be_turned_and_stays(view):
    button, colour = view.get_by_role("button", name="Dark"), "getComputedStyle(document.body).backgroundColor"
    light = view.evaluate(colour)
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert button.get_attribute("aria-pressed") == "true" and view.evaluate(colour) != light
    view.reload()
    assert button.get_attribute("aria-pressed") == "true" and view.evaluate(colour) != light


@pytest.mark.parametrize("width", [400, 1000, 1300])
def test_nothing_overflows(view, width):
    """As it opens and with every fold open: nothing is wider than its box, but for what lies in a scroll container."""
    view.set_viewport_size({"width": width, "height": 800})
    for unfold in ("", OPEN):
        view.evaluate(unfold)
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert view.evaluate(OVERFLOWING) == []
    for box in view.locator(".scroll").all():
        reached = (
            "e => { e.scrollLeft = 1e6; const box = e.getBoundingClientRect(); return [...e.querySelectorAll('tr')]"
        )
        reached += ".every(row => row.lastElementChild.getBoundingClientRect().right <= box.right + 1); }"
        assert not box.is_visible() or box.evaluate(reached)
    for opener in (".forest .cell", "#table1 .cell", "figure .cell"):
        view.locator(opener).first.click()
        view.evaluate(OPEN)
        assert view.evaluate(OVERFLOWING) == [] and view.locator("dialog").is_visible()
        view.keyboard.press("Escape")


def test_numbers_are_right_aligned(view):
    view.evaluate(OPEN)
    for p in view.get_by_text("<0.001", exact=True).all():
        assert p.evaluate("e => getComputedStyle(e.closest('td')).textAlign") == "right"


def test_figures_have_their_natural_width(view):
    """The image has 8 × 4 dots, at 300 an inch 2.56 × 1.28 pixels."""
    view.evaluate(OPEN)
    image = view.locator("figure img")
    assert (image.get_attribute("width"), image.get_attribute("height")) == ("3", "1")


def test_print_shows_what_paper_can_do(view):
    view.emulate_media(media="print")
    assert not view.get_by_role("combobox").first.is_visible() and not view.locator("#theme").is_visible()
    shown = view.locator("p a[href^=http]").first.evaluate("a => getComputedStyle(a, '::after').content")
    assert "arxiv.org" in shown
    for shown in ("#table1 table", "figure img", "#setting table", "#decisions table", ".forest"):
        assert view.locator(shown).first.evaluate("e => e.checkVisibility() && e.getBoundingClientRect().height > 0"), (
            shown
        )
    assert not view.locator("#samples").is_visible()


def test_without_script_everything_is_on_the_page(browser, page):
    view = browser.new_context(java_script_enabled=False).new_page()
    view.goto(page.as_uri())
    assert view.locator(".forest .effect").count() == 1 and view.locator(".answer li").count() == 2
    view.locator("#samples > summary").click()
    assert view.locator("#samples-multi_reward .item:visible").count() == 12
    assert not view.get_by_role("combobox").first.is_visible()
