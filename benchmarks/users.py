"""Does the gate find the users' styles whatever the training seed?

Needs the results of `make`. Trains a method of users for every seed on the run's preferences and prints the share of
users at the expert of their style, the mean largest weight w(x, u) on the test prompts, and the validation figures.
`--set KEY=VALUE` changes a setting of the method, by its dotted key.
"""

import argparse
import json
import tempfile
from functools import reduce
from pathlib import Path

import pandas as pd
import yaml
from tabulate import tabulate

from mixdpo.fields import merged
from mixdpo.method.policy import Policy
from mixdpo.method.runtime import Runtime
from mixdpo.paper.recovery import at_their_expert
from mixdpo.paper.users import users_of_experts
from mixdpo.run.config import configuration, method_of
from mixdpo.stages.policies import policies


def measure(spec: dict, folder: Path, prompts: pd.DataFrame, runtime: Runtime) -> dict:
    stages = {"reference": "sft", "preferences": "preferences", "reference_log_probs": "reference_log_probs"}
    inputs = {name: folder / stage / "multi_user" for name, stage in stages.items()}
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as resume:
        policies(Path(out), spec, runtime=runtime, resume=Path(resume), **inputs)
        policy = Policy.from_pretrained(Path(out) / "model", runtime)
        after = json.loads((Path(out) / "validation.json").read_text())["after"]
    w = policy.log_weights(prompts["prompt_ids"].tolist(), prompts["user"].tolist()).exp().detach().numpy()
    weights = prompts[["user", "style"]].join(pd.DataFrame(w).add_prefix("w"))
    share = at_their_expert(users_of_experts(weights, list(range(policy.experts)))).mean()
    figures = {"largest w": w.max(axis=1).mean(), "nll": after["nll"], "accuracy": after["accuracy"]}
    return {"seed": spec["seed"], "users at their expert": share} | figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/embedded"))
    parser.add_argument("--configfile", default="", help="the run's overlay")
    parser.add_argument("--method", default="user_moe_case1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the method, in YAML")
    arguments = parser.parse_args()
    spec = method_of(configuration(overlay=arguments.configfile), arguments.method)
    for key, value in (pair.split("=", 1) for pair in arguments.set):
        spec = merged(spec, reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), yaml.safe_load(value)))
    written = arguments.results / "evaluations/multi_user/reference/completions/completions.parquet"
    prompts, runtime = pd.read_parquet(written), Runtime.choose("cpu", "auto", 1)
    lines = [measure(spec | {"seed": seed}, arguments.results, prompts, runtime) for seed in arguments.seeds]
    print(tabulate(lines, headers="keys", tablefmt="github", floatfmt=".3f"))


if __name__ == "__main__":
    main()
