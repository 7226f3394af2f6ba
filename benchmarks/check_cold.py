"""How long `gkdplan check` takes from a cold start: the median of ten processes, which find the
bytecode that an installation compiles.

Also of a plan for 16,384 ranks, whose classes of identical ranks are few.

python benchmarks/check_cold.py [PLAN]
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from tempfile import NamedTemporaryFile

NUM_RUNS = 10
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
MANY_RANKS = """
name = "many-ranks"
cluster = {device = "h100-80gb", num_nodes = 2048, devices_per_node = 8}
student = {model = "Qwen/Qwen2.5-7B-Instruct", parallel = {tensor = 4, pipeline = 4}}
teacher = {model = "Qwen/Qwen2.5-7B-Instruct"}
data = {train = ["plans/data/quickstart.jsonl"]}
batch = {micro = 1, global = 4096}
"""


def measure(command: list[str]) -> tuple[float, float]:
    """Median wall and processor seconds of a command."""
    wall, processor = [], []
    subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=False)
    for _ in range(NUM_RUNS):
        before, start = _processor_s(), time.perf_counter()
        subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=False)
        wall.append(time.perf_counter() - start)
        processor.append(_processor_s() - before)
    return statistics.median(wall), statistics.median(processor)


def _processor_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    plan = sys.argv[1] if len(sys.argv) > 1 else "plans/quickstart.toml"
    check = "import sys; from gkdplan.cli.main import main; sys.argv[1:] = ['check', {!r}]; main()"
    programs = {
        "python alone": "pass",
        "the command line": "import gkdplan.cli.main",
        "and a plan loaded": f"import gkdplan.cli.main; from gkdplan.spec.load import load_plan; "
        f"load_plan({plan!r}, open({plan!r}).read())",
        f"gkdplan check {plan}": check.format(plan),
    }
    with NamedTemporaryFile("w", suffix=".toml") as many:
        many.write(MANY_RANKS)
        many.flush()
        programs["gkdplan check, 16,384 ranks"] = check.format(many.name)
        for name, program in programs.items():
            wall, processor = measure([sys.executable, "-c", program])
            print(f"{wall:.3f} s, of which {processor:.3f} s of processor  {name}")


if __name__ == "__main__":
    main()
