"""README.md and docs/: numbers come from the committed tables, links lead somewhere, nothing is too long to read."""

import json
import re
import runpy
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mixdpo.method.settings import Method

ROOT = Path(__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "docs/readme.py"))
DOCUMENTS = [*SCRIPT["documents"](), ROOT / "benchmarks/README.md"]


@pytest.fixture
def tables(monkeypatch, tmp_path):
    """A run of two rows and the script's functions, which read it."""
    folder = tmp_path / "paper_tables/small"
    folder.mkdir(parents=True)
    pd.DataFrame(
        {
            "row": ["DPO", "DPO", "Mixture, by token"],
            "column": ["grammar", "sentiment", "grammar"],
            "mean": [0.25, 0.5, 0.12345],
            "se": [0.01, 0.02, 0.03],
            "low": [-0.25, 0.4, 0.1],
            "high": [0.5, 0.6, 0.2],
            "prompts": [8, 8, 9],
            "verdict": ["supported", "undecided", "supported"],
        }
    ).to_csv(folder / "table.csv", index=False)
    monkeypatch.setitem(SCRIPT["filled"].__globals__, "ROOT", tmp_path)
    return SCRIPT["filled"]


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        ("value small table DPO sentiment mean .2f", "0.50"),
        ('value small table "Mixture, by token" grammar mean±se .3f', "0.123 ± 0.030"),
        ("value small table DPO grammar mean±se percent", "25.0 ± 1.0 %"),
        ("value small table DPO sentiment verdict s", "undecided"),
        ("value small table DPO grammar mean±se +.2f", "+0.25 ± 0.01"),
        ("value small table DPO grammar low…high +.2f", "-0.25 to +0.50"),
        ("value small table DPO sentiment low…high percent", "40.0 to 60.0 %"),
        ("count small table verdict supported", "2"),
    ],
)
def test_a_mark_in_a_sentence(tables, mark, text):
    assert tables(f"It is <!-- {mark} -->old<!-- end -->.") == f"It is <!-- {mark} -->{text}<!-- end -->."


def test_a_mark_between_lines(tables):
    cells = printed(tables("<!-- cells small table mean±se sentiment grammar:.2f -->\nold\n<!-- end -->"))
    assert cells[0] == ["Model", "Sentiment", "Grammar", "n"]
    assert cells[2:] == [
        ["DPO", "0.500 ± 0.020", "0.25 ± 0.01", "8"],
        ["Mixture, by token", "", "0.12 ± 0.03", "9"],
    ]


def printed(text: str) -> list[list[str]]:
    """Cells of the table between a mark's lines."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[1:-1]]


def test_rows_of_several_labels(tables, tmp_path):
    frame = pd.DataFrame({"row": "MoE", "users": ["seen", "unseen"], "column": "mean", "mean": [0.5, 0.25]})
    frame.to_csv(tmp_path / "paper_tables/small/held_out.csv", index=False)
    cells = printed(tables("<!-- cells small held_out mean mean:percent -->\n<!-- end -->"))
    assert cells[0] == ["Model", "Users", "Mean of the styles"]
    assert cells[2:] == [["MoE", "seen", "50.0 %"], ["MoE", "unseen", "25.0 %"]]


def test_the_table_of_a_search(tables, tmp_path):
    found = {"dpo": {"settings": {}, "figures": {"−log P": 0.63173, "core-s": 18}}}
    found["mix"] = {"settings": {}, "figures": {"−log P": 0.6, "recovered": 0.5, "core-s": 38}}
    (tmp_path / "search.json").write_text(json.dumps(found))
    cells = printed(tables('<!-- search search.json "−log P" recovered core-s -->\n<!-- end -->'))
    assert cells[0] == ["Method", "−log P", "Recovered", "Core-s"]
    assert cells[2:] == [["dpo", "0.6317", "", "18"], ["mix", "0.6000", "0.5000", "38"]]


@pytest.mark.parametrize(
    "mark",
    [
        "value small table SFT grammar mean .2f",
        "value small tabel DPO grammar mean .2f",
        "value small table DPO grammar median .2f",
        "search search.json recovered",
    ],
)
def test_a_mark_that_nothing_fills_is_an_error(tables, mark):
    with pytest.raises(SystemExit, match=f"{mark}: expected .*; correct the mark"):
        tables(f"It is <!-- {mark} -->old<!-- end -->.")


@pytest.mark.parametrize("path", SCRIPT["documents"](), ids=lambda path: path.name)
def test_numbers_are_those_of_the_committed_tables(path):
    text = path.read_text()
    assert SCRIPT["filled"](text) == text, f"{path.name} is out of step with paper_tables/; type python docs/readme.py"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_read_well(path):
    """Lines of at most 120 characters, but in code; links and pictures that exist; no line that becomes HTML."""
    text = path.read_text()
    lines = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).splitlines()
    assert not [line for line in lines if len(re.sub("<!--.*?-->", "", line)) > 120], "longer than 120 characters"
    assert not re.findall(r"^[ *-]*<!-- (?:value|count) .*", text, flags=re.MULTILINE), (
        "a mark begins a line; move a word"
    )
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (path.parent / link).exists(), f"{path.name}: nothing at {link}"


def test_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200 and len(text.encode()) <= 12 * 1024


def test_the_method_of_docs_methods_is_the_catalogues_in_both_languages(tmp_path):
    text = (ROOT / "docs/methods.md").read_text()
    (written,), (code,) = (re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) for language in ("yaml", "python"))
    (tmp_path / "block.py").write_text(code)
    names = runpy.run_path(str(tmp_path / "block.py"))
    (name, method), *_ = yaml.safe_load(written)["policies"]["methods"].items()
    assert method == yaml.safe_load((ROOT / "config/methods/users.yaml").read_text())["policies"]["methods"][name]
    assert names["method"] == Method.of(method)
