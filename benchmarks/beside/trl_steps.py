"""The steps of a workload by one of TRL's trainers.

    cd benchmarks && python -m beside.trl_steps WORKLOAD gkd|distillation

The trainers are TRL's own but for three methods: rows come in their order, a step's tokens are
counted, and where a step learns from the dataset, the distillation trainer, which always samples,
is given the dataset's responses in place of samples.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from beside import workload
from beside.subject import Clock


class InOrder:
    """Rows as they come."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class Gkd(InOrder, GKDTrainer):
    clock: Clock

    def compute_loss(self, model: Any, inputs: dict[str, Any], **options: Any) -> Any:
        self.clock.steps[-1].num_tokens = int(inputs["attention_mask"].sum())
        return super().compute_loss(model, inputs, **options)


class Distillation(InOrder, DistillationTrainer):
    clock: Clock
    responses: dict[tuple[int, ...], list[int]]

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any) -> list[list[int]]:
        if self.clock.steps[-1].source == workload.ON:
            return super()._generate_single_turn(prompt_ids, *rest)
        return [self.responses[tuple(prompt)] for prompt in prompt_ids]

    def compute_loss(self, model: Any, inputs: dict[str, Any], **options: Any) -> Any:
        masks = inputs["prompt_mask"], inputs["completion_mask"]
        self.clock.steps[-1].num_tokens = sum(int(mask.sum()) for mask in masks)
        return super().compute_loss(model, inputs, **options)


class Timed(TrainerCallback):
    """Sets the source of each step and times it."""

    def __init__(self, clock: Clock, sources: list[str], set_source: Any) -> None:
        self.clock, self.sources, self.set_source = clock, sources, set_source

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        source = self.sources[state.global_step]
        self.set_source(source)
        self.clock.start(source)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if "loss" in logs:
            self.clock.steps[-1].loss = float(logs["loss"])


def main() -> None:
    directory, name = Path(sys.argv[1]), sys.argv[2]
    work, clock = workload.read(directory), Clock()
    trainer = {"gkd": gkd_trainer, "distillation": distillation_trainer}[name](work, directory)
    trainer.clock = clock

    def set_source(source: str) -> None:
        trainer.lmbda = float(source == workload.ON)

    trainer.add_callback(Timed(clock, work.sources, set_source))
    trainer.train()
    clock.tell()


def gkd_trainer(work: workload.Workload, directory: Path) -> Gkd:
    tokenizer = AutoTokenizer.from_pretrained(workload.MODEL)
    pairs = zip(work.prompts, work.responses, strict=True)
    rows = [
        {
            "prompt": tokenizer.decode(prompt),
            "input_ids": prompt + response,
            "completion_mask": [0] * len(prompt) + [1] * len(response),
        }
        for prompt, response in pairs
    ]
    return Gkd(
        model=student(),
        teacher_model=teacher(),
        args=GKDConfig(
            max_new_tokens=workload.NEW_TOKENS, max_length=1024, **_common(work, directory)
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def distillation_trainer(work: workload.Workload, directory: Path) -> Distillation:
    tokenizer = AutoTokenizer.from_pretrained(workload.MODEL, padding_side="left")
    trainer = Distillation(
        model=student(),
        teacher_model=teacher(),
        args=DistillationConfig(
            max_completion_length=workload.NEW_TOKENS,
            shuffle_dataset=False,
            **_common(work, directory),
        ),
        train_dataset=Dataset.from_list([{"prompt": tokenizer.decode(p)} for p in work.prompts]),
        processing_class=tokenizer,
    )
    prompts = [tuple(prompt) for prompt in work.prompts]
    trainer.responses = dict(zip(prompts, work.responses, strict=True))
    return trainer


def teacher() -> Any:
    return AutoModelForCausalLM.from_pretrained(workload.MODEL, dtype=torch.float32)


def student() -> Any:
    """The teacher's kept layers, numbered anew.

    transformers drops what the embedding of the pad token learns as an input. SmolLM2 pads with its
    end of turn, which every prompt holds, so here it learns like any other token.
    """
    model = teacher()
    model.model.embed_tokens.padding_idx = None
    layers = [model.model.layers[index] for index in workload.KEPT_LAYERS]
    for place, layer in enumerate(layers):
        layer.self_attn.layer_idx = place
    model.model.layers = torch.nn.ModuleList(layers)
    model.config.num_hidden_layers = len(layers)
    return model


def _common(work: workload.Workload, directory: Path) -> dict[str, Any]:
    """What the plan says, in TRL's words; activations are kept, as the plan recomputes none."""
    return {
        "output_dir": str(directory / "trl"),
        "per_device_train_batch_size": workload.BATCH,
        "max_steps": len(work.sources),
        "beta": workload.BETA,
        "temperature": 1.0,
        "learning_rate": workload.LR,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "adam_beta1": workload.BETAS[0],
        "adam_beta2": workload.BETAS[1],
        "adam_epsilon": workload.EPS,
        "max_grad_norm": workload.CLIP_GRAD,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    main()
