"""Write the results of a benchmark."""

import json
from pathlib import Path
from typing import Any


def save(path: str | None, text: str, found: Any) -> None:
    """Print a report; with a path, write it to `path`.md, and all that was found to `path`.json."""
    print(text)
    if not path:
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".json").write_text(json.dumps(found, indent=1))
    target.with_suffix(".md").write_text(text.rstrip() + "\n")
