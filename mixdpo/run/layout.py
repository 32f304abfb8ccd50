"""Where everything of a run lies: an artifact has a key, the key has paths, and `parse` turns a path into the key.

No other file writes these paths. All are relative to the project, as manifests record them.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mixdpo.errors import UserError

PUBLISHED = Path("mixdpo/paper/published")
"""The paper as data: one file per table or figure."""
PLACES = {
    "reviews": "assets/reviews",
    "feedback": "assets/feedback",
    "base": "assets/base",
    "classifier": "assets/classifier",
    "pipeline": "assets/pipeline",
    "bases": "bases/{experiment}",
    "sft": "sft/{experiment}",
    "completions": "completions/{experiment}",
    "rewards": "rewards/{experiment}",
    "validity": "validity",
    "preferences": "preferences/{experiment}",
    "reference_log_probs": "reference_log_probs/{experiment}",
    "gates": "gates/{experiment}",
    "policies": "policies/{experiment}/{policy}",
    "evaluations": "evaluations/{experiment}/{policy}/completions",
    "evaluation_rewards": "evaluations/{experiment}/{policy}/rewards",
    "rating_classifier": "rating_classifier",
    "judgements": "evaluations/{experiment}/{policy}/judgements",
    "tables": "tables/{table}",
    "page": "page",
}
"""Stage → its place within a run. Figures are among the tables."""
PRINTED = ("tables", "page")
"""Stages whose files are kept in Git: in `paper_tables/<run>`, not in `results/<run>`."""
NAME = "[a-z][a-z0-9_]*"
TABLE_NAME = rf"(?!index\b){NAME}"
"""Names of tables and figures; `index` is the page."""
FIELDS = {"run": NAME, "experiment": NAME, "policy": f"reference|{NAME}/seed[0-9]+", "table": TABLE_NAME}
"""Field of a key → what it may be, as a regular expression."""


@dataclass(frozen=True)
class Key:
    """An artifact of a run. `policy` is `reference` or `METHOD/seedN`; fields that the stage lacks are empty."""

    run: str
    stage: str
    experiment: str = ""
    policy: str = ""
    table: str = ""

    @property
    def method(self) -> str:
        """The method of the policy, or `reference`."""
        return split_policy(self.policy)[0]

    @property
    def seed(self) -> str:
        """The training seed of the policy; `reference` has none."""
        return split_policy(self.policy)[1]

    @property
    def place(self) -> str:
        """Where it is within the run: the same for its manifest, its run record and its log."""
        return PLACES[self.stage].format(experiment=self.experiment, policy=self.policy, table=self.table)

    @property
    def manifest(self) -> str:
        if self.stage in PRINTED:
            return self.printed("manifest.json")
        return f"results/{self.run}/{self.place}/manifest.json"

    def printed(self, suffix: str) -> str:
        """A file of a table, a figure or the page."""
        return f"paper_tables/{self.run}/{self.table or 'index'}.{suffix}"

    @property
    def record(self) -> str:
        """The run record: what varies from run to run of the same work."""
        return f"results/{self.run}/runs/{self.place}.json"

    @property
    def log(self) -> str:
        return f"logs/{self.run}/{self.place}.log"


def policy_of(method: str, seed: int | str) -> str:
    """The policy of a method and a training seed."""
    return f"{method}/seed{seed}"


def split_policy(policy: str) -> tuple[str, str]:
    """Method and seed of a policy; `reference` has no seed."""
    method, _, seed = policy.partition("/seed")
    return method, seed


def pattern(run: str, stage: str) -> Key:
    """The key of a stage with Snakemake's wildcards for fields: its paths are the patterns of a rule."""
    fields = {name: f"{{{name}}}" for name in FIELDS if f"{{{name}}}" in PLACES[stage]}
    if stage == "policies":
        fields["policy"] = policy_of("{method}", "{seed}")
    return Key(run, stage, **fields)


def parse(manifest: str) -> Key:
    """The key of an artifact by the path of its manifest. Raises `UserError` if no run has such an artifact."""
    for stage in PLACES:
        if match := _matcher(stage).fullmatch(manifest):
            return Key(stage=stage, **match.groupdict())
    raise UserError(
        f"{manifest}: expected the manifest of an artifact, as paper_tables/embedded/table1.manifest.json, "
        "found another path; correct it"
    )


def parse_printed(path: str) -> Key:
    """The key of a table or figure by one of its files, with or without ending. Raises `UserError` if it is none."""
    match = re.fullmatch(rf"paper_tables/({NAME})/({TABLE_NAME})(\..+)?", path)
    if not match:
        raise UserError(f"{path}: expected paper_tables/RUN/NAME; type one, as in paper_tables/embedded/table1")
    return Key(match[1], "tables", table=match[2])


@cache
def _matcher(stage: str) -> re.Pattern:
    """Matches the manifests of a stage; its groups are fields of the key."""
    path = Key("{run}", stage, "{experiment}", "{policy}", "{table}" if stage == "tables" else "").manifest
    path = re.escape(path)
    for name, regex in FIELDS.items():
        path = path.replace(rf"\{{{name}\}}", f"(?P<{name}>{regex})")
    return re.compile(path)


def is_manifest(path: str) -> bool:
    return path.endswith("manifest.json")


def is_record(path: str) -> bool:
    return re.fullmatch(rf"results/{NAME}/runs/.+\.json", path) is not None


def short(manifest: str) -> str:
    """The short name of an artifact: its folder, or the stem of its files."""
    return manifest.removesuffix("manifest.json").rstrip("./")
