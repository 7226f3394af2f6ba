"""Rows that cannot be used: the first one ends a run, unless the plan lets some be left out."""

from dataclasses import dataclass, field, replace

from gkdplan.diagnostics import Diagnostic, UserError

FAULTS_OF_A_ROW = frozenset({"GK472", "GK473", "GK474", "GK475", "GK477"})


@dataclass(slots=True)
class BadRows:
    """Those of one file that are left out, at most `limit` of them."""

    limit: int
    refusals: list[Diagnostic] = field(default_factory=list)

    def leave_out(self, refusal: UserError) -> None:
        """Raises the refusal where it is of more than a row, or of one row too many."""
        (reason,) = refusal.diagnostics
        if reason.code not in FAULTS_OF_A_ROW or len(self.refusals) == self.limit:
            raise UserError(replace(reason, notes=(*reason.notes, *self._allowed())))
        self.refusals.append(reason)

    def _allowed(self) -> tuple[str, ...]:
        if not self.refusals:
            return ()
        count = f"{len(self.refusals):,} rows of the file before it are such"
        return (f"{count}, and `data.max_bad_rows` is {self.limit:,}",)
