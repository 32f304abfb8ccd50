"""Models that are not trained here: linked from a local folder or fetched from the hub."""

from pathlib import Path

from mixdpo.errors import UserError
from mixdpo.stages.assets import hub


def obtain(asset: str, out: Path, spec: dict) -> None:
    """Make `out/model`, a link to `spec["path"]` (local) or to a pinned revision in the hub's cache.

    The link avoids a copy of large models; the manifest holds the SHA-256 of the files behind it.
    """
    if spec["source"] == "local":
        path = Path(spec["path"])
        if not path.is_dir():
            raise UserError(f"assets.{asset}.local.path: expected a folder, found no {path}")
    else:
        path = hub.fetch_model(asset, spec["repository"], spec["revision"])
    (out / "model").symlink_to(path.resolve(), target_is_directory=True)


def check(asset: str, out: Path, load) -> None:
    """Load `out/model` once, so that a broken model stops here with its name and not in a later stage."""
    try:
        load(out / "model")
    except Exception as error:  # each library has its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"assets.{asset}: expected a model that loads from {out / 'model'}, found: {reason}") from error
