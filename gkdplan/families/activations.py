"""Activations of gated MLPs, by the names of ModelShape and of transformers."""

ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}
