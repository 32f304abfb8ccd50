"""The review corpus of a run, from local files or from the hub, in one form."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pyarrow import ArrowInvalid

from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime
from mixdpo.stages.assets import hub

LABELS = {0: 0, 1: 1, "neg": 0, "pos": 1, "negative": 0, "positive": 1}
PRIORITY = {"test": 0, "train": 1, "base": 2}  # a text that stands in two splits stays in the first of these


def read_file(entry: dict) -> pd.DataFrame:
    """One parquet file with a `text` column, and `id`, `label`, `rating` where it has them, as corpus rows.

    An entry names its path, domain and split; without a split, `test_share` of the rows, drawn by `seed`, are test
    and the rest train.
    """
    path = Path(entry["path"])
    try:
        frame = pq.read_table(path).to_pandas()
    except (ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: expected a parquet file, found: {str(error).splitlines()[0]}; replace the file"
        ) from None
    return as_corpus(frame, entry, str(path))


def as_corpus(frame: pd.DataFrame, entry: dict, where: str) -> pd.DataFrame:
    """Check columns, types and labels of raw reviews and give them the corpus's columns."""
    if "text" not in frame or not len(frame):
        raise UserError(
            f"{where}: expected rows with a column text, found {len(frame)} rows of {list(frame)}; correct the file"
        )
    other = frame.loc[~frame["text"].map(lambda t: isinstance(t, str)), "text"]
    if len(other):
        raise UserError(
            f"{where}: expected strings in column text, found {other.iloc[0]!r} in row {other.index[0]}; "
            "correct the file"
        )
    rating = pd.to_numeric(frame["rating"], errors="coerce") if "rating" in frame else None
    if rating is not None and (rating.isna() & frame["rating"].notna()).any():
        found = frame.loc[rating.isna() & frame["rating"].notna(), "rating"].iloc[0]
        raise UserError(f"{where}: expected numbers in column rating, found {found!r}; correct the file")
    label = frame["label"] if "label" in frame else pd.Series(None, frame.index, dtype=object)
    unknown = {v for v in label.dropna().unique() if v not in LABELS and v != -1}
    if unknown:
        raise UserError(
            f"{where}: expected labels 0, 1, neg, pos or none in column label, found {sorted(map(str, unknown))}; "
            "correct the file"
        )
    split = entry.get("split")
    if split is None:
        rng = np.random.default_rng(entry["seed"])
        split = np.where(rng.permutation(len(frame)) < entry["test_share"] * len(frame), "test", "train")
    ids = frame["id"] if "id" in frame else pd.Series(range(len(frame)), frame.index)
    return pd.DataFrame(
        {
            "id": ids.astype(str),
            "text": frame["text"],
            "label": label.map(LABELS.get),
            "rating": rating,
            "domain": entry["domain"],
            "split": split,
        }
    )


def clean(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Drop empty texts and duplicates (a test text leaves train and base); count what was dropped."""
    text = frame["text"].str.strip()
    counts = {"read": len(frame), "empty": int((text == "").sum())}
    frame = frame[text != ""]
    order = frame["split"].map(PRIORITY).sort_values(kind="stable").index
    twice = frame.loc[order].duplicated("text").reindex(frame.index)
    counts |= {"duplicates": int(twice.sum()), "kept": int((~twice).sum())}
    frame = frame[~twice].reset_index(drop=True)
    return frame.astype({"label": "Int64", "rating": "Float64"}), counts


def write(out: Path, raw: pd.DataFrame) -> None:
    """Write the cleaned `reviews.parquet` and `counts.json`: rows read, dropped and kept."""
    frame, counts = clean(raw)
    if frame.empty:
        raise UserError(f"assets.reviews: expected reviews with text, found {counts}; correct assets.reviews")
    sizes = frame.groupby(["domain", "split"]).size()
    counts["rows"] = {f"{domain}/{split}": int(n) for (domain, split), n in sizes.items()}
    frame.to_parquet(out / "reviews.parquet", index=False)
    (out / "counts.json").write_text(json.dumps(counts, indent=2, sort_keys=True))


def reviews(out: Path, spec: dict, *, runtime: Runtime, resume: Path, **files: Path) -> None:
    """Write `reviews.parquet` (columns of `mixdpo.data.reviews.COLUMNS`) and `counts.json`."""
    if spec["source"] == "local":
        frames = [read_file(entry) for entry in spec["files"]]
    else:
        frames = [as_corpus(hub.read_dataset(e), e, e["repository"]) for e in spec["datasets"]]
    if not frames:
        raise UserError("assets.reviews: expected at least one file or dataset, found none; list them in the section")
    for number, frame in enumerate(frames):
        frame["id"] = frame["domain"] + f"-{number}-" + frame["id"]
    write(out, pd.concat(frames, ignore_index=True))
