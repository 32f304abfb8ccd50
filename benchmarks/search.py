"""A search over settings: what each reaches on the validation prompts, with one training seed.

Needs the preferences of a run. Trains every method of a YAML file (name → settings, as in config/methods/) and writes
a line for each to a JSON file: −log P of (5) under implicit rewards, the share of triplets whose style the margins
tell, and how far the experts went. Lines that are there already stay, so a search goes on where it was stopped.
"""

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from tabulate import tabulate

from mixdpo.data.posterior import log_preference
from mixdpo.method.runtime import Runtime
from mixdpo.method.settings import Method
from mixdpo.paper.fair_trial import annotators
from mixdpo.paper.recovery import margins_of, named_by
from mixdpo.paper.scores import triplets_of
from mixdpo.stages.policies import policies

STAGES = {"reference": "sft", "preferences": "preferences", "reference_log_probs": "reference_log_probs"}


def figures(out: Path) -> dict:
    """What a trained policy reaches on the validation triplets."""
    rows = triplets_of(out, "validation")
    margin, w = margins_of(rows), rows.filter(regex="^w[0-9]+$").to_numpy(float)
    found = {"−log P": -log_preference(w, margin).mean(), "of its own rewards": -rows["log_p"].mean()}
    found["KL, nats"] = json.loads((out / "validation.json").read_text())["after"]["kl"]
    if margin.shape[1] > 1:
        off = ~np.eye(margin.shape[1], dtype=bool)
        right = named_by(rows)[margin.argmax(axis=1)] == rows["style"]
        found |= {"recovered": right.mean(), "largest w": w.mean(axis=0).max()}
        found["corr."] = np.corrcoef(margin.T)[off].mean()
    if told := annotators([out]):
        found["units recovered"] = told["mean"]
    return {name: round(float(value), 5) for name, value in found.items()}


def trained(settings: dict, folder: Path, experiment: str, seed: int) -> dict:
    """The figures of a method, and the seconds of processor time that its training and measuring took."""
    spec, started = Method.of(settings).as_dict() | {"seed": seed}, time.process_time()
    spec.pop("top_s")
    inputs = {name: folder / stage / experiment for name, stage in STAGES.items()}
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as resume:
        policies(Path(out), spec, runtime=Runtime.choose("cpu", "auto", 1), resume=Path(resume), **inputs)
        return figures(Path(out)) | {"core-s": round(time.process_time() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", type=Path, help="YAML: name → settings of a method")
    parser.add_argument("--results", type=Path, default=Path("results/embedded"))
    parser.add_argument("--experiment", default="multi_reward")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="JSON: name → settings and figures")
    given = parser.parse_args()
    found = json.loads(given.out.read_text()) if given.out.exists() else {}
    waiting = {n: s for n, s in yaml.safe_load(given.methods.read_text()).items() if n not in found}
    run = partial(trained, folder=given.results, experiment=given.experiment, seed=given.seed)
    with ProcessPoolExecutor(given.jobs) as pool:
        for (name, settings), line in zip(waiting.items(), pool.map(run, waiting.values()), strict=True):
            found[name] = {"settings": settings, "figures": line}
            given.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    lines = [{"method": name} | entry["figures"] for name, entry in found.items()]
    print(tabulate(lines, headers="keys", tablefmt="github", floatfmt=".4f"))


if __name__ == "__main__":
    main()
