"""The page of a run: what it says, that nothing in it is loaded or run, and that it works by mouse and by keyboard."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import save_file

from mixdpo.paper.page import describe, draw, grid, interval, markdown, number, signed
from mixdpo.paper.page import page as make_page
from mixdpo.paper.tables import tables as print_table
from mixdpo.provenance.artifact import publish, write_json
from mixdpo.run.config import configuration, method_of, published, spec
from mixdpo.run.graph import job, page_inputs, page_spec, table_inputs
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped

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
            "claim": "mixture_over_dpo",
            "text": "The mixture beats DPO",
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
            "reason": "one size",
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
        (out / "model/config.json").write_text(json.dumps({"n_layer": 2, "n_embd": 10}))

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
    make_page(out, page_spec(config, tables), runtime=None, resume=out, **folders)
    return (out / "index.html").absolute()


class Page(HTMLParser):
    """Checks nesting while it reads; keeps elements with their attributes, and the text."""

    VOID = frozenset({"meta", "link", "img", "br", "circle", "line", "input", "hr"})

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
    assert "Artifacts made 2026-01-02" in text
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
    config = completed(shipped(ROOT))
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
    config = completed(shipped(ROOT))
    assert describe(method_of(config, "dpo")) == "1 model, 3 epochs"
    assert describe(method_of(config, "mix_case1")) == "3 heads on one encoder, learned weights, 3 epochs"
    assert grid("**Title**\n\n| a | b |\n|---|---|\n| 1 | 2 |\n") == [["a", "b"], ["1", "2"]]
    html = markdown("# Title\n\n## Part\n\n<script>alert(1)</script>\n\n| a |\n|---|\n| 1 |\n")
    assert "Title" not in html and "<h3>Part</h3>" in html and "<script>" not in html and '<th scope="col">' in html


def test_interval_is_drawn_to_scale():
    """Null 0, interval [1, 3], effect 2: at 6, 42, 114 and 78 of 120."""
    svg = interval({"effect": 2.0, "low": 1.0, "high": 3.0, "null": 0})
    for place in ('x1="6.0" x2="6.0"', 'x1="42.0" x2="114.0"', 'cx="78.0"'):
        assert place in svg
    assert "interval 1.000 to 3.000, against 0.000" in svg
    assert interval(dict.fromkeys(("effect", "low", "high"), float("nan")) | {"null": 0}) == ""


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
    view.locator("#table1").evaluate("e => e.parentElement.querySelector('.cells [tabindex=\"0\"]').focus()")
    view.keyboard.press("ArrowDown")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Enter")
    assert view.locator("#lineage-title").inner_text() == "Baseline DPO: Grammar"
    view.keyboard.press("Escape")
    assert view.locator("dialog[open]").count() == 0
    assert view.evaluate("document.activeElement.closest('tr').cells[0].textContent") == "Baseline DPO"
    assert view.locator('.cells [tabindex="0"]').count() == 2  # one stop in the claims, one in the table


def test_browser_of_samples_shows_another_prompt_and_says_so(view):
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


@pytest.mark.parametrize("width", [400, 900, 1600])
def test_nothing_overflows(view, width):
    view.set_viewport_size({"width": width, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    view.locator("#table1 ~ .scroll .cell").first.click()
    assert view.locator("dialog").evaluate("d => d.scrollWidth - d.clientWidth") <= 0


def test_print_hides_what_paper_cannot_do(view):
    view.emulate_media(media="print")
    assert not view.get_by_role("combobox").first.is_visible() and not view.locator("#theme").is_visible()
    shown = view.locator("p a[href^=http]").first.evaluate("a => getComputedStyle(a, '::after').content")
    assert "arxiv.org" in shown


def test_without_script_everything_is_on_the_page(browser, page):
    view = browser.new_context(java_script_enabled=False).new_page()
    view.goto(page.as_uri())
    assert view.locator("#samples-multi_reward .item:visible").count() == 12
    assert not view.get_by_role("combobox").first.is_visible()
