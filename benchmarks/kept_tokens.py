"""What a run's start takes where the tokens of its rows are kept, beside one that makes them.

    python benchmarks/kept_tokens.py [--rows 40000]

Each way is a process of its own, which takes every row once, as an epoch does. SmolLM2's tokenizer
and chat template, conversations of the quickstart's rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path

from beside.record import Measured, ratio_at_most, record

ROOT = Path(__file__).parents[1]
STUDENT = ROOT / ".cache" / "SmolLM2-135M-Instruct"
START = """
import sys, time
from pathlib import Path
import torch.distributed as dist
from gkdplan.rowfiles import open_rows
from gkdplan.runplan.model import DataPlan, DataSource
from gkdplan.runtime.data.cache.shelf import Shelf
from gkdplan.runtime.data.chat import load_chat
from gkdplan.runtime.data.examples import Split, load_examples

way, rows, student, directory = sys.argv[1:]
dist.init_process_group('gloo', init_method='tcp://127.0.0.1:0', rank=0, world_size=1)

def private_kib(name):
    status = open('/proc/self/status')
    return int(next(line for line in status if line.startswith(name)).split()[1])

identity = open_rows(rows).identity()
source = DataSource(rows, None, identity.num_rows, identity.fingerprint)
split = Split((source,), DataPlan((source,), (), 2048, 'delete', True), 512)
chat = load_chat(Path(student))
before, begin = private_kib('RssAnon'), time.monotonic()
if way == 'made':
    taken = load_examples(split, chat)
else:
    taken = Shelf(Path(directory), 'data.cache', chat, Path(student), print).examples(split)
seconds = time.monotonic() - begin
num_tokens = sum(len(e.prompt) + len(e.response) for e in taken.examples)
print(seconds, private_kib('RssAnon') - before, num_tokens)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as directory:
        rows = Path(directory, "rows.jsonl")
        write(rows, arguments.rows)
        made = start("made", rows, directory)
        first = start("kept", rows, directory)
        again = start("kept", rows, directory)
    assert made[2] == first[2] == again[2]
    setting = f"{arguments.rows:,} conversations of {made[2]:,.0f} tokens, one process"
    measured = [
        compared("a start that keeps them", "s", first[0], made[0], 1.5),
        compared("a start that finds them", "s", again[0], made[0], 0.1),
        compared(
            "private memory of a rank, every row taken", "MiB", again[1] / 1024, made[1] / 1024, 0.5
        ),
    ]
    record("kept_tokens", setting, measured, is_whole=arguments == parser.parse_args([]))


def write(path: Path, num_rows: int) -> None:
    text = (ROOT / "plans" / "data" / "quickstart.jsonl").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "messages" in json.loads(line)]
    with path.open("w", encoding="utf-8") as file:
        for number, line in enumerate(islice(cycle(lines), num_rows)):
            row = json.loads(line)
            row["messages"][0]["content"] += f" ({number})"
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def start(way: str, rows: Path, directory: str) -> tuple[float, float, float]:
    """Seconds, KiB that the process grew by, and tokens."""
    command = [sys.executable, "-c", START, way, str(rows), str(STUDENT), f"{directory}/kept"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=1000, text=True)
    seconds, grown_kib, num_tokens = map(float, done.stdout.split("\n")[-2].split())
    return seconds, grown_kib, num_tokens


def compared(what: str, unit: str, ours: float, theirs: float, limit: float) -> Measured:
    beside = "tokens made and held in memory"
    return Measured(what, unit, ours, beside, theirs, ours / theirs, ratio_at_most(limit))


if __name__ == "__main__":
    main()
