"""Figures in print: png and pdf as they are read, and csv with every number that is drawn.

A head has the same colour, line and marker in every figure, and several seeds' heads are matched to the first seed's
before they are averaged.
"""

from pathlib import Path

import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure

from mixdpo.method.runtime import Runtime
from mixdpo.paper.figures import (  # noqa: F401 (code of this stage)
    annotators,
    confusion,
    forest,
    frontier,
    new_users,
    posteriors,
    tasks,
    users,
    words,
)
from mixdpo.paper.figures.style import STYLE
from mixdpo.paper.scores import scored
from mixdpo.run.kinds import KINDS
from mixdpo.run.published import opened


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
    """The figure that `published` describes, and its numbers: one row per number drawn."""
    scored.cache_clear()  # an audit draws many figures in one process, and its files are to be read anew
    form, folders = opened(published, artifacts)
    return KINDS[form["kind"]].make(form, folders)
