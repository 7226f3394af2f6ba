"""The models of a plan, fetched before a command runs them."""

from collections.abc import Callable

from gkdplan.cli.compiling import Compiled
from gkdplan.cli.runtime import runtime
from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.model import RunPlan
from gkdplan.vocab import Role


def with_models_at_hand(compiled: Compiled, again: Callable[[], Compiled]) -> Compiled:
    """Compiled `again` once the hub's models are here, so that a run has compared their tokens.

    Raises UserError where a tokenizer is still not there to be compared.
    """
    run_plan = compiled.require()
    if not _roles_without_tokenizer(run_plan):
        return compiled
    runtime("machine.lacking").check_machine(run_plan)
    for role in _roles_without_tokenizer(run_plan):
        model = getattr(run_plan.models, role)
        runtime("model_files").model_directory(
            role, model.model, model.revision, needs_weights=model.server is None
        )
    compiled = again()
    unseen = _roles_without_tokenizer(compiled.require())
    if unseen:
        raise UserError(
            *(
                error(
                    "GK519",
                    f"the {role}'s tokenizer was not seen, so its tokens cannot be compared",
                    f"{role}.model",
                    help=("put tokenizer.json beside the model's config.json",),
                )
                for role in unseen
            )
        )
    return compiled


def _roles_without_tokenizer(run_plan: RunPlan) -> list[Role]:
    return [role for role in Role if getattr(run_plan.inputs, role).tokenizer is None]
