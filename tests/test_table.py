"""A table is printed once: csv, Markdown, LaTeX and JSON of it say the same; its kind is registered in one place."""

import csv
import inspect
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mixdpo.paper.table import Table
from mixdpo.paper.text import beside, in_print, interval, number, p_value, percent, show
from mixdpo.provenance import fingerprint
from mixdpo.run.audit import remade
from mixdpo.run.config import published
from mixdpo.run.graph import table_inputs
from mixdpo.run.kinds import EXPERIMENTS, KINDS, in_words
from mixdpo.run.stages import STAGES

ROOT = Path(__file__).parent.parent
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
CELL = {
    "text": str,
    "published": list,
    "records": list,
    "label": bool,
    "policy": str | None,
    "decoding": str | None,
    "domain": str | None,
    "experiment": str | None,
    "row": str,
    "column": str,
}


@pytest.fixture
def table() -> Table:
    """Two rows: joy in two places of the paper, its p, and how many prompts; nothing of awe in the second."""
    table = Table()
    for name, mean in ("DPO, the baseline", -1 / 3), ("Mix", 0.25):
        row = table.row(name, experiment="e", policy=name[:3].lower(), decoding="token")
        values = [{"mean": 0.5, "se": 0.125, "where": "A"}, {"mean": -0.75, "se": 0.125, "where": "B"}]
        ours = {"row": name, "column": "joy", "mean": mean, "se": 0.0625, "n": 40}
        lines, texts = beside(ours, values), in_print(values)
        row.label("Model")
        row.number("Joy", show(mean, 0.0625), lines, texts, column="joy", domain="movie")
        row.number("p", p_value(0.0001), lines, column="joy")
        row.number("n", 40)
        if name == "Mix":
            row.number("Awe", number(2.0), [{"row": name, "column": "awe", "mean": 2.0}], column="awe")
    return table


def cells_of(text: str) -> list[list[str]]:
    """Cells of a Markdown or LaTeX table, the head first."""
    lines = [line for line in text.splitlines() if line.startswith("|") or line.endswith(r"\\")]
    rows = [re.split(r"\||&", line.strip("|").removesuffix(r"\\")) for line in lines]
    return [[cell.strip() for cell in row] for row in rows if not re.fullmatch(r":?-+:?", row[0].strip())]


def test_every_rendering_says_the_same(table):
    printed = table.json(name="t")["printed"][0]
    markdown, latex = cells_of(table.markdown()), cells_of(table.latex())
    assert markdown[0] == ["Model", "Joy", "Joy, published", "p", "n", "Awe"]
    for row, text, tex in zip(printed["rows"], markdown[1:], latex[1:], strict=True):
        joy, published = row[1]["text"], "; ".join(row[1]["published"])
        assert text == [row[0]["text"], joy, published, row[2]["text"], row[3]["text"], row[4]["text"]]
        assert [c.replace("$-$", "−").replace(r"$\pm$", "±") for c in tex[1:3]] == [joy, published]
        for cell in (row[1], row[4]):
            assert all(cell["text"].startswith(number(float(record["mean"]))) for record in cell["records"])
    assert markdown[1][1:3] == ["−0.333 ± 0.062", "0.500 ± 0.125 (A); −0.750 ± 0.125 (B)"]
    records = [record for row in printed["rows"] for cell in row for record in cell["records"]]
    lines = [*csv.DictReader(io.StringIO(table.csv()))]
    assert all(record in lines for record in records) and all(line in records for line in lines) and len(lines) == 5


def test_csv_has_every_digit_and_a_line_once(table):
    first, second, *_ = table.csv().splitlines()
    assert first == "row,column,mean,se,n,published_mean,published_se,published_where"
    assert second == '"DPO, the baseline",joy,-0.3333333333333333,0.0625,40.0,0.5,0.125,A'


def test_json_keeps_to_its_contract(table):
    """What the page reads, and numbers for DVC, which compares dicts and passes over lists."""
    content = json.loads(json.dumps(table.json(name="t", title="T", where="ours", kind="rewards", statistic="mean")))
    (printed,), numbers = content["printed"], content["numbers"]
    assert {*printed} == {"name", "title", "where", "kind", "statistic", "headings", "rows"}
    assert [h["text"] for h in printed["headings"] if not h["number"]] == ["Model"]
    for row in printed["rows"]:
        assert len(row) == len(printed["headings"])
        for cell in row:
            assert cell.keys() == CELL.keys() and all(isinstance(cell[key], kind) for key, kind in CELL.items())
            assert all(isinstance(value, str) for record in cell["records"] for value in record.values())
    label, joy, p, n, awe = printed["rows"][0]
    assert label["label"] and not label["records"] and label["policy"] is None
    assert (joy["row"], joy["column"], joy["policy"], joy["domain"]) == ("DPO, the baseline", "joy", "dpo", "movie")
    assert p["text"] == "<0.001" and p["records"] == joy["records"] and n["records"] == []
    assert awe["text"] == "–" and awe["records"] == []
    assert numbers["Mix"] == {"joy": {"mean": 0.25, "se": 0.0625, "n": 40}, "awe": {"mean": 2.0}}


def test_numbers_stand_right_and_words_left(table):
    rule = table.markdown().splitlines()[1].strip("|").split("|")
    assert [(side[0] == ":", side[-1] == ":") for side in rule] == [(True, False)] + [(False, True)] * 5
    assert r"\begin{tabular}{lrrrrr}" in table.latex()


def test_numbers_as_text():
    nan = float("nan")
    assert (number(-0.0004), number(-1234.5, 1), number(nan), number(0.5, 2, "+")) == (
        "0.000",
        "−1,234.5",
        "–",
        "+0.50",
    )
    assert (show(-1.0, 0.5, 1), show(1.0, nan), show(nan, nan)) == ("−1.0 ± 0.5", "1.000", "–")
    assert (percent(0.5, nan), percent(nan, nan), interval(-1.0, 2.0)) == ("50.0", "–", "[−1.000, +2.000]")
    assert (p_value(0.0009), p_value(0.25), p_value(nan), interval(nan, nan)) == ("<0.001", "0.250", "–", "–")


@pytest.mark.parametrize("kind", KINDS)
def test_registry_and_functions_are_in_step(kind):
    """The function is there, says what it does, and is part of the fingerprint of its stage."""
    registered = KINDS[kind]
    function = registered.load()
    assert [*inspect.signature(function).parameters][1:] == ["artifacts"] and inspect.getdoc(function)
    todo, seen = [fingerprint._locate(STAGES["figures" if registered.figure else "tables"])], set()
    while todo:
        seen.add(path := todo.pop())
        todo += fingerprint._imports(path) - seen
    assert fingerprint._locate(registered.module) in seen
    assert registered.figure or (registered.statistic and inspect.signature(function).return_annotation is Table)


def test_every_published_form_is_of_a_kind_and_has_a_title_in_words():
    for path in (ROOT / "mixdpo/paper/published").glob("*.yaml"):
        form = yaml.safe_load(path.read_text())
        assert form["kind"] in KINDS and not set("_`") & set(form["title"]), path
    assert {*EXPERIMENTS} <= {*CONFIG["experiments"]} and not any(
        "_" in in_words(name) for name in CONFIG["experiments"]
    )


def test_nothing_that_knows_a_kind_loads_torch():
    modules = sorted({"mixdpo.paper.tables"} | {kind.module for kind in KINDS.values() if not kind.figure})
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_table_of_a_known_kind_is_one_file(tmp_path, monkeypatch):
    """The graph knows its inputs, and it is made and made again, from its yaml alone."""
    monkeypatch.chdir(tmp_path)
    folder = Path("mixdpo/paper/published")
    folder.mkdir(parents=True)
    form = {"kind": "perplexity", "title": "Of movies alone", "where": "ours", "experiments": ["multi_reward"]}
    (folder / "movies.yaml").write_text(yaml.safe_dump(form))
    inputs = table_inputs(CONFIG, published(folder, CONFIG), "movies")
    assert {*inputs} == {"published", "sft:multi_reward"}
    sft = Path(inputs["sft:multi_reward"]).parent
    sft.mkdir(parents=True)
    lines = {"domain": ["movie"], "reviews": [9], "before": [8.0], "after": [6.5]}
    pd.DataFrame(lines).to_csv(sft / "perplexity.csv", index=False)
    remade("tables", "movies", inputs, tmp_path)
    assert "6.50" in (tmp_path / "movies.md").read_text()
    printed = json.loads((tmp_path / "movies.json").read_text())["printed"][0]
    assert (printed["title"], printed["kind"]) == ("Of movies alone", "perplexity")
    assert printed["statistic"] == KINDS["perplexity"].statistic
