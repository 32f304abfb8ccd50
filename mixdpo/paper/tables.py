"""The stage that prints tables: ours beside the published values, as csv (every digit), JSON, Markdown and LaTeX."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

# Kinds are found by name; these imports make their code part of the fingerprint of the stage.
from mixdpo.paper import (  # noqa: F401
    ablations,
    claims,
    comparisons,
    fair_trial,
    frontier,
    held_out,
    new_users,
    rewards,
    runs,
    users,
)
from mixdpo.paper.scores import scored
from mixdpo.paper.table import Table
from mixdpo.run.kinds import KINDS
from mixdpo.run.published import opened

if TYPE_CHECKING:
    from mixdpo.method.runtime import Runtime


def tables(out: Path, spec: dict, *, runtime: "Runtime", resume: Path, published: Path, **artifacts: Path) -> None:
    """Write `TABLE.csv` with one line per number, `TABLE.json`, and `.md` and `.tex` as the table is read.

    `artifacts` are named as `graph.table_inputs` names them.
    """
    scored.cache_clear()  # an audit makes many tables in one process, and its files are to be read anew
    form, folders = opened(published, artifacts)
    write(out, spec["table"], form, KINDS[form["kind"]].make(form, folders))


def write(out: Path, name: str, form: dict, table: Table) -> None:
    about = {key: form[key] for key in ("title", "where", "kind")} | {"statistic": KINDS[form["kind"]].statistic}
    files = {
        "csv": table.csv(),
        "json": json.dumps(table.json(name=name, **about), indent=1, ensure_ascii=False) + "\n",
        "md": f"**{form['title']}** ({form['where']})\n\n{table.markdown()}",
        "tex": f"% {form['title']}\n{table.latex()}",
    }
    for suffix, text in files.items():
        (out / f"{name}.{suffix}").write_text(text)
