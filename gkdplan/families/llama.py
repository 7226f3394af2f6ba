"""Llama 2 and 3, and what has their shape: SmolLM2, TinyLlama, the distilled Llamas."""

from gkdplan.families.family import Family

LLAMA = Family("llama", "LlamaForCausalLM", required=())
