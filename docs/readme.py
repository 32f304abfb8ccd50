"""Put the committed tables between the marks `<!-- RUN TABLE -->` and `<!-- end -->` of README.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def filled(text: str) -> str:
    """`text` with every marked block replaced by its table of `paper_tables/`."""

    def block(mark: re.Match) -> str:
        run, table = mark["run"], mark["table"]
        return f"<!-- {run} {table} -->\n{(ROOT / f'paper_tables/{run}/{table}.md').read_text()}<!-- end -->"

    return re.sub(r"<!-- (?P<run>\w+) (?P<table>\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))
