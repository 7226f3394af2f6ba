"""How many candidates a second `gkdplan search` goes through, on one core, from a compiled plan.

python benchmarks/search.py [PLAN] [NUM_NODES]
"""

import sys
import time

from gkdplan.cli.compiling import compile_file
from gkdplan.planner.search.searching import search


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else "plans/qwen2.5-7b-to-3b.toml"
    num_nodes = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    compiled = compile_file(path)
    plan, facts = compiled.plan, compiled.facts
    assert plan is not None
    assert facts is not None
    cluster = plan.cluster.model_copy(update={"num_nodes": num_nodes, "devices_per_node": 8})
    batch = plan.batch.model_copy(update={"global_": 256})
    plan = plan.model_copy(update={"cluster": cluster, "batch": batch})
    wall, processor = time.perf_counter(), time.process_time()
    found = search(plan, facts, include_planned=True)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    counts = found.ranking.counts
    print(
        f"{counts.considered:,} candidates on {8 * num_nodes} devices in {wall:.2f} s, "
        f"{processor:.2f} s of processor: {counts.considered / processor:,.0f} a second"
    )
    print(counts)


if __name__ == "__main__":
    main()
