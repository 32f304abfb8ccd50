"""The settings in which the artifacts of a run differ from those of another configuration."""

from collections import defaultdict

import yaml

from mixdpo.run.stages import STAGES


def differences(ours: dict[str, tuple[str, dict]], theirs: dict[str, tuple[str, dict]]) -> list[dict]:
    """The settings that differ, by stage: key, value on either side as YAML, and the artifacts where only some differ.

    Both sides are the stage and spec of artifacts by their place in the run. What one side alone has is left out.
    """
    found, jobs = defaultdict(list), defaultdict(int)
    for place in sorted(ours.keys() & theirs.keys()):
        (stage, here), (_, paper) = ours[place], theirs[place]
        stage = stage.removeprefix("embedded_")
        jobs[stage] += 1
        if paper.get("source") != here.get("source"):
            paper, here = ({"source": {"source": side["source"]} | side} for side in (paper, here))
        paper, here = flat(paper), flat(here)
        for key in sorted({*paper, *here}):
            values = written(paper.get(key)), written(here.get(key))
            if values[0] != values[1]:
                found[stage, key, *values].append(place.partition("/")[2])
    lines = [
        {"stage": stage, "key": key, "paper": paper, "here": here, "of": of if len(of) < jobs[stage] else []}
        for (stage, key, paper, here), of in found.items()
    ]
    return sorted(lines, key=lambda line: list(STAGES).index(line["stage"]))


def flat(spec: dict, prefix: str = "") -> dict:
    """A spec with nested keys joined by dots; what comes from another source stays one value."""
    items = {}
    for key, value in spec.items():
        nested = isinstance(value, dict) and key != "source"
        items |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return items


def written(value: object) -> str:
    """A setting as the configuration writes it."""
    if value is None:
        return "–"
    text = yaml.safe_dump(value, default_flow_style=not isinstance(value, dict), sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()
