"""A user's files, as `gepa-loop init` meets them: tickets as those of `router` in a CSV of a spreadsheet program, and a prompt for their codes alone.

python -m benchmarks.tickets FOLDER
cd FOLDER && gepa-loop init --data tickets.csv --prompt prompt.txt --model MODEL && gepa-loop distill --prompt prompt.txt
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from random import Random

from gepa_loop.task.examples import router

COUNT, CUSTOMERS, SEED = 900, 300, 11
PROMPT = Path(__file__).parents[1] / "prompts" / "router" / "good.txt"


def write(folder: Path) -> None:
    """Write tickets.csv, with a byte-order mark and semicolons, and prompt.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    random, seen = Random(SEED), set[str]()
    with (folder / "tickets.csv").open("w", newline="", encoding="utf-8-sig") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["Ticket", "Text", "Customer", "Queue"])
        for row in router.rows(random):
            question = str(row["question"])
            if question in seen:
                continue
            seen.add(question)
            desk = json.loads(str(row["answer"]))["desk"]
            rows.writerow([f"T-{1000 + len(seen)}", question, f"C{random.randrange(CUSTOMERS)}", desk])
            if len(seen) == COUNT:
                break
    text = PROMPT.read_text("utf-8").replace(
        "Reply with the topic and its desk as JSON, and nothing else.",
        "Reply with the code of its desk, and nothing else.",
    )
    codes = re.sub(r'Reply: \{"topic": "[a-z]+", "desk": "([A-Z0-9-]+)"\}', r"Reply: \1", text)
    (folder / "prompt.txt").write_text(codes, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
