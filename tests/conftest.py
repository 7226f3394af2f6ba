"""A run plan built by hand, for the rooms that read one without compiling it."""

import os

import pytest
from hypothesis import settings

from gkdplan.runplan import codec, model, models, steps, timing
from gkdplan.runplan.layout import AxisDegrees, Layout, RankClass
from gkdplan.runplan.ledger import ClassMemory, Ledger, PhaseMemory
from gkdplan.runplan.sampling import Sampling
from gkdplan.runplan.schedule import Schedule
from gkdplan.shape import ModelShape
from gkdplan.vocab import Dtype, Engine, Kernels, Payload, Phase, Role, Source, Tier, Verdict

os.environ.setdefault("TRITON_INTERPRET", "1")
"""Read where Triton is imported first, by whichever test; ranks inherit it."""

os.environ["VLLM_API_KEY"] = "the key of the tests"
"""Of every server that a test starts; ranks that are forked early inherit it too."""

settings.register_profile("loaded machine", deadline=None)
settings.load_profile("loaded machine")

MiB = 2**20

TEACHER_SHAPE = ModelShape(
    family="llama",
    hidden_size=512,
    num_layers=30,
    num_attention_heads=8,
    num_kv_heads=4,
    head_dim=64,
    ffn_hidden_size=1536,
    vocab_size=49152,
    max_position_embeddings=8192,
    norm_eps=1e-5,
    rope_theta=100000.0,
    tied_embeddings=True,
    qkv_bias=False,
    qk_norm=False,
)
STUDENT_SHAPE = TEACHER_SHAPE.with_layers(12)

ROWS = {
    "student params": dict.fromkeys(Phase, 280 * MiB),
    "student grads": dict.fromkeys(Phase, 280 * MiB),
    "student main + Adam": dict.fromkeys(Phase, 560 * MiB),
    "teacher head": dict.fromkeys(Phase, 108 * MiB),
    "teacher body": {Phase.TEACHER: 405 * MiB, Phase.GENERATE: 405 * MiB},
    "kv cache": {Phase.GENERATE: 12 * MiB},
    "activations": {Phase.TEACHER: 21 * MiB, Phase.STUDENT: 333 * MiB + 512 * 2**10},
    "payload (hidden)": {Phase.TEACHER: 2 * MiB, Phase.STUDENT: 2 * MiB},
    "loss tiles": {Phase.STUDENT: 450 * MiB},
}
PHASES = (Phase.GENERATE, Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER, Phase.CHECKPOINT)


def model_plan(name: str, shape: ModelShape, offload: Tier) -> models.ModelPlan:
    return models.ModelPlan(
        model=name,
        revision=None,
        family=shape.family,
        num_parameters=shape.num_parameters,
        shape=shape,
        dtype=Dtype.FP32,
        padded_vocab_size=49152,
        init="layers" if shape is STUDENT_SHAPE else "pretrained",
        keep_layers=(0, 2, 5, 7, 10, 13, 16, 19, 22, 25, 27, 29)
        if shape is STUDENT_SHAPE
        else None,
        offload=offload,
        stage_layers=((shape.num_layers,),),
    )


def ledger() -> Ledger:
    phases = {}
    for phase in PHASES:
        rows = {name: by_phase[phase] for name, by_phase in ROWS.items() if phase in by_phase}
        phases[phase] = PhaseMemory(rows, peak_bytes=sum(rows.values()))
    peak = phases[Phase.STUDENT].peak_bytes
    ranks = ((0, 2),)
    return Ledger(
        budget_bytes=4096 * MiB,
        peak_bytes=peak,
        peak_phase=Phase.STUDENT,
        verdict=Verdict.FITS,
        host_bytes_per_node=810 * MiB,
        host_budget_bytes_per_node=16384 * MiB,
        classes=(ClassMemory(ranks, 0, 0, phases),),
    )


def moves() -> tuple[steps.Move, steps.Move]:
    body = 405 * MiB
    return (
        steps.Move(Phase.GENERATE, "teacher body", Tier.HOST, Tier.DEVICE, body, 0.042),
        steps.Move(Phase.STUDENT, "teacher body", Tier.DEVICE, Tier.HOST, body, 0.0),
    )


def prediction() -> timing.Timing:
    return timing.Timing(
        phases={
            Phase.GENERATE: timing.Seconds(4.0, 8.0, 16.0),
            Phase.TEACHER: timing.Seconds(2.0, 4.0, 8.0),
            Phase.STUDENT: timing.Seconds(5.0, 7.0, 14.0),
            Phase.OPTIMIZER: timing.Seconds(0.25, 0.5, 1.0),
        },
        step=timing.Seconds(10.0, 17.1, 34.0),
        sampled_share=0.7,
        tokens_per_s=67.4,
        terms=(
            timing.Term(Phase.GENERATE, "student: prompts", 1.0),
            timing.Term(Phase.GENERATE, "student: tokens one by one", 7.0),
            timing.Term(Phase.TEACHER, "compute", 3.96),
            timing.Term(Phase.TEACHER, "offload transfers", 0.039),
            timing.Term(Phase.STUDENT, "compute", 5.0),
            timing.Term(Phase.STUDENT, "loss", 2.0),
            timing.Term(Phase.OPTIMIZER, "update", 0.5),
        ),
        assumptions=(
            timing.Assumption("flop_share", 0.8, 0.5, 0.25),
            timing.Assumption("layer_launch_s", 2e-4, 5e-4, 1e-3),
        ),
    )


@pytest.fixture
def run_plan() -> model.RunPlan:
    """A small model into 12 of its layers on two CPU processes, tensor 2, all three sources."""
    fetch, give_back = moves()
    source = model.DataSource("plans/data/train.jsonl", None, 192, "5f" * 32)
    held_out = model.DataSource("plans/data/train.jsonl", 16, 16, "5f" * 32)
    looked_up = model.ModelInput("Little-Instruct/config.json", "ab" * 32)
    return codec.seal(
        model.RunPlan(
            schema_version=model.SCHEMA_VERSION,
            tool="gkdplan 0.1.0",
            fingerprint="",
            checksum="",
            name="quickstart",
            inputs=model.Inputs(student=looked_up, teacher=looked_up),
            models=models.Models(
                student=model_plan("models/Little-Instruct", STUDENT_SHAPE, Tier.DEVICE),
                teacher=model_plan("models/Little-Instruct", TEACHER_SHAPE, Tier.HOST),
                vocab_size=49152,
            ),
            layout=Layout(
                device="cpu",
                backend="gloo",
                kernels=Kernels.TORCH,
                num_nodes=1,
                devices_per_node=2,
                world_size=2,
                student=AxisDegrees(tensor=2, sequence=True, data=1),
                teacher=AxisDegrees(tensor=2, sequence=True, data=1),
                classes=(RankClass(((0, 2),), 0),),
            ),
            objective=model.Objective(0.5, 0.4, 0.5, 1.0, Payload.HIDDEN, 256),
            sampling=Sampling(Engine.MEGATRON, 1.0, 1.0, None, 48),
            data=model.DataPlan((source,), (held_out,), 96, "delete", True),
            batch=model.BatchPlan(micro_rows=4, global_rows=8, num_micro_batches=2),
            optimizer=model.OptimizerPlan(
                "adamw", 3e-4, 3e-5, "cosine", 2, 0.1, (0.9, 0.95), 1e-8, 1.0, True
            ),
            training=model.Training("runs/quickstart", 24, None, 2, 0, 42, ("tensorboard",)),
            ledger=ledger(),
            timing=prediction(),
            schedule=Schedule((fetch, give_back)),
            steps=(
                steps.Draw(42, 0.4, 0.5),
                fetch,
                steps.Generate(Source.STUDENT, Role.STUDENT, Engine.MEGATRON, 8, 48),
                steps.Generate(Source.TEACHER, Role.TEACHER, Engine.MEGATRON, 8, 48),
                steps.TeacherForward(2, Payload.HIDDEN, 384, 512),
                give_back,
                steps.StudentStep(2),
                steps.OptimizerStep("adamw", "cosine", 1.0),
                steps.Evaluate(0, 16),
                steps.Checkpoint(None, 2, 46_346_240, 1),
            ),
        )
    )
