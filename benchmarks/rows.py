"""How much memory reading a large file of rows takes, beside the file's own size.

    python benchmarks/rows.py [--mib 256]

Each format is read in a process of its own, which finds out the file's fingerprint and number of
rows and then takes every row, as a run does before it makes tokens of them.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet
from beside.record import Measured, ratio_at_most, record

ROW_BYTES = 2000
READER = """
import sys
from gkdplan.rowfiles import open_rows
if sys.argv[1].endswith('parquet'):
    import pyarrow.parquet
def peak():
    return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])
before = peak()
file = open_rows(sys.argv[1])
assert file.identity().num_rows == sum(1 for _ in file.rows())
print(peak() - before)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    arguments = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory(prefix="gkdplan-") as directory:
        for extension in ("jsonl", "json", "csv", "parquet"):
            path = Path(directory, f"rows.{extension}")
            write(path, arguments.mib * 2**20 // ROW_BYTES)
            measured.append(measure(path))
            path.unlink()
    setting = f"{arguments.mib} MiB of rows of {ROW_BYTES:,} bytes, Parquet in one row group"
    record("rows", setting, measured, is_whole=arguments == parser.parse_args([]))


def write(path: Path, num_rows: int) -> None:
    rows = made_up(num_rows)
    with path.open("w", newline="") as file:
        match path.suffix:
            case ".jsonl":
                file.writelines(json.dumps(row) + "\n" for row in rows)
            case ".json":
                file.write("[" + json.dumps(next(rows)))
                file.writelines(",\n" + json.dumps(row) for row in rows)
                file.write("]")
            case ".csv":
                writer = csv.DictWriter(file, ["prompt", "completion"])
                writer.writeheader()
                writer.writerows(rows)
            case ".parquet":
                arrow.parquet.write_table(arrow.Table.from_pylist([*rows]), path)


def made_up(num_rows: int) -> Iterator[dict[str, str]]:
    letters = random.Random(0)
    for _ in range(num_rows):
        text = letters.randbytes(ROW_BYTES // 2).hex()
        yield {"prompt": text[: ROW_BYTES // 2], "completion": text[ROW_BYTES // 2 :]}


def measure(path: Path) -> Measured:
    command = [sys.executable, "-c", READER, str(path)]
    grown_kib = int(subprocess.run(command, capture_output=True, check=True, timeout=500).stdout)
    size_mib, grown_mib = path.stat().st_size / 2**20, grown_kib / 2**10
    return Measured(
        f"{path.suffix}: memory that reading every row takes",
        "MiB",
        grown_mib,
        "the file's size",
        size_mib,
        grown_mib / size_mib,
        ratio_at_most(0.25),
    )


if __name__ == "__main__":
    main()
