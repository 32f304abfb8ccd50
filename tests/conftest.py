"""A language model of a few thousand weights, preferences over random texts, and the runtime that stages take."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mixdpo.fields import merged
from mixdpo.method.objective import PreferenceObjective
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Experts, Method, Optimiser
from mixdpo.method.triplets import Triplets
from mixdpo.paper.table import Table
from mixdpo.stages.assets.base import train_tokenizer
from mixdpo.stages.policies import triplets_of
from mixdpo.stages.reference_log_probs import reference_log_probs

SENTENCES = [
    "The film is a quiet story about two sisters and a boat.",
    "I liked the acting, but the ending was weak and far too long.",
    "Nobody in this book says what they mean, and that is why it works.",
    "Skip it. The jokes are old and the camera never stops moving.",
    "A warm novel with a clever plot and characters that stay with you.",
]
ROOT = Path(__file__).parent.parent
OF_THE_RUN = ("test_workflow.py", "test_audit.py", "test_warm.py")
"""Files of tests that use the fixture `project`."""
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Of several processes (`pytest -n 2`) each takes whole files; one takes all of `OF_THE_RUN`, so that the tiny
    world is run once."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "run" if Path(file).name in OF_THE_RUN else file

    return Files(config, log)


@pytest.fixture(scope="session", autouse=True)
def runtime() -> Runtime:
    """Used by every test, so that all compute on one thread."""
    return Runtime.choose("cpu", "fp32", 1)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder, on a machine of one core: other tests compute on one thread too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    return tmp_path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """`model/` of an artifact: a random two-layer GPT-2 with its own tokenizer."""
    folder = tmp_path_factory.mktemp("policy") / "model"
    tokenizer = train_tokenizer(pd.Series(SENTENCES * 4), 300, folder)
    torch.manual_seed(0)
    size = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews_folder(tmp_path_factory) -> Path:
    """A corpus of 60 short reviews in three splits."""
    folder = tmp_path_factory.mktemp("reviews")
    rows = [
        (
            f"movie-{i}",
            f"{SENTENCES[i % 5]} {SENTENCES[(i * 3 + 1) % 5]} Number {i}.",
            i % 2,
            3 + 5 * (i % 2),
            "movie",
            split,
        )
        for i, split in enumerate(["base"] * 20 + ["train"] * 20 + ["test"] * 20)
    ]
    frame = pd.DataFrame(rows, columns=["id", "text", "label", "rating", "domain", "split"])
    frame.to_parquet(folder / "reviews.parquet", index=False)
    return folder


@pytest.fixture(scope="session")
def method() -> Method:
    """Mix-DPO Case 1 of three heads, at a size for tests."""
    return Method(Experts(heads=3), optimiser=Optimiser(epochs=3, batch_size=4, learning_rate=1e-3))


def changed(method: Method, **changes) -> Method:
    """`method` with other settings: experts and weights replaced whole, other sections key by key."""
    kept = {key: value for key, value in method.as_dict().items() if key not in {"experts", "weights"} & changes.keys()}
    return Method.of(merged(kept, changes))


def spec_of(method: Method, seed: int = 0) -> dict:
    """What the policies stage is given."""
    return method.as_dict() | {"seed": seed}


def steps_of(method: Method, triplets: Triplets) -> list[np.ndarray]:
    """The minibatches of a training, as the policies stage makes them."""
    optimiser = method.optimiser
    return triplets.minibatches(epochs=optimiser.epochs, batch_size=optimiser.batch_size, seed=0)


def minibatch(objective: PreferenceObjective, triplets: Triplets, rows: np.ndarray) -> tuple[torch.Tensor, dict]:
    """The loss of one minibatch, before any training, and the figures of its curve."""
    objective.prepare(triplets, [rows])
    (part,) = objective.parts(0)
    value, figures = objective.loss(part)
    return value, {name: figure.item() for name, figure in figures.items()}


@pytest.fixture(scope="session")
def preferences_folder(tmp_path_factory, model_folder, runtime) -> Path:
    """`preferences/` and `reference_log_probs/`: 10, 4 and 4 prompts, two completions each, ordered at random by three
    styles."""
    folder, rng = tmp_path_factory.mktemp("triplets"), np.random.default_rng(0)
    (folder / "preferences").mkdir()
    (folder / "reference_log_probs").mkdir()
    for split, prompts in (("train", 10), ("validation", 4), ("test", 4)):
        rows = []
        for i in range(prompts):
            prompt, *pair = (rng.integers(1, 300, rng.integers(*size)).tolist() for size in ((2, 8), (3, 20), (3, 20)))
            for style in ("sentiment", "informativeness", "grammar"):
                chosen, rejected = pair if rng.random() < 0.5 else pair[::-1]
                rows.append((i, prompt, chosen, rejected, style, ("movie", "book")[i % 2], "0-1"))
        columns = ["prompt_id", "prompt_ids", "chosen_ids", "rejected_ids", "style", "domain", "pair"]
        pd.DataFrame(rows, columns=columns).to_parquet(folder / f"preferences/{split}.parquet")
    inputs = {"reference": model_folder.parent, "preferences": folder / "preferences"}
    reference_log_probs(folder / "reference_log_probs", {}, runtime=runtime, resume=folder, **inputs)
    return folder


@pytest.fixture(scope="session")
def triplets(preferences_folder) -> Triplets:
    """30 training triplets of 10 pairs."""
    return triplets_of(preferences_folder / "preferences", preferences_folder / "reference_log_probs", "train")


def shown(table: Table) -> pd.DataFrame:
    """The texts of a table, with those of the published values below `HEADING, published`."""
    rows = []
    for cells in table.cells():
        texts = {heading: cell.text for heading, cell in zip(table.headings, cells, strict=True)}
        published = {f"{h}, published": "; ".join(cell.published) for h, cell in zip(table.headings, cells)}
        rows.append(texts | published)
    return pd.DataFrame(rows)


def copy_project(to: Path) -> Path:
    """What Git tracks or would track, in a folder of its own."""
    files = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    ).split()
    for name in files:
        if (ROOT / name).is_file() and not name.startswith("paper_tables/"):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def snakemake(project: Path, *arguments: str, config: str = "tests/tiny.yaml") -> subprocess.CompletedProcess:
    command = ["snakemake", "--cores", "all", *arguments, "--configfile", config]
    return subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A run of the tiny world in a repository of its own; who changes it restores it."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    author = ("-c", "user.name=author", "-c", "user.email=author@example.org")
    for command in ("init", "--quiet"), ("add", "--all"), (*author, "commit", "--quiet", "--message", "project"):
        subprocess.run(["git", *command], cwd=folder, check=True)
    done = snakemake(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def page(tmp_path_factory) -> Path:
    """`index.html` of a made-up run: 20 test prompts, three policies, one table, one figure, two claims."""
    from page_of_a_run import made_page

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        return made_page()
