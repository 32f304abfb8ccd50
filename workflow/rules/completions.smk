# From the reference and reviews: completions of training prompts.
use rule job as completions with:
    input:
        unpack(made_from("completions")),
    output:
        manifest=where("completions").manifest,
    log:
        where("completions").log,
    params:
        **work("completions"),
