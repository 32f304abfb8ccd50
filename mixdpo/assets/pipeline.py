"""The spaCy pipeline behind two rewards: trained on the embedded world's gold parses, or one from elsewhere."""

from pathlib import Path

import pandas as pd
import spacy
from spacy.cli.init_config import init_config
from spacy.tokens import DocBin
from spacy.training.initialize import init_nlp
from spacy.training.loop import train

from mixdpo.assets import embedded
from mixdpo.assets.models import check, obtain
from mixdpo.errors import UserError
from mixdpo.runtime import Runtime


def gold(spec: dict, first: int, n: int) -> DocBin:
    """Gold documents `first` to `first + n` of the embedded world, the domains in turn."""
    vocab, domains = spacy.blank("en").vocab, spec["domains"]
    docs = (
        embedded.to_doc(embedded.review(domains[i % len(domains)], spec["seed"], i), vocab)
        for i in range(first, first + n)
    )
    return DocBin(docs=docs)


def train_pipeline(spec: dict, out: Path, folder: Path) -> None:
    """Train tagger, parser and entity recogniser with spaCy's own configuration for small CPU pipelines."""
    gold(spec, 0, spec["train"]).to_disk(folder / "train.spacy")
    gold(spec, spec["train"], spec["validation"]).to_disk(folder / "validation.spacy")
    config = init_config(lang="en", pipeline=["tagger", "parser", "ner"], optimize="efficiency", gpu=False)
    config["paths"] |= {"train": str(folder / "train.spacy"), "dev": str(folder / "validation.spacy")}
    config["training"] |= {
        "seed": spec["seed"],
        "max_steps": spec["steps"],
        "eval_frequency": spec["steps"],
        "patience": 0,
        "max_epochs": 0,
    }
    config["system"]["seed"] = spec["seed"]
    config["components"]["tok2vec"]["model"]["encode"] |= {"width": spec["width"], "depth": spec["depth"]}
    nlp = init_nlp(config.interpolate())
    train(nlp, None)
    scores = nlp.evaluate(list(spacy.training.Corpus(folder / "validation.spacy")(nlp)))
    names = ("tag_acc", "dep_uas", "dep_las", "sents_f", "ents_f")
    pd.DataFrame([{name: scores[name] for name in names}]).to_csv(out / "scores.csv", index=False)
    nlp.to_disk(out / "model")


def pipeline(out: Path, spec: dict, *, runtime: Runtime, resume: Path, **_: Path) -> None:
    """Write `model/`, an English pipeline with tags, parse and entities; with source embedded, `scores.csv`."""
    if spec["source"] == "embedded":
        return train_pipeline(spec, out, resume)
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
