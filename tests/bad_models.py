"""The broken models and data files that bad plans name, each a good one with one thing wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

LARGE_ROW_BYTES = 8000
NUM_LARGE_ROWS = 1100


def write_bad_models(models: Path) -> None:
    """Beside models/tiny: a directory for each way in which a model's files can be wrong."""
    tiny = models / "tiny"

    def copy(name: str, **config: Any) -> Path:
        directory = Path(shutil.copytree(tiny, models / name))
        good = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(good | config))
        return directory

    copy("mamba", model_type="mamba", architectures=["MambaForCausalLM"])
    copy("bad_sizes", hidden_size=0, vocab_size="128", num_key_value_heads=None, head_dim=-8)
    copy(
        "features",
        hidden_act="gelu",
        rope_scaling={"rope_type": "dynamic", "factor": 4.0},
        quantization_config={"bits": 4},
    )
    copy("deeper", num_hidden_layers=5)
    (copy("half_a_config") / "config.json").write_text('{"model_type": "llama",\n')
    (copy("no_weights") / "model.safetensors").unlink()
    (copy("no_tokenizer") / "tokenizer.json").unlink()
    (copy("half_a_tokenizer") / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0')
    pickles = copy("pickles")
    (pickles / "model.safetensors").rename(pickles / "pytorch_model.bin")
    _shard(copy("lost_shard"))
    large = copy("large_tokenizer") / "tokenizer_config.json"
    settings = json.loads(large.read_text())
    settings["added_tokens_decoder"] = {"200": {"content": "<|tool|>"}}
    large.write_text(json.dumps(settings))


def write_bad_data(data: Path) -> None:
    """Beside data/rows.jsonl: rows that cannot be used, none at all, too many to check."""
    rows = [
        '{"prompt": "say one", "completion": "1"}',
        '{"prompt": "say two" "completion": "2"}',
        '{"messages": [{"role": "user"}]}',
        '{"instruction": "say four", "output": "4"}',
    ]
    (data / "faulty.jsonl").write_text("\n".join(rows) + "\n")
    shown = {
        "seeing": "data/dot.png",
        "unseen": "data/gone.png",
        "far": "https://photos.example.org:8443/dot.png",
    }
    for name, image in shown.items():
        turns = [
            {"role": "user", "content": "<image>what is it?"},
            {"role": "assistant", "content": "a dot"},
        ]
        row = json.dumps({"messages": turns, "images": [image]})
        (data / f"{name}.jsonl").write_text(f"{row}\n" * 16)
    (data / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (data / "empty.jsonl").write_text("\n\n")
    domains = ["maths", "code, and more", "biology", None]
    named = [{"prompt": "a", "completion": "b", "domain": domain} for domain in domains]
    (data / "domains.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    (data / "rows.txt").write_text("say one\n")
    row = json.dumps({"prompt": "say one", "completion": "1", "source": "x" * LARGE_ROW_BYTES})
    (data / "large.jsonl").write_text(f"{row}\n" * NUM_LARGE_ROWS)


def _shard(directory: Path) -> None:
    """Say that half of the tensors lie in a shard that is not there."""
    whole = directory / "model.safetensors"
    content = whole.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    names = sorted(name for name in header if name != "__metadata__")
    here, lost = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    whole.rename(directory / here)
    weight_map = {name: here if index % 2 else lost for index, name in enumerate(names)}
    index_file = directory / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
