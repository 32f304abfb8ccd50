"""The project's YAML files, in which no mapping may have a key twice."""

from pathlib import Path
from typing import Any

import yaml

from mixdpo.errors import UserError
from mixdpo.fields import merged


class DuplicateKey(yaml.MarkedYAMLError):
    """A mapping with one key twice."""


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which would keep the last of several equal keys, with an error in place of that."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:  # as written: what a merge key << brings in may be changed
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise DuplicateKey(problem=key.value, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return node


def read(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file, {} from an empty one. Raises `UserError`, one line with the file and the line."""
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except DuplicateKey as error:
        line = error.problem_mark.line + 1
        raise UserError(
            f"{path}: expected each key once, found {error.problem} again on line {line}; delete one of the two"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = f" on line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}: expected YAML, found: {error.problem}{line}; correct it") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or no date
        raise UserError(f"{path}: expected a YAML file, found: {str(error).splitlines()[0]}; correct it") from None
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{path}: expected keys with values, found {type(found).__name__}; correct it")
    return found or {}


def shipped(folder: Path = Path()) -> dict[str, Any]:
    """config.yaml of `folder` with the methods of config/methods/. Raises `UserError` if two files have one method."""
    config, where = read(folder / "config.yaml"), {}
    for path in sorted((folder / "config/methods").glob("*.yaml")):
        found = read(path)
        policies = found.get("policies")
        methods = policies.get("methods") if isinstance(policies, dict) else None
        for name in methods if isinstance(methods, dict) else ():  # of another type: `completed` says so
            if name in where:
                raise UserError(
                    f"{path}: expected methods of other names than in {where[name]}, found {name}; rename it"
                )
            where[name] = path
        config = merged(config, found)
    return config
