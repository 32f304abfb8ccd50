"""The one form of a review corpus, whatever its source: a parquet file with a row a review."""

from pathlib import Path

import pandas as pd

from mixdpo.errors import UserError

COLUMNS = ["id", "text", "label", "rating", "domain", "split"]
"""label is 1 positive, 0 negative or missing; rating is 1 to 10 or missing; split is base, train or test."""


def read_reviews(reviews: Path, split: str, domains: list[str]) -> pd.DataFrame:
    """Rows of `reviews/reviews.parquet` of one split and some domains; `UserError` if a domain has none."""
    frame = pd.read_parquet(reviews / "reviews.parquet")
    for domain in domains:
        if not ((frame["domain"] == domain) & (frame["split"] == split)).any():
            have = ", ".join(f"{d}/{s}" for d, s in sorted({*zip(frame["domain"], frame["split"], strict=True)}))
            raise UserError(f"{reviews}: expected {split} reviews of domain {domain}, found only {have}")
    return frame[(frame["split"] == split) & frame["domain"].isin(domains)].reset_index(drop=True)
