# From files, the hub or the embedded world: reviews in one form.
use rule light as reviews with:
    input:
        unpack(made_from("reviews")),
    output:
        manifest=where("reviews").manifest,
    log:
        where("reviews").log,
    params:
        **work("reviews"),


# From a file, the hub or the embedded world: instructions with rated responses.
use rule light as feedback with:
    input:
        unpack(made_from("feedback")),
    output:
        manifest=where("feedback").manifest,
    log:
        where("feedback").log,
    params:
        **work("feedback"),


# From reviews or a checkpoint: the base language model.
use rule job as base with:
    input:
        unpack(made_from("base")),
    output:
        manifest=where("base").manifest,
    log:
        where("base").log,
    params:
        **work("base"),


# From a checkpoint: the base model that an experiment has for itself.
use rule job as bases with:
    input:
        unpack(made_from("bases")),
    output:
        manifest=where("bases").manifest,
    log:
        where("bases").log,
    params:
        **work("bases"),


# From reviews or a checkpoint: the sentiment classifier.
use rule job as classifier with:
    input:
        unpack(made_from("classifier")),
    output:
        manifest=where("classifier").manifest,
    log:
        where("classifier").log,
    params:
        **work("classifier"),


# From gold parses or a pipeline on disk: the spaCy pipeline.
use rule light as pipeline with:
    input:
        unpack(made_from("pipeline")),
    output:
        manifest=where("pipeline").manifest,
    log:
        where("pipeline").log,
    params:
        **work("pipeline"),
