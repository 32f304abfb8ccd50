# From a policy and its reference: completions of test prompts.
use rule job as evaluations with:
    input:
        unpack(made_from("evaluations")),
    output:
        manifest=where("evaluations").manifest,
    log:
        where("evaluations").log,
    params:
        **work("evaluations"),


# From completions of test prompts, the classifier and the pipeline: their rewards.
use rule job as evaluation_rewards with:
    input:
        unpack(made_from("evaluation_rewards")),
    output:
        manifest=where("evaluation_rewards").manifest,
    log:
        where("evaluation_rewards").log,
    params:
        **work("evaluation_rewards"),


# From rated responses to training instructions: a classifier for each aspect, which judges.
use rule light as rating_classifier with:
    input:
        unpack(made_from("rating_classifier")),
    output:
        manifest=where("rating_classifier").manifest,
    log:
        where("rating_classifier").log,
    params:
        **work("rating_classifier"),


# From completions of a policy and of its opponents: which are preferred.
use rule job as judgements with:
    input:
        unpack(made_from("judgements")),
    output:
        manifest=where("judgements").manifest,
    log:
        where("judgements").log,
    params:
        **work("judgements"),
