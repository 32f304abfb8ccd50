"""The stages by name: where each one's function lives, importable without importing it."""

STAGES = {
    "reviews": "mixdpo.stages.assets.reviews",
    "embedded_reviews": "mixdpo.stages.assets.embedded_reviews",
    "feedback": "mixdpo.stages.assets.feedback",
    "embedded_feedback": "mixdpo.stages.assets.embedded_feedback",
    "base": "mixdpo.stages.assets.base",
    "classifier": "mixdpo.stages.assets.classifier",
    "pipeline": "mixdpo.stages.assets.pipeline",
    "embedded_pipeline": "mixdpo.stages.assets.embedded_pipeline",
    "sft": "mixdpo.stages.sft",
    "completions": "mixdpo.stages.completions",
    "rewards": "mixdpo.stages.rewards",
    "validity": "mixdpo.stages.validity",
    "preferences": "mixdpo.stages.preferences",
    "user_preferences": "mixdpo.stages.user_preferences",
    "reference_log_probs": "mixdpo.stages.reference_log_probs",
    "gates": "mixdpo.stages.gates",
    "policies": "mixdpo.stages.policies",
    "evaluations": "mixdpo.stages.evaluations",
    "rating_classifier": "mixdpo.stages.rating_classifier",
    "judgements": "mixdpo.stages.judgements",
    "tables": "mixdpo.paper.tables",
    "figures": "mixdpo.paper.figures",
    "page": "mixdpo.paper.page",
}
"""Stage name → module; the function has the name of the stage."""
