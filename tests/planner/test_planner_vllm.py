"""vllm beside the training: its share of memory, its sleep, the way of new weights, its rules."""

import re
from dataclasses import replace

import pytest
from planner_facts import QWEN_3B, QWEN_7B, SMOLLM2, TINY, facts, plan

from gkdplan.experts import MoeShape
from gkdplan.facts.config import read_shape
from gkdplan.facts.known import find_known
from gkdplan.planner.checks.declaration import check_declaration
from gkdplan.planner.checks.edits import edits_that_fit
from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.draft import draft_of
from gkdplan.planner.engine import server_limits
from gkdplan.planner.memory.engine import (
    EngineModel,
    forward_bytes,
    kv_token_bytes,
    reload_bytes,
    weight_bytes,
)
from gkdplan.planner.memory.explain import explain
from gkdplan.planner.pricing import price
from gkdplan.planner.search.searching import search
from gkdplan.planner.timing.prediction import predict
from gkdplan.report.objective import card_rows
from gkdplan.report.outline import outline
from gkdplan.runplan.sampling import VllmPlan
from gkdplan.runplan.steps import Generate, Move, Refit
from gkdplan.vocab import Dtype, Phase, Role, Tier

H100 = facts(QWEN_3B, QWEN_7B, "h100-80gb")
WEIGHTS, CACHE = "vllm weights", "kv cache"


def h100(**tables):
    base = {
        "cluster": {"device": "h100-80gb", "devices_per_node": 4},
        "student": {"dtype": "bf16", "parallel": {"tensor": 2}},
        "data": {"max_length": 1536},
        "generation": {
            "engine": "vllm",
            "max_completion_length": 512,
            "gpu_memory_utilization": 0.3,
        },
        "batch": {"micro": 1, "global": 16},
    }
    return plan(**{name: {**base.get(name, {}), **tables.get(name, {})} for name in base | tables})


def engine(tensor=1, shape=QWEN_3B, dtype=Dtype.BF16):
    return EngineModel(shape, dtype, tensor)


@pytest.mark.parametrize(
    ("tensor", "num_bytes"),
    [
        (1, 36_864),  # 2 x 36 layers x 2 kv heads x 128 x 2 bytes
        (2, 18_432),  # a kv head on each rank
        (4, 18_432),  # and no less: two ranks share a head
    ],
)
def test_a_token_of_the_cache_has_whole_kv_heads(tensor, num_bytes):
    assert kv_token_bytes(engine(tensor)) == num_bytes


def test_the_weights_of_one_rank_are_the_model_and_its_table_of_angles():
    # the published count; the vocabulary of 151,936 is a multiple of 64; 32,768 angles of 128
    assert weight_bytes(engine()) == 2 * (3_085_938_688 + 32_768 * 128)


def test_a_tensor_rank_holds_its_share_of_matrices_and_a_whole_kv_head():
    query, kv, ffn = 2048 // 4, 128, 11008 // 4
    attention = 2048 * (query + 2 * kv) + (query + 2 * kv) + query * 2048
    layer = attention + 3 * 2048 * ffn + 2 * 2048
    elements = 151_936 // 4 * 2048 + 36 * layer + 2048 + 32_768 * 128
    assert weight_bytes(engine(4)) == 2 * elements


def test_latents_are_cached_whole_on_every_rank_and_their_map_to_heads_is_there_twice():
    # 27 layers keep 512 + 64 numbers of a token; 16 heads have 128 + 128 of the latent's 512;
    # 102,400 ids are a multiple of 64; 163,840 angles of 64; the published count
    known = find_known("deepseek-ai/DeepSeek-V2-Lite")
    lite, _ = read_shape(known.config, "config.json")
    assert kv_token_bytes(engine(1, lite)) == kv_token_bytes(engine(4, lite)) == 27 * 576 * 2
    mapped = 16 * (128 + 128) * 512
    assert weight_bytes(engine(1, lite)) == 2 * (15_706_484_224 + 27 * mapped + 163_840 * 64)
    from_latents = 2048 * 16 * 192 + 2 * mapped + 2048 * 16 * 128
    of_a_rank = weight_bytes(engine(1, lite)) - weight_bytes(engine(2, lite))
    mlps = 3 * 2048 * (10_944 + 26 * (64 + 2) * 1408)
    assert of_a_rank == 102_400 * 2048 * 2 + 27 * from_latents + mlps


def test_an_untied_head_and_a_padded_vocabulary_count():
    shape = replace(TINY, tied_embeddings=False)  # 500 ids are 512 rows, two layers
    layer = 96 * (96 + 2 * 32) + 96 * 96 + 3 * 96 * 160 + 2 * 96
    elements = 2 * 512 * 96 + 2 * layer + 96 + 256 * 16
    assert weight_bytes(engine(1, shape, Dtype.FP32)) == 4 * elements


def test_experts_are_divided_and_their_router_is_not():
    moe = MoeShape(num_experts=8, num_experts_per_token=2, expert_ffn_hidden_size=64)
    shape = replace(TINY, moe=moe)
    dense_mlp, experts = 3 * 96 * 160 // 2, 8 * 3 * 96 * 64 // 2 + 8 * 96
    difference = weight_bytes(engine(2, shape)) - weight_bytes(engine(2, TINY))
    assert difference == 2 * 2 * (experts - dense_mlp)
    mixed = replace(shape, moe=replace(moe, dense_layers=(0,)))  # of its two layers
    assert weight_bytes(engine(2, mixed)) - weight_bytes(engine(2, TINY)) == difference // 2


def test_a_forward_is_widest_in_the_gated_mlp_or_in_drawing():
    # residual and input of the MLP, gate and up, and their product
    assert forward_bytes(engine(2), 8192, 1) == 8192 * (2 * 2048 + 3 * 5504) * 2
    # 4 final hidden states, and of each sequence bf16 logits and 28 bytes an id
    assert forward_bytes(engine(2), 4, 4) == 4 * 2048 * 2 + 4 * 151_936 * 30


TAKEN = weight_bytes(engine(2)) + forward_bytes(engine(2), 8192, 8) + 2 * 2**29
"""Beside the cache: weights, a forward, a communicator and graphs."""
BLOCK = 16 * 18_432


def utilization_of(num_blocks):
    """The share of the device with which so many blocks and a half are left."""
    return (TAKEN + (num_blocks + 0.5) * BLOCK) / H100.device.memory_bytes


def test_the_cache_is_what_the_share_leaves_in_whole_blocks():
    found = price(h100(), H100).draft.sampling.vllm
    share = 0.3 * H100.device.memory_bytes
    assert found.kv_cache_bytes == found.num_blocks * BLOCK
    assert 0 <= share - TAKEN - found.kv_cache_bytes < BLOCK + 1
    # two engines share 16 prompts
    assert (found.max_model_len, found.max_num_seqs, found.max_num_batched_tokens) == (
        2048,
        8,
        8192,
    )


def test_one_block_is_kept_back_and_sequences_take_whole_blocks():
    cache = VllmPlan(1, 0.5, 0, 100, 8, 800, 0, block_tokens=16, num_blocks=101, kv_cache_bytes=0)
    assert cache.capacity_tokens == 1600
    assert cache.num_sequences == 14  # 100 tokens are 7 blocks of 16; 100 // 7


def phases(**generation):
    (memory,) = price(h100(generation=generation), H100).ledger.classes
    return memory.phases


@pytest.mark.parametrize(
    ("level", "with_weights", "with_cache"),
    [
        (0, set(Phase), set(Phase)),
        (1, {Phase.REFIT, Phase.GENERATE}, {Phase.GENERATE}),
        (2, {Phase.REFIT, Phase.GENERATE}, {Phase.GENERATE}),
    ],
)
def test_a_sleeping_engine_is_there_only_to_be_refitted_and_to_sample(
    level, with_weights, with_cache
):
    found = phases(sleep_level=level)
    assert {phase for phase, memory in found.items() if WEIGHTS in memory.rows} == with_weights
    assert {phase for phase, memory in found.items() if CACHE in memory.rows} == with_cache


@pytest.mark.parametrize(("level", "home"), [(1, Tier.HOST), (2, Tier.DROPPED)])
def test_weights_are_copied_to_the_host_at_level_1_and_forgotten_at_level_2(level, home):
    priced = price(h100(generation={"sleep_level": level}), H100)
    moves = {(move.object, move.phase): move for move in priced.moves}
    come, leave = moves[WEIGHTS, Phase.REFIT], moves[WEIGHTS, Phase.TEACHER]
    assert (come.from_tier, leave.to_tier) == (home, home)
    seconds = weight_bytes(engine(2)) / (0.8 * 64e9) if level == 1 else 0
    assert come.seconds == leave.seconds == pytest.approx(seconds)
    assert moves[CACHE, Phase.GENERATE].from_tier is Tier.DROPPED
    assert moves[CACHE, Phase.TEACHER].seconds == 0
    on_host = 4 * weight_bytes(engine(2)) if level == 1 else 0
    assert priced.ledger.host_bytes_per_node == on_host


def test_refit_holds_old_and_new_weights_a_bucket_and_a_module():
    rows = phases()[Phase.REFIT].rows
    embedding = 151_936 * 2048 * 2  # above half a GiB, so that it is the bucket
    gathered = 152_064 * 2048 * 2  # Megatron's padded one, in pieces of two ranks
    assert rows["refit buffer"] == embedding + gathered + embedding // 2
    assert reload_bytes(engine(2)) == embedding // 2
    assert rows[WEIGHTS] == weight_bytes(engine(2))
    assert rows["student params"] > 0


def test_a_server_leaves_only_the_way_of_the_weights_on_the_ranks():
    found = phases(mode="server", server_url="http://host:8000")
    assert found[Phase.REFIT].rows["refit buffer"] == (151_936 + 152_064) * 2048 * 2
    rows = {name for memory in found.values() for name in memory.rows}
    assert not rows & {WEIGHTS, CACHE, "overhead (vllm graphs)"}
    assert "activations" not in found[Phase.GENERATE].rows


def test_without_samples_there_is_no_engine():
    priced = price(h100(distill={"lmbda": 0.0}), H100)
    assert priced.draft.sampling.vllm is None
    assert Phase.REFIT not in priced.ledger.classes[0].phases


def test_the_engine_has_overhead_of_its_own():
    alone = price(h100(generation={"engine": "megatron"}), H100).ledger.classes[0]
    beside, before = phases()[Phase.TEACHER].rows, alone.phases[Phase.TEACHER].rows
    assert beside["overhead (nccl)"] - before["overhead (nccl)"] == 2**29
    assert beside["overhead (vllm graphs)"] == 2**29
    assert "overhead (vllm graphs)" not in before


def test_the_steps_wake_refit_sample_and_sleep():
    run_plan = compile_plan(h100(generation={"sleep_level": 2}), H100, "test").run_plan
    kinds = [(type(step), getattr(step, "object", "")) for step in run_plan.steps[1:7]]
    assert kinds == [
        (Move, WEIGHTS),
        (Refit, ""),
        (Move, CACHE),
        (Generate, ""),
        (Move, WEIGHTS),
        (Move, CACHE),
    ]
    refit = run_plan.steps[2]
    assert refit.num_bytes == 2 * 3_085_938_688
    assert refit.bucket_bytes == run_plan.sampling.refit_bucket_bytes


def test_a_small_cache_samples_in_rounds():
    def decode_s(utilization):
        priced = price(h100(generation={"gpu_memory_utilization": utilization}), H100)
        timing = predict(priced.draft, priced.moves, H100.device)
        named = {term.name: term.seconds for term in timing.terms}
        return priced.draft.sampling.vllm, named["student: tokens one by one"]

    # 2,048 tokens are 128 blocks, and one block is kept back
    (large, fast), (small, slow) = decode_s(0.3), decode_s(utilization_of(4 * 128 + 1))
    assert large.num_sequences >= large.max_num_seqs == 8
    assert small.num_sequences == 4  # so that 8 prompts take two rounds
    assert 1.5 * fast < slow <= 2 * fast


CPU = facts(replace(SMOLLM2, num_layers=2), SMOLLM2, "cpu")


def test_on_a_cpu_blocks_are_larger_and_there_are_no_graphs():
    found = price(plan(generation={"engine": "vllm"}), CPU).draft.sampling.vllm
    assert (found.block_tokens, found.graph_bytes) == (128, 0)


def findings(given, known=H100):
    return compile_plan(given, known, "test").diagnostics


def errors(given, known=H100):
    return {found.code: found for found in findings(given, known) if found.severity == "error"}


@pytest.mark.parametrize(
    ("code", "tables", "known"),
    [
        # 16 heads and 2 kv heads on 3 ranks
        (
            "GK240",
            {"cluster": {"devices_per_node": 6}, "generation": {"tensor": 3}},
            H100,
        ),
        ("GK241", {"generation": {"tensor": 8}}, H100),
        ("GK242", {}, facts()),
        ("GK416", {"generation": {"sleep_level": 1}}, CPU),
        ("GK305", {"generation": {"gpu_memory_utilization": 0.02}}, H100),
        ("GK306", {"generation": {"gpu_memory_utilization": utilization_of(128)}}, H100),
    ],
)
def test_a_rule_finds_its_fault_and_names_what_mends_it(code, tables, known):
    on_cpu = known.device.backend == "gloo"
    base = plan(generation={"engine": "vllm"} | tables.get("generation", {}))
    found = errors(base if on_cpu else h100(**tables), known)[code]
    assert found.help
    assert errors(base if on_cpu else h100(), known).keys() == ({code} if on_cpu else set())


@pytest.mark.parametrize("utilization", [0.02, utilization_of(128)])
def test_the_share_that_help_names_is_the_smallest_in_whole_percents(utilization):
    (found,) = errors(h100(generation={"gpu_memory_utilization": utilization})).values()
    named = float(re.search(r"at least (0\.\d+)", found.help[0])[1])
    assert errors(h100(generation={"gpu_memory_utilization": named})) == {}
    below = errors(h100(generation={"gpu_memory_utilization": named - 0.01}))
    assert below.keys() & {"GK305", "GK306"}


def test_the_degrees_that_help_names_break_no_rule():
    tables = {"cluster": {"devices_per_node": 6}, "batch": {"global": 18}}
    found = errors(h100(**tables, generation={"tensor": 3}))["GK240"]
    degrees = [int(degree) for degree in re.findall(r"\d+", found.help[0])]
    assert degrees == [1, 2]
    for degree in degrees:
        assert errors(h100(**tables, generation={"tensor": degree})) == {}


def test_an_engine_divides_the_expert_that_sees_every_token_too():
    moe = MoeShape(8, 2, expert_ffn_hidden_size=512, shared_ffn_hidden_size=36)
    shape = replace(QWEN_3B, moe=moe)
    known = facts(shape, shape, "h100-80gb")
    tables = {"cluster": {"device": "h100-80gb", "devices_per_node": 8}, "batch": {"global": 8}}
    found = [
        finding
        for finding in check_declaration(
            plan(**tables, generation={"engine": "vllm", "tensor": 8}), known
        )
        if finding.code == "GK240"
    ]
    assert [finding.path for finding in found] == ["generation.tensor"]
    assert "36 ffn columns" in found[0].message


def test_vllm_is_run_beside_the_training_and_on_a_server():
    on_a_server = h100(generation={"mode": "server", "server_url": "http://127.0.0.1:8000"})
    both = (*findings(on_a_server), *findings(h100()))
    assert not [f for f in both if f.code == "GK591"]


def test_samples_drawn_ahead_are_a_step_that_the_outline_names():
    served = {"mode": "server", "server_url": "http://127.0.0.1:8000"}
    kinds = []
    for generation in (served, served | {"staleness": 1}):
        run_plan = compile_plan(h100(generation=generation), H100, "test").run_plan
        assert run_plan is not None
        kinds.append([type(step).__name__ for step in run_plan.steps])
    assert "GenerateAhead" not in kinds[0]
    assert kinds[1][kinds[1].index("Generate") + 1] == "GenerateAhead"


def test_a_list_of_servers_is_checked_one_by_one():
    urls = ("http://127.0.0.1:8000", "127.0.0.1:8001", "http://127.0.0.1:8000/")
    found = findings(h100(generation={"mode": "server", "server_url": urls}))
    assert [(f.code, f.path) for f in found if f.code in ("GK419", "GK427")] == [
        ("GK419", "generation.server_url[1]"),
        ("GK427", "generation.server_url[2]"),
    ]


def test_a_plan_that_does_not_fit_may_let_the_engine_sleep_or_take_less():
    def crowded(**generation):
        return h100(generation={"gpu_memory_utilization": 0.5} | generation, batch={"micro": 8})

    edits = {edit.description: edit for edit in edits_that_fit(crowded(), H100)}
    asleep = price(crowded(sleep_level=1), H100).ledger
    assert edits["set `generation.sleep_level` to 1"].peak_bytes == asleep.peak_bytes
    (share,) = (float(words.split()[-1]) for words in edits if "utilization" in words)
    smaller, larger = (crowded(gpu_memory_utilization=value) for value in (share, share + 0.05))
    assert price(smaller, H100).ledger.verdict != "over"
    assert price(larger, H100).ledger.verdict == "over"


def test_a_search_proposes_no_engine_that_vllm_would_refuse():
    # 3 GiB of weights on one rank leave no cache in 5% of the device; on two ranks they do
    narrow = h100(generation={"gpu_memory_utilization": 0.05})
    found = search(narrow, H100, include_planned=True)
    assert found.plans
    for candidate in found.plans:
        assert errors(candidate).keys() <= {"GK301"}
        assert candidate.student.parallel.tensor > 1


def test_the_teachers_samples_are_drawn_by_megatron_beside_the_engine():
    """The cache of vllm stays where it is, and Megatron's is there while the teacher samples."""
    both = {"lmbda": 0.5, "seq_kd": 0.5}
    run_plan = compiled(h100(distill=both))
    assert [(step.role, step.engine) for step in run_plan.steps if isinstance(step, Generate)] == [
        ("student", "vllm"),
        ("teacher", "megatron"),
    ]
    in_phase = run_plan.ledger.classes[0].phases[Phase.GENERATE].rows
    alone = compiled(h100(distill={"lmbda": 0.5})).ledger.classes[0].phases[Phase.GENERATE].rows
    rows = 16 // 2  # of a data rank; 28 layers, 2 kv heads of 128 a rank, prompts and responses
    of_teacher = 2 * 28 * rows * 2 * 128 * (1536 + 512) * 2
    assert in_phase[CACHE] - alone[CACHE] == of_teacher
    of_megatron = h100(distill={"lmbda": 0.0, "seq_kd": 0.5}, generation={"engine": "megatron"})
    megatrons = compiled(of_megatron).ledger.classes[0].phases[Phase.GENERATE].rows
    assert megatrons[CACHE] == of_teacher
    seconds = {term.name for term in run_plan.timing.terms if term.phase is Phase.GENERATE}
    assert {"student: tokens one by one", "teacher: tokens one by one"} <= seconds
    assert "the teacher by megatron" in dict(card_rows(run_plan))["sampling"]
    assert "the teacher samples 8 prompts a rank by megatron" in outline(run_plan, 200)
    for explained in explain(draft_of(run_plan), H100.device, run_plan.schedule.moves):
        assert sum(term.num_bytes for term in explained.terms) == explained.num_bytes


def test_a_teacher_that_alone_samples_leaves_no_engine():
    given = h100(distill={"lmbda": 0.0, "seq_kd": 0.5})
    run_plan = compiled(given)
    assert run_plan.sampling.vllm is None
    assert WEIGHTS not in run_plan.ledger.classes[0].phases[Phase.GENERATE].rows
    (useless,) = (d for d in findings(given) if d.path == "generation.gpu_memory_utilization")
    assert useless.code == "GK430"
    assert "the student never samples" in useless.message


def compiled(given):
    compilation = compile_plan(given, H100, "test")
    assert not [d for d in compilation.diagnostics if d.severity == "error"]
    return compilation.run_plan


def test_a_teachers_server_gives_more_ids_where_some_may_be_padding(run_plan):
    # 49,152 rows of which 49,100 have a token: 52 ids may stand before one of the 64
    models = replace(run_plan.models, vocab_size=49100)
    objective = replace(run_plan.objective, top_k=64)
    asked = replace(run_plan, models=models, objective=objective)
    limits = server_limits(plan(), asked, Role.TEACHER)
    assert limits.max_logprobs == 64 + 52
    assert limits.max_model_len == 96 + 48 + 1


def test_a_server_on_a_cpu_has_a_cache_for_its_share_of_the_prompts(run_plan):
    two = replace(run_plan.sampling, server_urls=("http://a", "http://b"))
    limits = server_limits(plan(), replace(run_plan, sampling=two), Role.STUDENT)
    # 8 rows over 2 servers; 144 tokens are 2 blocks of 128, and one is kept back
    assert limits.max_num_seqs == 4
    assert limits.max_model_len == 96 + 48
    token_bytes = 2 * 12 * 4 * 64 * 4
    assert limits.kv_cache_bytes == (1 + 4 * 2) * 128 * token_bytes
