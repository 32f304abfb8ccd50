"""The stages by name: where each one's function lives, importable without importing it."""

STAGES = {
    "reviews": "mixdpo.assets.reviews",
    "embedded_reviews": "mixdpo.assets.embedded_reviews",
    "feedback": "mixdpo.assets.feedback",
    "embedded_feedback": "mixdpo.assets.embedded_feedback",
    "base": "mixdpo.assets.base",
    "classifier": "mixdpo.assets.classifier",
    "pipeline": "mixdpo.assets.pipeline",
    "embedded_pipeline": "mixdpo.assets.embedded_pipeline",
    "sft": "mixdpo.sft",
    "completions": "mixdpo.completions",
    "rewards": "mixdpo.rewards",
    "validity": "mixdpo.validity",
    "preferences": "mixdpo.preferences",
    "user_preferences": "mixdpo.users",
    "reference": "mixdpo.reference",
    "gates": "mixdpo.gates",
    "policies": "mixdpo.policies",
    "evaluations": "mixdpo.evaluations",
    "verdicts": "mixdpo.verdicts",
    "paper": "mixdpo.paper",
    "figures": "mixdpo.figures",
    "report": "mixdpo.report",
}
"""Stage name → module; the function has the name of the stage."""
