"""Embedded, local and hub sources give artifacts of one form; what is wrong with an input is one line."""

import json
import shutil

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from mixdpo.data.reviews import COLUMNS
from mixdpo.errors import Corrupt, UserError
from mixdpo.fields import merged
from mixdpo.provenance.artifact import publish, verify
from mixdpo.run.graph import inputs_of, job
from mixdpo.run.settings import completed
from mixdpo.run.yaml import shipped
from mixdpo.stages.assets.base import base
from mixdpo.stages.assets.models import obtain
from mixdpo.stages.assets.pipeline import pipeline
from mixdpo.stages.assets.reviews import clean, read_file, reviews

CONFIG = completed(shipped())
REVISION = "0123456789abcdef0123456789abcdef01234567"


def raw(n=20, **columns):
    return pd.DataFrame({"id": range(n), "text": [f"review {i} is long enough" for i in range(n)], **columns})


def entry(path, **more):
    return {"path": str(path), "domain": "movie", "split": "train"} | more


def test_local_reviews_take_every_form_of_label(tmp_path, runtime):
    raw(label=["pos", "neg"] * 10).to_parquet(tmp_path / "a.parquet")
    raw(label=[1, 0] * 10, rating=[9, 2] * 10).assign(text=lambda f: f["text"] + " too").to_parquet(
        tmp_path / "b.parquet"
    )
    raw().assign(text=lambda f: f["text"] + " as well").to_parquet(tmp_path / "c.parquet")
    files = [
        entry(tmp_path / "a.parquet"),
        entry(tmp_path / "b.parquet", split="test"),
        entry(tmp_path / "c.parquet", split="base"),
    ]
    reviews(tmp_path, {"source": "local", "files": files}, runtime=runtime, resume=tmp_path)
    frame = pd.read_parquet(tmp_path / "reviews.parquet")
    assert list(frame) == COLUMNS and frame["id"].is_unique
    assert frame.groupby("split")["label"].agg(lambda s: s.dropna().tolist()[:2]).to_dict() == {
        "base": [],
        "test": [1, 0],
        "train": [1, 0],
    }


def test_hub_reviews_in_the_hubs_own_format(tmp_path, runtime):
    """A dataset repository: a card that names the splits' files, parquet below data/; and one of plain jsonl files."""
    repository = tmp_path / "imdb"
    (repository / "data").mkdir(parents=True)
    raw(label=[1, 0] * 10).to_parquet(repository / "data/train-00000-of-00001.parquet")
    (repository / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
    )
    books = tmp_path / "books"
    books.mkdir()
    raw(rating=[5.0, 1.0, 3.0, 4.0] * 5).assign(text=lambda f: "book " + f["text"]).to_json(
        books / "Books.jsonl", orient="records", lines=True
    )
    common = {"revision": REVISION, "hub_split": "train"}
    datasets = [
        common | {"repository": str(repository), "domain": "movie", "split": "train"},
        common
        | {"repository": str(books), "data_files": "Books.jsonl", "rows": 12, "positive_from": 4, "negative_to": 2}
        | {"domain": "book", "test_share": 0.25, "seed": 0},
    ]
    reviews(tmp_path, {"source": "hub", "datasets": datasets}, runtime=runtime, resume=tmp_path)
    frame = pd.read_parquet(tmp_path / "reviews.parquet")
    assert frame.groupby(["domain", "split"]).size().to_dict() == {
        ("book", "test"): 3,
        ("book", "train"): 9,
        ("movie", "train"): 20,
    }
    labels = frame[frame["domain"] == "book"].set_index("rating")["label"]
    assert labels[5.0].eq(1).all() and labels[1.0].eq(0).all() and labels[3.0].isna().all()


def test_duplicates_stay_in_the_test_split_and_are_counted():
    rows = [
        ("a", "same", "train"),
        ("b", "same", "test"),
        ("c", "same", "base"),
        ("d", " ", "train"),
        ("e", "own", "train"),
    ]
    frame = pd.DataFrame(
        [(i, t, None, None, "movie", s) for i, t, s in rows],
        columns=["id", "text", "label", "rating", "domain", "split"],
    )
    kept, counts = clean(frame)
    assert kept["id"].tolist() == ["b", "e"]
    assert counts == {"read": 5, "empty": 1, "duplicates": 2, "kept": 2}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("corrupt", ["expected a parquet file"]),
        ("no text", ["expected rows with a column text", "id"]),
        ("empty", ["found 0 rows"]),
        ("numbers", ["expected strings in column text", "int"]),
        ("labels", ["expected labels", "good"]),
    ],
)
def test_bad_reviews_are_one_line(tmp_path, damage, words):
    path = tmp_path / "bad.parquet"
    match damage:
        case "corrupt":
            path.write_bytes(b"PAR1 and then nothing")
        case "no text":
            raw().drop(columns="text").to_parquet(path)
        case "empty":
            raw(0).to_parquet(path)
        case "numbers":
            raw().assign(text=1).to_parquet(path)
        case "labels":
            raw(label=["good"] * 20).to_parquet(path)
    with pytest.raises(UserError) as error:
        read_file(entry(path))
    message = str(error.value)
    assert "bad.parquet" in message and "\n" not in message
    for word in words:
        assert word in message


def test_blank_corpus_is_one_line(tmp_path, runtime):
    raw().assign(text="  ").to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="expected reviews with text"):
        reviews(
            tmp_path, {"source": "local", "files": [entry(tmp_path / "a.parquet")]}, runtime=runtime, resume=tmp_path
        )


def test_local_model_is_linked_and_watched(tmp_path, monkeypatch, model_folder, runtime):
    monkeypatch.chdir(tmp_path)
    local = tmp_path / "elsewhere"
    shutil.copytree(model_folder, local)
    manifest = tmp_path / "results/base/manifest.json"
    spec = {"source": "local", "path": str(local)}
    with publish(manifest, stage="base", spec=spec, code="c", inputs={}) as (staging, _):
        base(staging, spec, runtime=runtime, resume=tmp_path)
    assert "model/model.safetensors" in verify(manifest)["files"]
    AutoModelForCausalLM.from_pretrained(manifest.parent / "model")
    (local / "config.json").write_text("{}")
    with pytest.raises(Corrupt, match=r"model/config\.json"):
        verify(manifest)


def test_a_base_model_learns_reviews_and_responses(tmp_path, reviews_folder, runtime):
    """Its tokenizer makes one token of a word that only training responses have, and none of one of test responses."""
    rows = [("train", "Zounds zounds zounds."), ("test", "Gadzooks gadzooks gadzooks.")] * 9
    frame = pd.DataFrame(rows, columns=["split", "text"]).assign(domain="instruction")
    frame.to_parquet(tmp_path / "reviews.parquet")
    sizes = {"vocabulary": 400, "layers": 1, "width": 16, "heads": 2, "epochs": 1, "responses": True}
    config = completed(merged(shipped(), {"assets": {"base": {"reviews": sizes}}}))
    path = "results/embedded/assets/base/manifest.json"
    assert [*inputs_of(config, {}, path)] == ["reviews", "feedback"] and [*inputs_of(CONFIG, {}, path)] == ["reviews"]
    _, spec = job(config, {}, path)
    tokens = {}
    for name, folders in ("with", {"feedback": tmp_path}), ("without", {}):
        (tmp_path / name).mkdir()
        base(tmp_path / name, spec, runtime=runtime, resume=tmp_path / name, reviews=reviews_folder, **folders)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name / "model")
        tokens[name] = [len(tokenizer(word)["input_ids"]) for word in (" zounds", " gadzooks")]
    assert tokens["with"][0] == 1 < tokens["without"][0] and tokens["with"][1] > 1


def test_hub_model_from_the_hubs_own_cache(tmp_path, monkeypatch, model_folder, runtime):
    """The layout that huggingface_hub keeps on disk; nothing is fetched."""
    cached = tmp_path / "hub/models--someone--tiny/snapshots" / REVISION
    cached.parent.mkdir(parents=True)
    shutil.copytree(model_folder, cached)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    out = tmp_path / "out"
    out.mkdir()
    base(out, {"source": "hub", "repository": "someone/tiny", "revision": REVISION}, runtime=runtime, resume=tmp_path)
    assert AutoTokenizer.from_pretrained(out / "model")("film")["input_ids"]


def test_hub_without_a_network_names_the_asset_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    spec = {"source": "hub", "repository": "someone/tiny", "revision": REVISION}
    with pytest.raises(
        UserError, match=r"assets\.classifier: .*someone/tiny.*assets\.classifier\.source to local"
    ) as error:
        obtain("classifier", tmp_path, spec)
    assert "\n" not in str(error.value)


def test_broken_model_is_one_line(tmp_path, runtime):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match=r"assets\.base: expected a model that loads") as error:
        base(out, {"source": "local", "path": str(tmp_path)}, runtime=runtime, resume=tmp_path)
    assert "\n" not in str(error.value)


def test_missing_pipeline_package_says_what_to_type(tmp_path, runtime):
    spec = {"source": "hub", "package": "en_core_web_nowhere", "version": "3.8.0"}
    with pytest.raises(UserError, match=r"expected en_core_web_nowhere 3.8.0, found no such package; install it with"):
        pipeline(tmp_path, spec, runtime=runtime, resume=tmp_path)
