"""The matrix products of the off-policy steps and nothing else: the floor of its time.

    cd benchmarks && python -m beside.products_steps WORKLOAD

Of the teacher's layers the forward, of the student's the forward and both backward products, on all
tokens of a step; of the output heads the teacher's forward and the student's three, on the
response tokens. Attention, norms, the loss itself and the optimizer are left out.
"""

import json
import sys
from pathlib import Path

import torch

from beside import workload
from beside.subject import Clock

CHUNK_TOKENS = 256


def main() -> None:
    work, clock = workload.read(Path(sys.argv[1])), Clock()
    for number, source in enumerate(work.sources):
        if source != workload.OFF:
            continue
        rows = slice(number * workload.BATCH, (number + 1) * workload.BATCH)
        responses = [len(response) for response in work.responses[rows]]
        num_tokens = sum(len(prompt) for prompt in work.prompts[rows]) + sum(responses)
        with clock.step(source) as step, torch.no_grad():
            multiply(num_tokens, sum(responses))
        step.num_tokens = num_tokens
    clock.tell()


def multiply(num_tokens: int, num_response_tokens: int) -> None:
    config = json.loads((workload.MODEL / "config.json").read_text(encoding="utf-8"))
    hidden, ffn, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    kv = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    sizes = [(hidden + 2 * kv, hidden), (hidden, hidden), (2 * ffn, hidden), (hidden, ffn)]
    weights = [torch.randn(size) for size in sizes]
    for _ in range(config["num_hidden_layers"]):
        for weight in weights:
            torch.randn(num_tokens, weight.shape[1]) @ weight.t()
    for _ in workload.KEPT_LAYERS:
        for weight in weights:
            inputs, outputs = (torch.randn(num_tokens, size) for size in reversed(weight.shape))
            torch.mm(inputs, weight.t(), out=outputs)
            outputs @ weight
            outputs.t() @ inputs
    head = torch.randn(vocab, hidden)
    gradient = torch.zeros_like(head)
    for states in torch.randn(num_response_tokens, hidden).split(CHUNK_TOKENS):
        logits = states @ head.t()
        torch.mm(states, head.t(), out=logits)
        logits @ head
        gradient.addmm_(logits.t(), states)


if __name__ == "__main__":
    main()
