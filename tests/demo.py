"""Whether the newest run of each application is as good as docs/results.md says of `make demo`: its last command.

python -m tests.demo [RUNS]
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# application, metric of the test split, docs/results.md up to the number, its scale, how much worse another machine may be
CLAIMS = [
    ("sentiment_classification", "accuracy", r"embedded reviews, test \| GRU, `make demo` \| ", 100, 1.0),
    ("translation", "bleu", r"embedded pairs, test \| `make demo`[^|]*\| ", 1, 1.5),
    ("translation", "exact_match", r"embedded pairs, test \| `make demo`, exact match ", 100, 3.0),
    ("image_captioning", "caption_accuracy", r"embedded scenes, test \| caption accuracy, `make demo` \| ", 100, 10.0),
    ("music_generation", "bits_per_character", r"embedded tunes, test \| [^|]*`make demo` \| ", 1, -0.05),  # less is better
    ("language_model", "perplexity", r"embedded reviews, test \| perplexity[^|]*`make demo` \| ", 1, -0.5),
]


def check(runs: Path) -> bool:
    """Print a line for each number; whether all are as good as docs/results.md says."""
    results, fine = (ROOT / "docs/results.md").read_text(), True
    for application, metric, before, scale, slack in CLAIMS:
        claimed = float(re.search(before + r"([\d.]+)", results)[1])
        run = max((path.parent for path in (runs / application).glob("*/metrics.json")), default=None)
        found = scale * json.loads((run / "metrics.json").read_text())["test"][metric] if run else float("nan")
        good = found > claimed - slack if slack > 0 else found < claimed - slack
        print(f"{application:<26}{metric:<20}{found:8.2f}  documented {claimed:<6}{'' if good else '  worse'}")
        fine = fine and good
    return fine


if __name__ == "__main__":
    if not check(Path(sys.argv[1] if len(sys.argv) > 1 else "runs")):
        sys.exit("error: a model is worse than docs/results.md says of it, or there is none. Mend the model, or the page.")
