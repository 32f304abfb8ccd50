"""From number to reviews: a run is clean, and one fault at a time is found and told in one sentence."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import requests
import requests_cache
import rocrate
import yaml
from conftest import snakemake
from planted import whole
from rocrate_validator.models import Severity, ValidationSettings
from rocrate_validator.services import validate
from urllib3 import HTTPResponse

from mixdpo.errors import UserError
from mixdpo.paper.tables import tables as print_table
from mixdpo.provenance.artifact import publish, sha256, write_json
from mixdpo.provenance.fingerprint import fingerprint
from mixdpo.run import audit as module
from mixdpo.run.audit import aimed, audit, causes_first, explain, lineage, sources
from mixdpo.run.config import configuration, published
from mixdpo.run.crate import write_crate
from mixdpo.run.graph import TEXTS, job, table_inputs, targets
from mixdpo.run.layout import parse
from mixdpo.run.stages import STAGES

ROOT = Path(__file__).parent.parent
UPSTREAM = {  # folder → folders of the same experiment that it is made from
    "sft": ("assets/base",),
    "completions": ("sft", "assets/reviews"),
    "rewards": ("completions",),
    "preferences": ("rewards",),
    "reference_log_probs": ("preferences",),
    "policies": ("reference_log_probs",),
}
TABLE = {
    "kind": "rewards",
    "title": "A table",
    "where": "here",
    "experiment": "multi_reward",
    "columns": {"sentiment": "Sentiment"},
    "rows": [
        {"name": "Reference (SFT)", "policy": "reference"},
        {
            "name": "Baseline, DPO",
            "policy": "dpo",
            "published": {"sentiment": [{"mean": 0.5, "se": 0.1, "where": place} for place in ("A", "B")]},
        },
    ],
}
PERPLEXITY = {"kind": "perplexity", "title": "Perplexities", "where": "here", "experiments": ["multi_reward"]}
RECORD = {
    "started": "2026-01-01T00:00:00Z",
    "seconds": 2.5,
    "peak_memory_mib": 300,
    "host": "here",
    "processor": "one",
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "python": "3.11",
    "versions": {"torch": "2.13.0+cpu"},
    "commit": "0123456789",
    "dirty": False,
}
SFT = "results/embedded/sft/multi_reward"
SCORES = "results/embedded/evaluations/multi_reward/dpo/seed0/rewards"


def upstream(path: str) -> dict[str, Path]:
    _, run, stage, *rest = Path(path).parent.parts
    experiment = rest[0] if rest else ""
    if stage == "evaluations":
        *policy, own = rest
        before = {"rewards": ["evaluations", *policy, "completions"], "completions": ["policies", *policy]}[own]
        folders = ["/".join(before if rest[1] != "reference" or own == "rewards" else ["sft", experiment])]
    else:
        folders = [f if f.startswith("assets") else f"{f}/{experiment}" for f in UPSTREAM.get(stage, ())]
    return {folder: Path("results", run, folder, "manifest.json") for folder in folders}


def make(path: str, config: dict, tables: dict, sentiment: float = 0.0) -> None:
    """Publish a small artifact at this place of the run, with its record: scores of three prompts, or a text."""
    stage, spec = job(config, tables, path)
    if stage in ("tables", "page"):
        inputs = {name: Path(p) for name, p in table_inputs(config, tables, spec.get("table", "index")).items()}
    else:
        inputs = upstream(path)
    work = {"stage": stage, "spec": spec, "code": fingerprint(STAGES[stage]), "inputs": inputs}
    with publish(Path(path), **work) as (out, resume):
        frame = pd.DataFrame({"prompt_id": [0, 1, 2], "sample": 0, "decoding": "token"})
        if stage == "tables":
            folders = {n: p.parent if p.name == "manifest.json" else p for n, p in inputs.items()}
            print_table(out, spec, runtime=None, resume=resume, **folders)
        elif "/evaluations/" in path and stage == "rewards":
            frame.assign(sentiment=[sentiment, 1.0, 2.0]).to_parquet(out / "scores.parquet")
        elif stage == "evaluations":
            frame.assign(domain="movie").to_parquet(out / "completions.parquet")
        elif stage == "policies":
            rows = {"style": ["s"], "domain": ["movie"], "q0": [0.5]}
            whole(pd.DataFrame(rows)).to_parquet(out / "responsibilities.parquet")
        elif stage == "sft":
            rows = {"domain": ["movie", "book"], "reviews": 9, "before": [7.5, 8.5], "after": [6.5 + sentiment, 7.0]}
            pd.DataFrame(rows).to_csv(out / "perplexity.csv", index=False)
        else:
            (out / "made.txt").write_text(f"{stage} {sentiment}")
    write_json(Path(parse(path).record), RECORD)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An embedded run with two tables, of which every artifact is there and as it should be."""
    monkeypatch.chdir(tmp_path)
    for name in ("config.yaml", "config"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, name)
    config = configuration()
    for name, table in {"table1": TABLE, "perplexity": PERPLEXITY}.items():
        Path("mixdpo/paper/published").mkdir(parents=True, exist_ok=True)
        Path(f"mixdpo/paper/published/{name}.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    for text in TEXTS.values():
        Path(text).parent.mkdir(parents=True, exist_ok=True)
        Path(text).write_text("a text of the page")
    tables = published(Path("mixdpo/paper/published"), config)
    todo = [path for path in targets(config, tables) if path.startswith("results")]
    while todo:
        ready = [path for path in todo if all(p.is_file() for p in upstream(path).values())]
        for path in ready:
            make(path, config, tables)
        todo = [path for path in todo if path not in ready]
    for path in targets(config, tables):
        if path.startswith("paper_tables"):
            make(path, config, tables)
    return config, tables


def one_fault(run) -> str:
    faults, _ = audit(*run)
    assert len(faults) == 1 and "\n" not in faults[0], faults
    return faults[0]


def edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))


def test_a_clean_run(run):
    faults, summary = audit(*run)
    assert faults == []
    # assets 4, sft, completions, rewards, preferences, reference, policy, evaluations 2 · 2, tables 2; cells 3 and 2
    assert summary == "17 artifacts, 2 tables and figures, 5 cells: all match"


def test_a_run_outside_git_is_told_so(run):
    record = Path(parse(f"{SFT}/manifest.json").record)
    write_json(record, RECORD | {"commit": None, "dirty": None})
    assert audit(*run)[1].startswith("17 artifacts (1 made outside Git, so that their commit is unknown)")


def test_a_flipped_byte(run):
    payload = Path(SCORES, "scores.parquet")
    content = payload.read_bytes()
    payload.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f"{payload}: does not match its SHA-256" in one_fault(run)


def test_a_missing_artifact(run):
    shutil.rmtree(SFT)
    assert one_fault(run) == f"missing: {SFT}; run snakemake"


def test_an_edited_digit(run):
    edit("paper_tables/embedded/table1.csv", "1.0,0.57", "1.0,0.58")
    assert one_fault(run).startswith("paper_tables/embedded/table1.csv: does not match its SHA-256")


@pytest.mark.parametrize("suffix", ["csv", "json", "md", "tex"])
def test_a_table_edited_together_with_its_manifest(run, suffix):
    printed = Path(f"paper_tables/embedded/table1.{suffix}")
    manifest, before = "paper_tables/embedded/table1.manifest.json", sha256(printed)
    edit(str(printed), "1.0,0.57" if suffix == "csv" else "1.000", "1.0,0.58" if suffix == "csv" else "1.001")
    edit(manifest, before, sha256(printed))
    words = "line 2 (Reference (SFT), sentiment): expected 0.57" if suffix == "csv" else "expected what its inputs give"
    assert str(printed) in one_fault(run) and words in one_fault(run)


def test_an_edited_setting(run):
    run[0]["sft"]["epochs"] = 7
    assert one_fault(run) == f"sft: epochs is 7 in the configuration and was 2 when it made: {SFT}; run snakemake"


def test_an_edited_published_value(run):
    edit("mixdpo/paper/published/table1.yaml", "mean: 0.5", "mean: 0.6")
    told = "mixdpo/paper/published/table1.yaml is not what it was when it went into: "
    made = "paper_tables/embedded/table1, paper_tables/embedded/index"
    assert one_fault(run) == f"{told}{made}; run snakemake"


def test_edited_code(run, monkeypatch):
    """One sentence for all artifacts of a stage; what is behind them is not stale itself."""
    edited = STAGES["rewards"]
    monkeypatch.setattr(module, "fingerprint", lambda m: "other" if m == edited else fingerprint(m))
    told = one_fault(run)
    assert told.startswith("code of stage rewards changed since it made: results/embedded/") and SCORES in told


def test_an_artifact_remade_since(run):
    """Its direct consumers are named; what was made from these is as it was. Perplexity is made from sft as well."""
    make(f"{SFT}/manifest.json", *run, sentiment=1.0)
    told = one_fault(run)
    assert told.startswith(f"{SFT}/manifest.json is not what it was when it went into: ")
    assert "results/embedded/completions/multi_reward" in told and "paper_tables/embedded/perplexity" in told
    make("results/embedded/completions/multi_reward/manifest.json", *run, sentiment=1.0)
    assert one_fault(run).startswith(f"{SFT}/manifest.json is not what it was")  # the completions' change follows


def test_an_input_that_the_table_has_no_more(run):
    config, tables = run
    tables["table1"]["rows"].pop()
    faults, _ = audit(config, tables)
    assert any(f"{SCORES}/manifest.json is no input by today's configuration" in fault for fault in faults)


def test_uncommitted_code_and_lost_records(run):
    record = Path(parse(f"{SCORES}/manifest.json").record)
    write_json(record, RECORD | {"dirty": True})
    assert one_fault(run).startswith(f"made with uncommitted changes to the code of 01234567: {SCORES}; commit")
    record.unlink()
    assert one_fault(run).startswith(f"no run record: {SCORES}; ")


def test_lineage_names_every_artifact_once_before_what_it_is_made_from(run):
    chain = lineage(Path("paper_tables/embedded/table1.manifest.json"))
    assert set(chain) == set(causes_first(["paper_tables/embedded/table1.manifest.json"]))
    first = next(iter(chain.values()))
    assert (first["stage"], first["depth"], first["facts"]) == ("tables", 0, RECORD)
    assert first["inputs"]["mixdpo/paper/published/table1.yaml"] == "mixdpo/paper/published/table1.yaml"
    sft = chain[f"{SFT}/manifest.json"]
    assert sft["sha256"] == sha256(Path(SFT, "manifest.json")) and sft["spec"]["epochs"] == 2
    assert sft["inputs"] == {"results/embedded/assets/base": "results/embedded/assets/base/manifest.json"}


def test_sources_of_a_cell(run):
    manifest = Path("paper_tables/embedded/table1.manifest.json")
    own = sources(TABLE, manifest, "Baseline, DPO", "sentiment")
    assert f"{SCORES}/manifest.json" in own and not any("/reference/" in path for path in own)
    beside = sources(TABLE | {"baseline": "reference"}, manifest, "Baseline, DPO", "sentiment")
    assert set(beside) > set(own) and set(beside) == set(sources(TABLE, manifest, "a row without policy", ""))
    assert sources(TABLE | {"opponents": {"reference": "SFT"}}, manifest, "Baseline, DPO", "sentiment") == beside
    row = {"name": "Taught", "policy": "dpo", "ceiling": "reference"}
    assert sources(TABLE | {"rows": [row]}, manifest, "Taught", "recovered when taught") == beside


def test_sources_of_a_claim(run):
    """Rows of claims are known by their claim; the reference is the baseline of this one."""
    table = {
        "rows": [{"claim": "gain", "policy": "dpo", "baseline": "reference"}, {"claim": "none", "policy": "other"}]
    }
    manifest = Path("paper_tables/embedded/table1.manifest.json")
    methods = {parse(path).method for path in sources(table, manifest, "gain", "")}
    assert methods == {"dpo", "reference"} and sources(table, manifest, "none", "") == []


def test_a_table_of_another_target_is_audited_where_it_is(run):
    config, tables = run
    tables["perplexity"]["target"] = "more"
    make("paper_tables/embedded/index.manifest.json", config, tables)  # the page shows tables of target all
    assert audit(config, tables)[1].startswith("17 artifacts, 2 tables and figures, 5 cells")
    Path("paper_tables/embedded/perplexity.manifest.json").unlink()
    assert audit(config, tables)[1].startswith("16 artifacts, 1 tables and figures, 3 cells")


def test_a_table_that_only_git_brought_is_named_and_no_fault(run):
    """Of a further target's trainings nothing is here; with one of them the target is audited, and lacks the others."""
    config, tables = run
    tables["more"] = TABLE | {"target": "more", "rows": [{"name": "Mix-DPO", "policy": "mix_case1"}]}
    Path("paper_tables/embedded/more.manifest.json").write_text("{}")
    faults, summary = audit(config, tables)
    assert faults == [] and summary.endswith("all match; not audited, since no run here made them: more")
    Path("results/embedded/policies/multi_reward/mix_case1/seed0").mkdir(parents=True)
    Path("results/embedded/policies/multi_reward/mix_case1/seed0/manifest.json").write_text("{}")
    faults, summary = audit(config, tables)
    assert faults and "not audited" not in summary


def test_the_remedy_names_the_target():
    ways = {"all": ["a", "b"], "more": ["b", "c"]}
    assert aimed("commit, then run snakemake", ["c"], ways) == "commit, then run snakemake more"
    assert aimed("run snakemake", ["b", "c"], ways) == "run snakemake all more"
    assert aimed("run snakemake", ["b", "elsewhere"], ways) == "run snakemake"


def test_explain_a_cell(run):
    """Scores 0, 1, 2: mean 1, SE 1/√3; both places where it is published; the chain ends at the assets."""
    told = explain(*run, "table1", ["Baseline, DPO", "sentiment"])
    assert re.search(r"^  mean +1\.0$", told, re.MULTILINE) and re.search(r"^  se +0\.577350", told, re.MULTILINE)
    assert re.search(r"^  published_where +A; B$", told, re.MULTILINE) and "SD of the seeds' means" in told
    assert told.count(f"{SFT}  ") == 1 and "results/embedded/assets/reviews" in told and '"epochs": 2' in told
    assert "commit 0123456789, clean" in told and "2026-01-01T00:00:00Z, 2.5 s, 300 MiB, here" in told
    assert "evaluations/multi_reward/reference" not in told


def test_explain_a_csv_without_rows_and_columns(run):
    told = explain(*run, "perplexity", ["book", "after"])
    assert re.search(r"^  after +7\.0$", told, re.MULTILINE) and "before" not in told.split("\n\n")[0]


def test_explain_a_whole_table(run):
    assert "3 rows of paper_tables/embedded/table1.csv, made again: the same" in explain(*run, "table1", [])


@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [
        ("table1", ["Baseline", "sentiment"], "found Baseline; did you mean Baseline, DPO?"),
        ("table1", ["Baseline, DPO", "sentimental"], "found sentimental; did you mean sentiment?"),
        ("perplexity", ["multi_reward", "after"], "expected a domain too, one of movie, book"),
        ("tabel1", [], "found tabel1; did you mean table1?"),
    ],
)
def test_labels_that_name_no_cell(run, name, labels, words):
    with pytest.raises(UserError) as stop:
        explain(*run, name, labels)
    assert words in str(stop.value) and "\n" not in str(stop.value)


def test_explain_finds_a_cell_that_differs(run):
    printed, manifest = Path("paper_tables/embedded/table1.csv"), "paper_tables/embedded/table1.manifest.json"
    before = sha256(printed)
    edit(str(printed), "1.0,0.57", "1.0,0.58")
    with pytest.raises(UserError, match=r"table1.csv: does not match its SHA-256"):
        explain(*run, "table1", ["Reference (SFT)", "sentiment"])
    edit(manifest, before, sha256(printed))
    with pytest.raises(UserError, match=r"Reference \(SFT\), sentiment: expected se 0\.57.* found 0\.58"):
        explain(*run, "table1", ["Reference (SFT)", "sentiment"])
    assert "Baseline" in explain(*run, "table1", ["Baseline, DPO", "sentiment"])


class Shelf(requests.adapters.BaseAdapter):
    """Serves the JSON-LD context of the rocrate package, with the IRIs that it had in version 1.1."""

    def send(self, request, **_):
        context = json.loads((Path(rocrate.__file__).parent / "data/ro-crate.jsonld").read_text())
        context["@context"] |= {t: f"https://bioschemas.org/{t}" for t in ("ComputationalWorkflow", "FormalParameter")}
        body = io.BytesIO(json.dumps(context).encode())
        answer = HTTPResponse(body, {"Content-Type": "application/ld+json"}, status=200, preload_content=False)
        return requests.adapters.HTTPAdapter().build_response(request, answer)

    def close(self):
        pass


@pytest.fixture
def crate(run, tmp_path):
    """The run as a crate, with the workflow's own files beside its artifacts."""
    for name in ("Snakefile", "LICENSE"):
        shutil.copy2(ROOT / name, name)
    for pattern in ("*.py", "run/*.json"):
        for file in (ROOT / "mixdpo").rglob(pattern):
            (to := file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, to)
    write_crate(*run, tmp_path / "crate")
    return tmp_path / "crate"


def graph_of(crate: Path) -> dict[str, dict]:
    return {e["@id"]: e for e in json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]}


def test_crate_has_a_job_an_artifact(crate):
    entities = graph_of(crate)
    job = entities[f"#{SCORES}"]
    assert job["instrument"] == {"@id": "mixdpo/stages/rewards.py"}
    assert (job["startTime"], job["endTime"]) == ("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:02.500000+00:00")
    results = [entities[r["@id"]] for r in job["result"]]
    assert {r["@id"]: r["sha256"] for r in results} == {
        f"{SCORES}/{name}": sha256(crate / SCORES / name) for name in ("manifest.json", "scores.parquet")
    }
    objects = [entities[o["@id"]] for o in job["object"]]
    assert f"{Path(SCORES).parent}/completions/manifest.json" in {o["@id"] for o in objects}
    assert any(o["name"] == "rewards.names" and "sentiment_label" in o["value"] for o in objects)
    memory = entities[job["resourceUsage"]["@id"]]
    assert (memory["value"], memory["unitText"]) == ("300", "MiB")
    assert sum(e["@type"] == "CreateAction" for e in entities.values()) == 17 + 1


@pytest.mark.slow
def test_crate_is_valid(crate, tmp_path):
    cache = str(tmp_path / "http")
    with requests_cache.CachedSession(cache, expire_after=-1) as session:
        session.mount("https://", Shelf())
        session.get("https://w3id.org/ro/crate/1.1/context")

    def issues(profile: str) -> list[str]:
        settings = ValidationSettings(
            rocrate_uri=str(crate),
            profile_identifier=profile,
            requirement_severity=Severity.REQUIRED,
            cache_path=cache,
            offline=True,
        )
        return [issue.message for issue in validate(settings).get_issues()]

    for profile in ("process-run-crate", "workflow-run-crate", "provenance-run-crate"):
        assert issues(profile) == []
    metadata = crate / "ro-crate-metadata.json"
    metadata.write_text(metadata.read_text().replace('"workExample"', '"unknown"'))
    assert any("workExample" in message for message in issues("provenance-run-crate"))


def command(project: Path, *arguments: str) -> tuple[int, list[str]]:
    """Exit status and lines of a call in a project with the tiny world."""
    call = [sys.executable, "-m", "mixdpo", *arguments, "--configfile", "tests/tiny.yaml"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(call, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, (done.stdout + done.stderr * (done.returncode != 0)).splitlines()


@contextlib.contextmanager
def changed(path: Path, change):
    """A file with other content, for a while."""
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(change(content))
    try:
        yield
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replaced(old: str, new: str):
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    return change


@pytest.mark.slow
def test_the_workflow_is_audited_from_print_to_reviews(project, tmp_path):
    """Five faults at once, uncommitted code among them, are five sentences; without them the run is clean."""
    weights = project / "results/tiny/policies/multi_reward/mix_case1/seed0/model/mixture.safetensors"
    table, manifest = (project / f"paper_tables/tiny/table2.{suffix}" for suffix in ("csv", "manifest.json"))
    row, before = pd.read_csv(table, dtype=str).iloc[3], sha256(table)
    another = row["mean"][:-1] + str((int(row["mean"][-1]) + 1) % 10)
    cell = ("explain", "paper_tables/tiny/table2", row["row"], row["column"])
    for file in manifest.parent.glob("table2.*"):
        file.unlink()
    with changed(
        project / "mixdpo/data/statistics.py", lambda content: content + b"# a comment that is not committed\n"
    ):
        assert snakemake(project, "paper_tables/tiny/table2.manifest.json").returncode == 0
    with (
        changed(weights, lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        changed(table, replaced(row["mean"], another)),
        changed(manifest, replaced(before, sha256(table))),
        changed(project / "tests/tiny.yaml", replaced("vocabulary: 500, width: 32", "vocabulary: 501, width: 32")),
        changed(project / "mixdpo/stages/rewards.py", replaced("batch_size = 32", "batch_size = 31")),
    ):
        status, lines = command(project, "audit")
        told = [line for line in lines if "; " in line][:-1]
        assert status == 1 and lines[-1].startswith("5 faults; ") and len(told) == 5, lines
        for words in (
            "mixture.safetensors: does not match its SHA-256",
            f"({row['row']}, {row['column']}): expected {row['mean']} from its inputs, found {another}",
            "base: vocabulary is 501 in the configuration and was 500 when it made: results/tiny/assets/base",
            "stage rewards",
        ):
            assert sum(words in line for line in told) == 1, lines
        assert any(re.match("made with uncommitted changes .*: paper_tables/tiny/table2;", line) for line in told)
        status, lines = command(project, *cell)
        assert status == 1 and f"expected mean {row['mean']} from its inputs, found {another}" in lines[-1]
    status, lines = command(project, *cell)
    assert status == 0 and any("results/tiny/assets/reviews" in line for line in lines)

    for file in manifest.parent.glob("table2.*"):
        file.unlink()
    assert snakemake(project).returncode == 0
    status, lines = command(project, "audit", "--crate", str(tmp_path / "crate.zip"))
    assert status == 0 and re.fullmatch(r"\d+ artifacts, \d+ tables and figures, \d+ cells: all match", lines[-1])
    assert (tmp_path / "crate.zip").stat().st_size > 1e6
