# From a base model and the texts of an experiment's domains: its reference, fine-tuned.
use rule job as sft with:
    input:
        unpack(made_from("sft")),
    output:
        manifest=where("sft").manifest,
    log:
        where("sft").log,
    params:
        **work("sft"),
