"""Gathers and scatters over the data axis."""

from gkdplan.planner.timing.stage import Stage


def data_s(stage: Stage, width: int) -> float:
    """One gather or scatter of what a stage trains, experts over their own data axis."""
    degrees, machine = stage.degrees, stage.machine
    ranks_of_a_stage = degrees.tensor * degrees.context * degrees.data
    dense = machine.collective_s(
        width * stage.trained_elements, degrees.data * degrees.context, ranks_of_a_stage
    )
    expert = machine.collective_s(
        width * stage.trained_expert_elements, degrees.expert_data, ranks_of_a_stage
    )
    return dense + (expert if stage.trained_expert_elements else 0.0)
