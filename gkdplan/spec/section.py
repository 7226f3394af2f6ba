"""A table of a plan."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the plan: unknown keys are errors, types are not coerced, values do not change."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        populate_by_name=True,
        defer_build=True,
    )
