"""Paths of a run: parsed, they give their keys back; rules and records use the same; no other file writes them."""

import ast
import re
from pathlib import Path

import pytest

from mixdpo.errors import UserError
from mixdpo.run.config import published
from mixdpo.run.graph import PUBLISHED, targets
from mixdpo.run.layout import PLACES, Key, is_record, parse, parse_printed, pattern, policy_of, split_policy
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped

ROOT = Path(__file__).parent.parent
CONFIG = completed(shipped(ROOT))
TABLES = published(ROOT / PUBLISHED, CONFIG)
TARGETS = {path for target in ("all", "sensitivity", "ablations") for path in targets(CONFIG, TABLES, target)}
KEYS = {
    "results/embedded/assets/base/manifest.json": Key("embedded", "base"),
    "results/embedded/bases/multi_user/manifest.json": Key("embedded", "bases", "multi_user"),
    "results/a/policies/multi_task/dpo/seed12/manifest.json": Key("a", "policies", "multi_task", "dpo/seed12"),
    "results/a/evaluations/e/reference/rewards/manifest.json": Key("a", "evaluation_rewards", "e", "reference"),
    "paper_tables/embedded/table1.manifest.json": Key("embedded", "tables", table="table1"),
    "paper_tables/embedded/index.manifest.json": Key("embedded", "page"),
}


@pytest.mark.parametrize("path", KEYS)
def test_keys(path):
    assert parse(path) == KEYS[path] and KEYS[path].manifest == path


def test_parse_is_the_inverse_of_path():
    keys = {path: parse(path) for path in TARGETS}
    assert [path for path, key in keys.items() if key.manifest != path] == []
    assert {key.stage for key in keys.values()} == PLACES.keys() - {"bases", "rating_classifier"}
    for name in ("manifest", "record", "log"):
        assert len({getattr(key, name) for key in keys.values()}) == len(TARGETS)
    assert all(is_record(key.record) and not is_record(path) for path, key in keys.items())


def test_every_path_fits_the_pattern_of_its_stage_alone():
    """As Snakemake matches wildcards, with the constraints of workflow/rules/common.smk."""
    constraints = {"policy": "reference|[a-z0-9_]+/seed[0-9]+", "seed": "[0-9]+"}
    regexes = {
        stage: re.sub(
            r"{(\w+)}", lambda w: f"(?:{constraints.get(w[1], '[a-z0-9_]+')})", pattern("embedded", stage).manifest
        )
        for stage in PLACES
    }
    for path in TARGETS:
        fitting = [stage for stage, regex in regexes.items() if re.fullmatch(regex, path)]
        assert parse(path).stage in fitting and {*fitting} <= {parse(path).stage, "tables"}


def test_pattern():
    policies = pattern("embedded", "policies")
    assert policies.manifest == "results/embedded/policies/{experiment}/{method}/seed{seed}/manifest.json"
    assert policies.record == "results/embedded/runs/policies/{experiment}/{method}/seed{seed}.json"
    assert policies.log == "logs/embedded/policies/{experiment}/{method}/seed{seed}.log"
    assert pattern("embedded", "tables").printed("csv") == "paper_tables/embedded/{table}.csv"


def test_policies():
    assert split_policy(policy_of("dpo", 3)) == ("dpo", "3") and split_policy("reference") == ("reference", "")
    key = Key("embedded", "policies", "multi_task", "dpo/seed3")
    assert (key.method, key.seed) == ("dpo", "3")


@pytest.mark.parametrize(
    "path",
    [
        "results/embedded/sft/manifest.json",
        "results/embedded/policies/multi_task/dpo/manifest.json",
        "results/embedded/assets/grammar/manifest.json",
        "results/../sft/multi_task/manifest.json",
        "paper_tables/embedded/a&b.manifest.json",
        "table1",
    ],
)
def test_another_path_is_one_line(path):
    with pytest.raises(UserError, match=r"^.*: expected the manifest of an artifact, as .*; correct it$"):
        parse(path)


def test_a_table_by_any_of_its_files():
    for name in ("table1", "table1.csv", "table1.manifest.json"):
        assert parse_printed(f"paper_tables/embedded/{name}") == Key("embedded", "tables", table="table1")
    for path in ("table1", "paper_tables/table1", "paper_tables/embedded/index.html"):
        with pytest.raises(UserError, match="expected paper_tables/RUN/NAME; type one"):
            parse_printed(path)


def test_a_file_name_that_is_no_table_is_one_line(tmp_path):
    for name in ("a&touch PWNED&b", "index", "Table1", "a\nb"):
        (tmp_path / f"{name}.yaml").write_text("kind: rewards")
        with pytest.raises(UserError, match=r"expected a name of a-z, 0-9 and _ .*; rename the file$"):
            published(tmp_path, CONFIG)
        (tmp_path / f"{name}.yaml").unlink()


def test_no_other_file_writes_these_paths():
    """Texts of the code that begin a path of a run; `paper_tables/RUN` is how a person is told of one."""
    found = []
    for file in sorted((ROOT / "mixdpo").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and file.name != "layout.py":
                found += [f"{file}: {node.value}"] * bool(re.match(r"(results|paper_tables|logs)/(?!RUN)", node.value))
    rules = {file: file.read_text() for file in (ROOT / "workflow").rglob("*.smk")}
    found += [str(file) for file, text in rules.items() if re.search(r"(results|paper_tables)/", text)]
    assert found == []
