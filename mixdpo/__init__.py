"""Mix- and MoE-DPO: policies of several experts, trained on preferences, and the replication of the paper.

    from mixdpo import recipe, train
    policy = train(preferences, model, recipe("moe", experts=4, by_user=True), out="mine")
    policy.generate(["My soup"], users=["ann"])

Nothing is imported before its name is used. A `Policy` deals in token ids, a `TextPolicy` in text.
"""

import importlib
from typing import Any

HOMES = {
    "train": "mixdpo.library.training",
    "Trained": "mixdpo.library.training",
    "generate": "mixdpo.library.generation",
    "export": "mixdpo.library.generation",
    "TextPolicy": "mixdpo.library.generation",
    "recipe": "mixdpo.library.recipes",
    "Policy": "mixdpo.method.policy",
    "Method": "mixdpo.method.settings",
    "Experts": "mixdpo.method.settings",
    "Weights": "mixdpo.method.settings",
    "Gate": "mixdpo.method.settings",
    "Posterior": "mixdpo.method.settings",
    "Relaxation": "mixdpo.method.settings",
    "Phase": "mixdpo.method.settings",
    "Optimiser": "mixdpo.method.settings",
    "UserError": "mixdpo.errors",
}
"""Public name → the module that defines it."""
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("mixdpo")
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module mixdpo has no attribute {name}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
