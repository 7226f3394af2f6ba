"""Answers of a teacher's servers by their sizes alone."""

from collections.abc import Sequence

import torch

from gkdplan.runtime.teacher.scores import Question
from gkdplan.runtime.teacher.server import ServedTeacher


class BlankTeacher(ServedTeacher):
    """Asks nobody: each response token has as many ids as the plan asks for."""

    def answers(self, questions: Sequence[Question]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and log-probabilities of all response tokens, [T, K], without values."""
        size = sum(len(question.response) for question in questions), self.plan.objective.top_k
        return torch.empty(size, dtype=torch.int32), torch.empty(size)
