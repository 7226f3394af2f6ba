"""A newcomer's path from an empty directory: the base package without torch, `init`, `check` and
`memory --html`, each timed; ends with 1 where the whole takes more than a minute, or torch came
along.

python benchmarks/newcomer.py
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
LIMIT_S = 60
INIT = (
    "init --student Qwen/Qwen2.5-1.5B-Instruct --teacher Qwen/Qwen2.5-7B-Instruct "
    "--data rows.jsonl --device h100-80gb --devices 2"
)


def main() -> int:
    with TemporaryDirectory() as place:
        row = json.dumps({"prompt": "name a colour", "completion": "blue"})
        Path(place, "rows.jsonl").write_text(f"{row}\n" * 64, encoding="utf-8")
        steps = {
            "python -m venv .venv": [sys.executable, "-m", "venv", ".venv"],
            "pip install gkdplan": [
                ".venv/bin/pip", "install", "-q", "--constraint", ROOT / "constraints.txt", ROOT,
            ],
            **{
                f"gkdplan {line.split()[0]}": [".venv/bin/gkdplan", *line.split()]
                for line in (INIT, "check plan.toml", "memory plan.toml --html memory.html")
            },
        }  # fmt: skip
        seconds = {name: _timed(command, place) for name, command in steps.items()}
        installed = os.listdir(next(Path(place).glob(".venv/lib/*/site-packages")))
    for name, took_s in (*seconds.items(), ("all of it", sum(seconds.values()))):
        print(f"{took_s:6.1f} s  {name}")
    ratio = sum(seconds.values()) / LIMIT_S
    print(f"{ratio:6.2f}    of the {LIMIT_S} s that it may take")
    return int(ratio > 1 or "torch" in installed)


def _timed(command: list[str | Path], place: str) -> float:
    """Without what this process's own environment would lend."""
    lent = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in lent}
    began_s = time.perf_counter()
    subprocess.run(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began_s


if __name__ == "__main__":
    sys.exit(main())
