"""Bad plans and what `gkdplan check` prints for them.

`tests/bad_plans/GKnnn_reason.toml` is a plan, and the text file beside it is the exact outcome in
a working directory with the models and data of `build_world`. `python tests/bad_plan_world.py`
writes every outcome anew, with the examples of `gkdplan explain` and docs/codes/: read the
difference before you keep it.
"""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from bad_models import write_bad_data, write_bad_models
from bad_pairs import write_bad_pairs
from bad_samples import write_samples

from gkdplan.cli.code_pages import write_code_pages
from gkdplan.cli.main import run
from gkdplan.planner.token_bounds import byte_alphabet

BAD_PLANS = Path(__file__).parent / "bad_plans"
CODE_PAGES = Path(__file__).parents[1] / "docs" / "codes"
EXAMPLES = Path(__file__).parents[1] / "gkdplan" / "cli" / "examples"

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
SEEING_CONFIG = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": CONFIG,
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
    },
    "image_token_index": 91,
}
MOE_CONFIG = CONFIG | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
LATENT_CONFIG = CONFIG | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 2.5,
}
TOKENS = [chr(ord("!") + i) for i in range(90)] + ["<|end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)


def build_world(root: Path) -> Path:
    """A working directory: models/tiny, models/tiny_moe and models/latents, broken ones beside
    them, and data/rows.jsonl."""
    _write_model(root / "models" / "tiny", TOKENS)
    _write_model(root / "models" / "tiny_moe", TOKENS, MOE_CONFIG)
    _write_model(root / "models" / "latents", TOKENS, LATENT_CONFIG)
    _write_model(root / "models" / "foreign", TOKENS[::-1])
    _write_model(root / "models" / "seeing", [*TOKENS, "<image>"], SEEING_CONFIG)
    vision = SEEING_CONFIG["vision_config"] | {"patch_size": 14}
    coarse = SEEING_CONFIG | {"vision_config": vision}
    _write_model(root / "models" / "coarse", [*TOKENS, "<image>"], coarse)
    enlarging = _write_model(root / "models" / "enlarging", [*TOKENS, "<image>"], SEEING_CONFIG)
    settings = {"size": {"shortest_edge": 10**9}, "crop_size": {"height": 32, "width": 32}}
    (enlarging / "preprocessor_config.json").write_text(json.dumps(settings))
    _write_byte_level(root / "models" / "byte_level")
    truncated = _write_model(root / "models" / "truncated", TOKENS) / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:4096])
    (root / "data").mkdir()
    rows = [{"prompt": f"say {number}", "completion": str(number)} for number in range(32)]
    (root / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_bad_models(root / "models")
    write_bad_data(root / "data")
    write_bad_pairs(root / "models", root / "data")
    write_samples(root)
    return root


def outcome(plan: Path, world: Path) -> str:
    """Exit code, stdout and stderr of `gkdplan check PLAN` in a world, at 80 columns."""
    shutil.copy(plan, world)
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "80", "HF_HUB_CACHE": str(world / "hub")}),
        contextlib.chdir(world),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = run(["check", plan.name])
    return f"exit {status}\n--- stdout\n{out.getvalue()}--- stderr\n{err.getvalue()}"


def findings(outcome: str) -> list[str]:
    """The printed findings of an outcome, each a block of lines."""
    printed = outcome.partition("--- stdout\n")[2].partition("--- stderr\n")[0]
    return [block for block in printed.split("\n\n") if "[GK" in block.split("\n")[0]]


def finding_of(code: str, outcome: str) -> str | None:
    """The first printed finding with a code."""
    return next((block for block in findings(outcome) if f"[{code}]" in block.split("\n")[0]), None)


def _write_model(directory: Path, tokens: list[str], config: Mapping[str, object] = CONFIG) -> Path:
    """A model of zeros with a tokenizer of whole characters."""
    import numpy as np
    from safetensors.numpy import save_file

    from gkdplan.facts.config import read_shape
    from gkdplan.families.tensors import expected_tensors
    from gkdplan.vision import name_on_disk

    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": vocabulary["<|end|>"], "content": "<|end|>", "special": True}],
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"eos_token": "<|end|>", "pad_token": "<|end|>", "chat_template": CHAT_TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    shape, _ = read_shape(config, "config.json")
    assert shape is not None
    tensors = {
        name_on_disk(shape.vision, name): np.zeros(size, np.float32)
        for name, size in expected_tensors(shape).items()
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def _write_byte_level(directory: Path) -> None:
    """A model whose tokens are bytes; its file has the order in which the library writes it."""
    tokens = [*byte_alphabet().values(), "<|end|>"]
    _write_model(directory, tokens, CONFIG | {"vocab_size": 257})
    file = directory / "tokenizer.json"
    byte_level = {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}
    file.write_text(json.dumps(byte_level | json.loads(file.read_text())))


def regenerate() -> None:
    """Write every outcome, one finding of each code as its example, and the pages of the codes."""
    plans = sorted(BAD_PLANS.glob("*.toml"))
    with tempfile.TemporaryDirectory() as directory:
        world = build_world(Path(directory))
        outcomes = {plan: outcome(plan, world) for plan in plans}
    examples: dict[str, str] = {}
    for plan, text in outcomes.items():
        plan.with_suffix(".txt").write_text(text)
        code = plan.name.partition("_")[0]
        if code not in examples and (block := finding_of(code, text)):
            examples[code] = block
    for example in EXAMPLES.glob("*.txt"):
        example.unlink()
    for code, block in examples.items():
        (EXAMPLES / f"{code}.txt").write_text(block + "\n")
    write_code_pages(CODE_PAGES)


if __name__ == "__main__":
    regenerate()
