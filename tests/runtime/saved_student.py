"""What a saved student writes, by transformers alone."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.result import RunResult


def greedy_completion(plan: RunPlan, result: RunResult) -> str:
    """Of the prompt of the run's own last sample; ids that pad the vocabulary are left out."""
    model = AutoModelForCausalLM.from_pretrained(result.student_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(result.student_dir)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": result.summary["samples"]["student"]["prompt"]}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    tokens = model.generate(
        **inputs,
        max_new_tokens=plan.sampling.max_completion_length,
        do_sample=False,
        pad_token_id=0,
        suppress_tokens=list(range(plan.models.vocab_size, model.config.vocab_size)),
    )
    completion = tokens[0, inputs["input_ids"].size(1) :]
    return tokenizer.decode(completion, skip_special_tokens=True)
