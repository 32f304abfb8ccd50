"""The spaCy pipeline behind two rewards, from a local folder or an installed package."""

from pathlib import Path

import spacy

from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime
from mixdpo.stages.assets.models import check, obtain


def pipeline(out: Path, spec: dict, *, runtime: Runtime, resume: Path, **_: Path) -> None:
    """Write `model/`, an English pipeline with tags, parse and entities."""
    if spec["source"] == "local":
        obtain("pipeline", out, spec)
    else:
        try:
            nlp = spacy.load(spec["package"])
        except OSError:
            nlp = None
        found = nlp.meta["version"] if nlp else "no such package"
        if found != spec["version"]:
            raise UserError(
                f"assets.pipeline.hub: expected {spec['package']} {spec['version']}, found {found}; install it with "
                f"python -m spacy download {spec['package']}-{spec['version']} --direct, or set assets.pipeline.source"
                " to local"
            )
        nlp.to_disk(out / "model")
    check("pipeline", out, spacy.load)
