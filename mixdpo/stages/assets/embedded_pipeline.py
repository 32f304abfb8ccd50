"""The spaCy pipeline of the embedded world, trained on its gold parses."""

from pathlib import Path

import pandas as pd
import spacy
from spacy.cli.init_config import init_config
from spacy.tokens import DocBin
from spacy.training import Corpus
from spacy.training.initialize import init_nlp
from spacy.training.loop import train

from mixdpo import world
from mixdpo.method.runtime import Runtime
from mixdpo.stages.parsing import use_torch


def gold(spec: dict, first: int, n: int) -> DocBin:
    """Gold documents `first` to `first + n` of the embedded world, the domains in turn."""
    vocab, domains = spacy.blank("en").vocab, spec["domains"]
    docs = (
        world.to_doc(world.review(domains[i % len(domains)], spec["seed"], i), vocab) for i in range(first, first + n)
    )
    return DocBin(docs=docs)


def embedded_pipeline(out: Path, spec: dict, *, runtime: Runtime, resume: Path) -> None:
    """Write `model/`, a tagger, parser and entity recogniser in spaCy's own small CPU configuration, and
    `scores.csv`."""
    gold(spec, 0, spec["train"]).to_disk(resume / "train.spacy")
    gold(spec, spec["train"], spec["validation"]).to_disk(resume / "validation.spacy")
    config = init_config(lang="en", pipeline=["tagger", "parser", "ner"], optimize="efficiency", gpu=False)
    use_torch()
    config["paths"] |= {"train": str(resume / "train.spacy"), "dev": str(resume / "validation.spacy")}
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
    scores = nlp.evaluate(list(Corpus(resume / "validation.spacy")(nlp)))
    names = ("tag_acc", "dep_uas", "dep_las", "sents_f", "ents_f")
    pd.DataFrame([{name: scores[name] for name in names}]).to_csv(out / "scores.csv", index=False)
    nlp.meta["performance"] = {name: scores[name] for name in names}  # spaCy's own varies in order
    nlp.to_disk(out / "model")
