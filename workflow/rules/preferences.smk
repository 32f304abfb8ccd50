# From completions and rewards, or from rated responses: triplets, by style or by user.
use rule light as preferences with:
    input:
        unpack(made_from("preferences")),
    output:
        manifest=where("preferences").manifest,
    log:
        where("preferences").log,
    params:
        **work("preferences"),
