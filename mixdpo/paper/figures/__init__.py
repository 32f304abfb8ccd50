"""Figures in print: png and pdf as they are read, and csv with every number that is drawn.

A head has the same colour, line and marker in every figure, and several seeds' heads are matched to the first seed's
before they are averaged.
"""

from pathlib import Path

import matplotlib.style
import pandas as pd
import yaml
from matplotlib.figure import Figure

from mixdpo.method.runtime import Runtime
from mixdpo.paper.figures import confusion, forest, posteriors, tasks, users, words
from mixdpo.paper.figures.style import STYLE
from mixdpo.paper.scores import scored, within
from mixdpo.run.published import resolved, sources_of

KINDS = {
    "posteriors": posteriors.posteriors,
    "words": words.words,
    "tasks": tasks.tasks,
    "confusion": confusion.confusion,
    "user_map": users.user_map,
    "forest": forest.forest,
}
"""Kind of figure → function of its published form and the artifacts: (figure, one row a number that is drawn)."""


def figures(out: Path, spec: dict, *, runtime: Runtime, resume: Path, published: Path, **artifacts: Path) -> None:
    """Write `TABLE.png` (300 dpi), `TABLE.pdf` and `TABLE.csv`, the same bytes from the same input.

    `artifacts` are named as `graph.table_inputs` names them.
    """
    with matplotlib.style.context(["default", STYLE]):
        figure, numbers = drawn(published, artifacts)
        figure.savefig(out / f"{spec['table']}.png", dpi=300, metadata={"Software": None})
        undated = {"CreationDate": None, "Creator": None, "Producer": None}
        figure.savefig(out / f"{spec['table']}.pdf", dpi=300, metadata=undated)
    numbers.to_csv(out / f"{spec['table']}.csv", index=False)


def drawn(published: Path, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """The figure that `published` describes, and its numbers, from the folders of its artifacts."""
    scored.cache_clear()  # an audit draws many figures in one process, and its files are to be read anew
    table = yaml.safe_load(published.read_text())
    table = resolved(table, {name: yaml.safe_load(artifacts[name].read_text()) for name in sources_of(table)})
    folders = {name: path for name, path in artifacts.items() if name not in sources_of(table)}
    if "experiments" in table:
        known = {name.partition(":")[2].partition("/")[0] for name in folders}
        table["experiments"] = [experiment for experiment in table["experiments"] if experiment in known]
    return KINDS[table["kind"]](table, within(folders, table.get("experiment")))
