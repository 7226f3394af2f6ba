"""Ranks of several hosts: how they meet, and who of them is lost."""

from gkdplan.codes.code import Code

CODES: dict[str, Code] = {
    "GK537": Code(
        "a rank that does not answer",
        "The others need its part of what they do together, and would wait for it for ever.",
        "Look at its process, host and network; or raise `cluster.collective_timeout_s`.",
    ),
    "GK580": Code(
        "a world of another size than the plan's",
        "The layout says what each rank holds; with more or fewer of them there is no such rank.",
        "Start the ranks as `gkdplan launch torchrun|slurm|k8s PLAN` prints it.",
    ),
    "GK581": Code(
        "an environment that lacks what ranks need to meet",
        "Ranks of several hosts are started by torchrun or Slurm, which tell each its number.",
        "Start the ranks as `gkdplan launch torchrun|slurm|k8s PLAN` prints it.",
    ),
    "GK582": Code(
        "ranks that did not meet",
        "A rank did not start, or a network does not let it through to rank 0.",
        "Look at the hosts named; raise `cluster.join_timeout_s` if they start at different times.",
    ),
    "GK583": Code(
        "hosts that would not run the same",
        "Ranks with other plans or versions would wait for each other, or learn something else.",
        "Give every host the same plan, models, data and packages.",
    ),
    "GK584": Code(
        "a run directory that not every host sees",
        "Every rank writes its part of a checkpoint there, and resumes from it.",
        "Set `run.output` to a path on a file system that all hosts share.",
    ),
}
