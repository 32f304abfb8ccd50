"""The review corpus of the embedded world: as many reviews as the configuration asks for, from its grammar."""

from pathlib import Path

import pandas as pd

from mixdpo import world
from mixdpo.data.reviews import COLUMNS
from mixdpo.method.runtime import Runtime
from mixdpo.stages.assets.reviews import write


def embedded_reviews(out: Path, spec: dict, *, runtime: Runtime, resume: Path) -> None:
    """Write what the reviews stage writes; `spec["sizes"]` maps domain → split → number of reviews."""
    rows = []
    for domain, sizes in spec["sizes"].items():
        splits = [split for split in ("base", "train", "test") for _ in range(sizes[split])]
        for i, review in enumerate(world.reviews(domain, len(splits), spec["seed"])):
            rows.append((f"{domain}-{i}", review.text, review.label, review.rating, domain, splits[i]))
    write(out, pd.DataFrame(rows, columns=COLUMNS))
