"""Names in the model of what a rank holds, also as Transformer Engine's modules call it."""

from types import SimpleNamespace

from tiny_models import plan_of

from gkdplan.runtime.megatron.parameters import base_parameters

CHUNKS = (
    ("embedding.word_embeddings.weight", "decoder.layers.0.self_attention.linear_qkv.weight"),
    (
        "decoder.layers.0.mlp.experts.linear_fc1.weight1",
        "decoder.layers.0.mlp.experts.local_experts.0.linear_fc2.weight",
        "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight",
        "decoder.layers.0.self_attention.linear_qkv.lora.a",
        "output_layer.weight",
    ),
)


def test_layers_and_experts_are_numbered_as_in_the_model() -> None:
    # 4 layers in 2 stages of 2 chunks: stage 1 holds layers 1 and 3. Of 4 experts on 2 ranks the
    # second holds 2 and 3.
    plan = plan_of("mixtral", 1, stage_layers=((1, 1), (1, 1)))
    second_of_two = SimpleNamespace(rank=lambda: 1, size=lambda: 2)
    mesh = SimpleNamespace(pipeline_rank=1, groups=SimpleNamespace(ep=second_of_two))
    chunks = [
        SimpleNamespace(named_parameters=lambda names=names: ((name, None) for name in names))
        for names in CHUNKS
    ]
    assert [name for name, _ in base_parameters(chunks, plan, mesh)] == [
        "embedding.word_embeddings.weight",
        "decoder.layers.1.self_attention.linear_qkv.weight",
        "decoder.layers.3.mlp.experts.3.linear_fc1.weight",
        "decoder.layers.3.mlp.experts.2.linear_fc2.weight",
        "decoder.layers.3.self_attention.linear_qkv.layer_norm_weight",
        "output_layer.weight",
    ]
