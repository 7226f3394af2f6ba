"""`python -m gkdplan.facts.reference`: the model families as Markdown, with the bundled models."""

from collections.abc import Iterator

from gkdplan.facts.config import read_shape
from gkdplan.facts.known import find_known, known_ids
from gkdplan.families import FAMILIES
from gkdplan.families.seeing import ARCHITECTURES as SEEING
from gkdplan.shape import ModelShape

_OPENING = """\
# The model families

A model is read from its config.json and its safetensors headers; one of another family, or with a
feature that its family's file does not say, is refused by name (GK102, GK105), never taken for a
near relative. No code that comes with a model is run. The models below are bundled as facts, with
the number of parameters that was published, so that a plan can be checked offline. A family is one
file in `gkdplan/families`; CONTRIBUTING.md shows how to add one. This page is written by
`python -m gkdplan.facts.reference`.
"""


def reference() -> str:
    """Every family with its architecture, what is its own, and its bundled models."""
    architectures = {name: family.architecture for name, family in FAMILIES.items()}
    models: dict[str, dict[str, ModelShape]] = {name: {} for name in architectures | SEEING}
    for hub_id in known_ids():
        model_type, shape = _known(hub_id)
        models[model_type][hub_id] = shape
    sections = (
        _section(name, architecture, models[name])
        for name, architecture in (architectures | SEEING).items()
    )
    return "\n".join([_OPENING, *(line for section in sections for line in section)])


def _section(name: str, architecture: str, models: dict[str, ModelShape]) -> Iterator[str]:
    traits = [trait for shape in models.values() for trait in _traits(shape)]
    words = [
        trait if traits.count(trait) == len(models) else f"{trait} (of some)"
        for trait in dict.fromkeys(traits)
    ]
    yield f"## `{name}`\n\n`{architecture}`: {', '.join(words) or 'the plain decoder'}.\n"
    if models:
        yield "| model | parameters |\n|---|---|"
        yield from (f"| {hub_id} | {shape.num_parameters:,} |" for hub_id, shape in models.items())
        yield ""


def _traits(shape: ModelShape) -> Iterator[str]:
    """What differs from a decoder with norms before attention and MLP, SiLU, no bias, whole heads
    rotated, and every position seen."""
    attention = shape.attention
    if shape.qkv_bias:
        yield "a bias on q, k and v"
    if shape.qk_norm:
        yield "q and k normed " + ("over all heads" if shape.qk_norm_of_all_heads else "by head")
    if shape.norms != "pre":
        yield {"post": "norms after attention and MLP", "sandwich": "norms before and after both"}[
            shape.norms
        ]
    if shape.zero_centered_norms:
        yield "norms by 1 + weight"
    if shape.activation != "silu":
        yield "GELU"
    if shape.scaled_embeddings:
        yield "scaled embeddings"
    if attention.window is not None:
        is_all = len(attention.sliding_layers) == shape.num_layers
        yield "a sliding window" + ("" if is_all else " in some layers")
    if attention.softcap is not None:
        yield "bounded scores"
    if shape.logit_softcap is not None:
        yield "bounded logits"
    if attention.unrotated_layers:
        yield "layers without rotary positions"
    if attention.rotary_fraction != 1:
        yield "a part of each head rotated"
    if shape.latent is not None:
        yield "queries, keys and values from latents"
    if shape.moe is not None and shape.moe.routing.num_groups > 1:
        yield "experts chosen in groups"
    if shape.moe is not None:
        shared = " and a shared one" if shape.moe.shared_ffn_hidden_size else ""
        yield f"experts{shared}" + (" in some layers" if shape.num_dense_layers else "")
    if shape.vision is not None:
        yield "images beside text"


def _known(hub_id: str) -> tuple[str, ModelShape]:
    """Its `model_type` and its shape."""
    known = find_known(hub_id)
    assert known is not None
    shape, findings = read_shape(known.config, "bundled facts")
    assert shape is not None, findings
    return str(known.config["model_type"]), shape


if __name__ == "__main__":
    print(reference(), end="")
