"""A training model made ready to run one token at a time, and back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from megatron.core.models.gpt.gpt_model import GPTModel

from gkdplan.runtime.megatron.products import multiply

FLAGS = ("sequence_parallel", "scatter_to_sequence_parallel", "reduce_scatter_embeddings")


@contextmanager
def inference_state(chunks: Sequence[GPTModel]) -> Iterator[None]:
    """Eval mode without sequence parallelism, whose shards one token cannot be cut into; Megatron's
    own linear layers `multiply`, as no gradient will be asked for.

    Megatron's `set_model_to_sequence_parallel` (megatron/core/transformer/utils.py) keeps modules
    by the model's id() for ever and restores every flag to one value: here each owner, module or
    config, gets its own value back, also after an exception.
    """
    modules = [module for chunk in chunks for module in chunk.modules()]
    configs = {id(m.config): m.config for m in modules if hasattr(m, "config")}
    raised = [
        (owner, flag)
        for owner in (*modules, *configs.values())
        for flag in FLAGS
        if getattr(owner, flag, False) is True
    ]
    impls = [(m, m._forward_impl) for m in modules if hasattr(m, "_forward_impl")]
    was_training = [chunk.training for chunk in chunks]
    for chunk in chunks:
        chunk.eval()
    for owner, flag in raised:
        setattr(owner, flag, False)
    for module, _ in impls:
        module._forward_impl = multiply
    try:
        yield
    finally:
        for owner, flag in raised:
            setattr(owner, flag, True)
        for module, impl in impls:
            module._forward_impl = impl
        for chunk, training in zip(chunks, was_training, strict=True):
            chunk.train(training)
