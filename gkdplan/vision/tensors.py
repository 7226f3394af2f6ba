"""Names and shapes of the tensors of a module."""

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    """A linear map with a bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, size: int) -> Shapes:
    """A layer norm."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}
