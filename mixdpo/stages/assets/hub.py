"""Models and datasets from the Hugging Face hub, each at a pinned revision; the only place that may use a network."""

from itertools import islice
from pathlib import Path

import pandas as pd

from mixdpo.errors import UserError


def _unreachable(asset: str, repository: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"assets.{asset}: expected to fetch {repository} from the hub, found: {reason}; "
        f"without a network set assets.{asset}.source to local and assets.{asset}.local to a copy"
    )


def snapshot(repository: str, revision: str | None) -> Path:
    """The folder of one revision, the newest if None, in the hub's cache, with the files that transformers loads.

    Downloaded if missing; the folder has the name of the commit. Errors are the hub's.
    """
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "*.model", "model*.safetensors"]
    return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))


def fetch_model(asset: str, repository: str, revision: str) -> Path:
    """The folder of one revision of an asset in the hub's cache."""
    try:
        return snapshot(repository, revision)
    except Exception as error:  # the hub's errors share no base class: offline, not found, refused, revision unknown
        raise _unreachable(asset, f"{repository}@{revision}", error) from error


def read_dataset(entry: dict) -> pd.DataFrame:
    """The first `rows` rows (all without that key) of one split of a hub dataset, streamed; column text guaranteed.

    An entry names repository, revision, hub_split and, for repositories of plain files, data_files. `columns`
    renames the hub's columns, and `positive_from` / `negative_to` turn a rating into a label.
    """
    from datasets import load_dataset

    try:
        stream = load_dataset(
            entry["repository"],
            revision=entry["revision"],
            data_files=entry.get("data_files"),
            split=entry["hub_split"],
            streaming=True,
        )
        frame = pd.DataFrame(list(islice(stream, entry.get("rows"))))
    except Exception as error:  # as above
        raise _unreachable("reviews", f"{entry['repository']}@{entry['revision']}", error) from error
    frame = frame.rename(columns=entry.get("columns", {}))
    if "positive_from" in entry:
        if "rating" not in frame:
            raise UserError(
                f"assets.reviews.hub: expected a column rating in {entry['repository']}, found {list(frame)}; "
                "name it under columns or drop positive_from"
            )
        frame["label"] = frame["rating"].map(
            lambda r: 1 if r >= entry["positive_from"] else 0 if r <= entry["negative_to"] else None
        )
    return frame
