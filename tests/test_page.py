"""The page of a run: what it says, and that nothing in it is loaded or run."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from page_of_a_run import ROOT, cell, rendered

from mixdpo.paper.page import untrained
from mixdpo.paper.page_claims import SECTIONS, UNITS, Scale, claims_of, drawn, headlines, panels, section_of
from mixdpo.paper.page_texts import describe, draw
from mixdpo.paper.page_words import headed, listed, markdown, named, number, prose, signed, titled, weights, words_of
from mixdpo.run.config import configuration, method_of, published, spec
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped


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
    assert "2 policies (training seed 0) were trained on completions of 1,000 prompts" in text
    assert "a language model of 3 thousand weights (2 layers of width 10)" in text
    assert "measured on 600 test prompts" in text and "on CPU" in text
    assert "Of the 2 claims of the paper, 1 is not judged and 1 is not tested." in text and "one size" in text
    assert "○ not judged one seed" in text and "its interval is over prompts alone" in text
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
    for found in data["cells"]:
        assert "results/made/assets/reviews/manifest.json" in set().union(*map(behind, found["artifacts"]))
    found = next(c for c in data["cells"] if c["title"] == "Baseline DPO: Sentiment")
    own = [paths[i] for i in found["artifacts"]]
    assert own[0] == "paper_tables/made/table1.manifest.json" and not any("mix_case1" in path for path in own)
    assert [record["prompts"] for record in found["records"]] == ["20"] and found["sample"] == "dpo/token"
    run = next(a for a in data["artifacts"] if a["stage"] == "sft")
    assert run["spec"]["epochs"] == 2 and run["facts"]["started"] == "2026-01-02T03:04:05Z" and len(run["sha256"]) == 64


def test_same_inputs_same_bytes(page):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(page.parent.parent)
        again = rendered(
            configuration() | {"run": "made"}, published(Path("mixdpo/paper/published"), configuration()), Path("again")
        )
    assert again.read_bytes() == page.read_bytes()


def test_a_run_without_claims_or_figures_has_a_page(page):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(page.parent.parent)
        tables = published(Path("mixdpo/paper/published"), configuration())
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
    assert listed([1]) == "1" and listed([1, 2], "or") == "1 or 2" and listed(["a", "b", "c"]) == "a, b and c"
    config = completed(shipped(ROOT))
    assert describe(method_of(config, "dpo")) == "1 head on a frozen encoder, 5 epochs"
    assert describe(method_of(config, "mix_case1")) == "3 heads on a frozen encoder, learned weights, 5 epochs"
    assert describe(method_of(config, "ablation_dpo_encoder")) == "1 model, 3 epochs"
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


def test_weights_of_a_model_in_words():
    assert [weights(count) for count in (99_000, 100_000, 5_230_000)] == [
        "99 thousand weights",
        "0.1 million weights",
        "5.2 million weights",
    ]


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
        (
            ("not judged",) * 3,
            "DPO may or may not improve the rewards over the SFT model: one training seed decides nothing",
        ),
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
