"""Models that differ from models/tiny in what both models of a plan share, and data for them."""

import json
import shutil
from pathlib import Path
from typing import Any


def write_bad_pairs(models: Path, data: Path) -> None:
    """Another end of text, another chat template, none; rows of messages, and mere prompts."""

    def copy(name: str, **settings: Any) -> None:
        directory = Path(shutil.copytree(models / "tiny", models / name))
        file = directory / "tokenizer_config.json"
        changed = json.loads(file.read_text()) | settings
        kept = {key: value for key, value in changed.items() if value is not None}
        file.write_text(json.dumps(kept))

    copy("other_end", eos_token="!")
    copy("other_template", chat_template="{{ messages[0].content }}")
    copy("no_template", chat_template=None)
    turns = [{"role": "user", "content": "say one"}, {"role": "assistant", "content": "1"}]
    (data / "messages.jsonl").write_text(f"{json.dumps({'messages': turns})}\n" * 32)
    rows = [{"prompt": "say one", "completion": "1"}] * 20 + [{"prompt": "say two"}] * 12
    (data / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    turns = [{"role": "user", "content": "say one two three four"}, turns[1]]
    long = {"prompt": "say one two three four five", "completion": "12345"}
    short = {"prompt": "say one", "completion": "1"}
    lines = [json.dumps(row) for row in (long, short, {"messages": turns})]
    (data / "long_prompts.jsonl").write_text("".join(f"{line}\n" for line in lines))
