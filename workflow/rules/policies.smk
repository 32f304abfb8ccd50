# From the reference and preferences: log-probabilities of all triplets.
use rule job as reference_log_probs with:
    input:
        unpack(made_from("reference_log_probs")),
    output:
        manifest=where("reference_log_probs").manifest,
    log:
        where("reference_log_probs").log,
    params:
        **work("reference_log_probs"),


# From the reference and preferences: a gate that tells domains apart by the prompt.
use rule job as gates with:
    input:
        unpack(made_from("gates")),
    output:
        manifest=where("gates").manifest,
    log:
        where("gates").log,
    params:
        **work("gates"),


# From the reference, preferences and reference log-probabilities, and where it has them a gate or experts: a policy.
use rule job as policies with:
    input:
        unpack(made_from("policies")),
    output:
        manifest=where("policies").manifest,
    log:
        where("policies").log,
    params:
        **work("policies"),
