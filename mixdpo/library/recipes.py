"""Methods by name, with the workflow's settings where experts would otherwise stay alike."""

from collections.abc import Mapping
from typing import Any

from mixdpo.errors import UserError
from mixdpo.fields import merged
from mixdpo.method.settings import Method

NAMES = "dpo", "mix", "moe"
ARCHITECTURES = "heads", "models", "adapters"
USER_GATE = {"posterior": {"unit": "user"}, "restarts": 4, "optimiser": {"gate_learning_rate": 3.0e-3}}
"""With a gate that sees users: one responsibility for all comparisons of a user, as in the workflow's
user_moe_case1, and several starts, since from some of them two tastes share an expert."""
ADAPTERS = {"experts": {"perturbation": 0.02}}
"""With adapters: the noise is on every matrix and adds up, so it is smaller, as in the workflow's user_moe_adapters."""


def recipe(
    name: str = "moe",
    *,
    experts: int | None = None,
    architecture: str | None = None,
    by_user: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Method:
    """The method that a name stands for: dpo, one model; mix, experts under global weights; moe, under a gate.

    `experts` is K, 4 unless given; `architecture` is heads (the default), models or adapters; `by_user` lets the gate
    see who asks. `changes` are keys of `Method`, at any depth, that override all of this. Raises `UserError`.
    """
    if name not in NAMES:
        raise UserError(f"method: expected one of {', '.join(NAMES)}, found {name}; choose one of those")
    if architecture not in (None, *ARCHITECTURES):
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"architecture: expected one of {known}, found {architecture}; choose one of those")
    if name == "dpo" and experts not in (None, 1):
        raise UserError(f"experts: expected 1 with the method dpo, found {experts}; choose mix or moe")
    kind = architecture or ("models" if name == "dpo" else "heads")
    settings = {"experts": {kind: 1 if name == "dpo" else 4 if experts is None else experts}}
    if name == "moe":
        settings["weights"] = {"kind": "gate", "sees": "user" if by_user else "prompt"}
    settings = merged(settings, changes or {})
    if _get(settings, "weights", "sees") == "user":
        settings = merged(USER_GATE, settings)
    if _get(settings, "experts", "adapters"):
        settings = merged(ADAPTERS, settings)
    try:
        return Method.of(settings, name)
    except UserError as error:
        raise UserError(str(error).replace(" in the configuration", "")) from None


def _get(settings: Mapping[str, Any], section: str, key: str) -> Any:
    return settings[section].get(key) if isinstance(settings.get(section), Mapping) else None
