"""The one form of a review corpus, whatever its source: a parquet file with one row for each review."""

from pathlib import Path

import pandas as pd

from mixdpo.errors import UserError

COLUMNS = ["id", "text", "label", "rating", "domain", "split"]
"""label is 1 positive, 0 negative or missing; rating is on the scale of its source or missing; split is base, train
or test."""


def read_reviews(reviews: Path, split: str, domains: list[str]) -> pd.DataFrame:
    """Rows of `reviews/reviews.parquet` of one split and some domains; `UserError` if a domain has none."""
    frame = pd.read_parquet(reviews / "reviews.parquet")
    for domain in domains:
        if not ((frame["domain"] == domain) & (frame["split"] == split)).any():
            have = ", ".join(f"{d}/{s}" for d, s in sorted({*zip(frame["domain"], frame["split"], strict=True)}))
            raise UserError(
                f"{reviews}: expected {split} reviews of domain {domain}, found only {have}; "
                "correct assets.reviews or experiments"
            )
    return frame[(frame["split"] == split) & frame["domain"].isin(domains)].reset_index(drop=True)


def draw_texts(reviews: Path, split: str, domains: list[str], n: int, seed: int) -> list[str]:
    """At most `n` texts of one split, drawn by `seed`, an equal share from every domain."""
    frames = [read_reviews(reviews, split, [domain]).sample(frac=1, random_state=seed) for domain in domains]
    return [text for frame in frames for text in frame["text"][: n // len(domains)]]
