"""The prompts that are shipped, and the real teacher that they are answered by."""

import json
from itertools import combinations, pairwise
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[3]


def shipped(name):
    lines = (ROOT / "plans" / "data" / name).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def words_of(row):
    """The user's part of a row as its set of word pairs."""
    said = row.get("prompt") or " ".join(turn["content"] for turn in row["messages"][:-1])
    words = said.lower().split()
    return set(pairwise(words)) or {(said, "")}


def test_the_training_rows_are_many_and_of_every_form():
    rows = shipped("quickstart.jsonl")
    assert len(rows) >= 240
    assert sum("prompt" in row for row in rows) >= 20
    conversations = [row["messages"] for row in rows if "messages" in row]
    assert sum(turns[0]["role"] == "system" for turns in conversations) >= 5
    assert sum(len(turns) > 3 for turns in conversations) >= 5
    assert len(shipped("heldout.jsonl")) >= 24


def test_no_two_shipped_prompts_are_nearly_the_same():
    pairs = [
        words_of(row) for name in ("quickstart.jsonl", "heldout.jsonl") for row in shipped(name)
    ]
    alike = max(len(a & b) / len(a | b) for a, b in combinations(pairs, 2))
    assert alike < 0.6


def test_the_teacher_answers_and_its_files_name_no_place_on_this_machine(smollm2, smollm2_chat):
    texts = [path for path in smollm2.iterdir() if path.suffix in (".json", ".jinja")]
    assert all(str(ROOT) not in path.read_text(encoding="utf-8") for path in texts)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    assert model.num_parameters() == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = smollm2_chat.encode(smollm2_chat.render(question, generation_prompt=True))
    answer = model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False)
    assert "Paris" in smollm2_chat.decode(answer[0, len(prompt) :].tolist())
