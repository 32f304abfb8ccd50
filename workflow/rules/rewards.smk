# From completions, the classifier and the pipeline: every reward of the experiment.
use rule job as rewards with:
    input:
        unpack(made_from("rewards")),
    output:
        manifest=where("rewards").manifest,
    log:
        where("rewards").log,
    params:
        **work("rewards"),


# From reviews, the classifier and the pipeline: whether rewards measure what they are named for.
use rule job as validity with:
    input:
        unpack(made_from("validity")),
    output:
        manifest=where("validity").manifest,
    log:
        where("validity").log,
    threads: 1
    params:
        **work("validity"),
