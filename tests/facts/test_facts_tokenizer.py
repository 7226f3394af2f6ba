import json
from pathlib import Path
from typing import Any

import pytest
from tiny_files import TOKENIZER
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gkdplan.diagnostics import Diagnostic, Severity
from gkdplan.facts.model import TokenizerFacts
from gkdplan.facts.token_map import TokenMap
from gkdplan.facts.tokenizer import read_tokenizer
from gkdplan.facts.vocabulary import TokenDifference, differences

TEXT = ["low lower lowest new newer newest", "a b c, slow and new: [the] {lowest}", "merges"]


def read(
    directory: Path, config: dict[str, Any] | None = None, seen: dict[str, TokenMap] | None = None
) -> tuple[TokenizerFacts | None, tuple[Diagnostic, ...]]:
    return read_tokenizer(str(directory), "tiny", config or {}, {} if seen is None else seen)


def facts(directory: Path, config: dict[str, Any] | None = None) -> TokenizerFacts:
    tokenizer, findings = read(directory, config)
    assert findings == ()
    assert tokenizer is not None
    return tokenizer


def refused(directory: Path) -> str:
    tokenizer, (finding,) = read(directory)
    assert tokenizer is None
    assert (finding.code, finding.path) == ("GK112", "model")
    return finding.message


def write(directory: Path, **files: object) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def trained(kind: str) -> Tokenizer:
    special = ["<pad>", "</s>", "<unk>"]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=40, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=special)
    else:
        tokenizer = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_the_map_is_that_of_the_tokenizers_library(tmp_path: Path, kind: str) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained(kind),
        eos_token="</s>",
        pad_token="<pad>",
        chat_template="{{ messages[0].content }}",
    )
    tokenizer.add_tokens(["<think>"])
    tokenizer.save_pretrained(tmp_path)
    found = facts(tmp_path)
    assert found.tokens == tokenizer.get_vocab()
    assert found.size == len(tokenizer)
    assert (found.eos_token, found.pad_token) == ("</s>", "<pad>")
    assert found.chat_template == "{{ messages[0].content }}"


def test_the_map_does_not_depend_on_where_the_merges_stand(
    tmp_path: Path, tokenizer_file: dict
) -> None:
    tokenizer_file["model"] |= {"merges": [["a", "b"], ["b", "c"]]}
    last = write(tmp_path / "last", tokenizer=tokenizer_file)
    model = tokenizer_file.pop("model")
    first = {
        "model": {"merges": model.pop("merges"), **model},
        "added_tokens": tokenizer_file.pop("added_tokens"),
    }
    assert facts(write(tmp_path / "first", tokenizer=first)).tokens == facts(last).tokens
    assert facts(last).tokens == {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "</s>": 5}


def test_a_token_named_merges_does_not_cut_the_map(tmp_path: Path, tokenizer_file: dict) -> None:
    tokenizer_file["model"]["vocab"] |= {"merges": 6, '"merges": [': 7, 'x"merges': 8}
    assert facts(write(tmp_path, tokenizer=tokenizer_file)).size == 9


def test_a_file_cut_off_within_its_merges_is_refused(tmp_path: Path, tokenizer_file: dict) -> None:
    tokenizer_file["model"]["merges"] = [["a", "b"]]
    text = json.dumps(tokenizer_file)
    (tmp_path / "tokenizer.json").write_text(text[: text.index('"b"]') + 3])
    assert "is not JSON" in refused(tmp_path)


def test_tokens_that_only_the_settings_add_are_in_the_map(
    tmp_path: Path, tokenizer_file: dict
) -> None:
    settings = {"added_tokens_decoder": {"5": {"content": "</s>"}, "6": {"content": "<x>"}}}
    found = facts(write(tmp_path, tokenizer=tokenizer_file, tokenizer_config=settings))
    assert (found.tokens["<x>"], found.size) == (6, 7)


def test_files_that_give_a_token_two_ids_are_refused(tmp_path: Path, tokenizer_file: dict) -> None:
    settings = {"added_tokens_decoder": {"3": {"content": "</s>"}}}
    write(tmp_path, tokenizer=tokenizer_file, tokenizer_config=settings)
    assert "has another id for '</s>': 3, not 5" in refused(tmp_path)


@pytest.mark.parametrize(
    ("files", "config", "expected"),
    [
        (
            {"tokenizer_config": {"eos_token": "a"}, "generation_config": {"eos_token_id": 1}},
            {},
            "a",
        ),
        ({"tokenizer_config": {"eos_token": {"content": "b"}}}, {}, "b"),
        ({"special_tokens_map": {"eos_token": "c"}}, {"eos_token_id": 1}, "c"),
        ({"generation_config": {"eos_token_id": [3, 5]}}, {"eos_token_id": 1}, "ab"),
        ({}, {"eos_token_id": 5}, "</s>"),
        ({}, {}, None),
        ({}, {"eos_token_id": 99}, None),
    ],
)
def test_the_end_of_text_token_is_the_tokenizers_or_else_the_models(
    tmp_path: Path, tokenizer_file: dict, files: dict, config: dict, expected: str | None
) -> None:
    write(tmp_path, tokenizer=tokenizer_file, **files)
    assert facts(tmp_path, config).eos_token == expected


def test_a_special_token_without_an_id_is_refused(tmp_path: Path, tokenizer_file: dict) -> None:
    write(tmp_path, tokenizer=tokenizer_file, tokenizer_config={"eos_token": "<eos>"})
    assert "has no token '<eos>', the `eos_token`" in refused(tmp_path)


def test_the_template_file_wins_and_of_several_templates_the_default_is_taken(
    tmp_path: Path, tokenizer_file: dict
) -> None:
    templates = [{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}]
    write(tmp_path, tokenizer=tokenizer_file, tokenizer_config={"chat_template": templates})
    assert facts(tmp_path).chat_template == "D"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert facts(tmp_path).chat_template == "J"


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        ({}, "has no `model`"),
        ({"model": {}}, "has no vocabulary"),
        ({"model": {"vocab": {}}}, "has no tokens"),
        ({"model": {"vocab": {"a": "0"}}}, "id is not a whole number"),
        ({"model": {"vocab": {"a": True}}}, "id is not a whole number"),
        ({"model": {"vocab": {"a": -1}}}, "id is not between 0 and"),
        ({"model": {"vocab": {"a": 2**40}}}, "id is not between 0 and"),
        ({"model": {"vocab": ["a"]}}, "has no token at place 0"),
        ({"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}, "without `content`"),
        ({"model": {"vocab": {"a": 0}}, "added_tokens": 7}, "without `content`"),
        ({"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "b"}]}, "not between"),
    ],
)
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, tokenizer: dict, words: str) -> None:
    assert words in refused(write(tmp_path, tokenizer=tokenizer))


def test_a_directory_without_tokenizer_json_gives_a_note(tmp_path: Path) -> None:
    tokenizer, (finding,) = read(tmp_path)
    assert tokenizer is None
    assert (finding.code, finding.severity) == ("GK113", Severity.NOTE)


def test_one_tokenizer_of_two_models_is_parsed_once(tmp_path: Path, tokenizer_file: dict) -> None:
    seen: dict[str, TokenMap] = {}
    first, _ = read(write(tmp_path / "a", tokenizer=tokenizer_file), seen=seen)
    second, _ = read(write(tmp_path / "b", tokenizer=tokenizer_file), seen=seen)
    assert first is not None
    assert second is not None
    assert first.tokens is second.tokens
    assert len(seen) == 1


def test_equal_maps_have_one_fingerprint_in_whatever_order_they_are_written(
    tmp_path: Path, tokenizer_file: dict
) -> None:
    turned = json.loads(json.dumps(tokenizer_file))
    turned["model"]["vocab"] = dict(reversed(turned["model"]["vocab"].items()))
    left = facts(write(tmp_path / "a", tokenizer=tokenizer_file))
    right = facts(write(tmp_path / "b", tokenizer=turned))
    assert left.fingerprint == right.fingerprint
    assert differences(left, right).num_tokens == 0


def test_the_first_differing_tokens_are_shown_with_both_ids(
    tmp_path: Path, tokenizer_file: dict
) -> None:
    other = json.loads(json.dumps(tokenizer_file))
    other["model"]["vocab"] = {"a": 0, "c": 1, "b": 2, "ab": 3, "new": 4}
    left = facts(write(tmp_path / "a", tokenizer=tokenizer_file))
    right = facts(write(tmp_path / "b", tokenizer=other))
    assert left.fingerprint != right.fingerprint
    found = differences(left, right, max_first=3)
    # b and c changed places, bc is gone and new is there.
    assert found.num_tokens == 4
    assert found.first == (
        TokenDifference("b", 1, 2),
        TokenDifference("c", 2, 1),
        TokenDifference("bc", 4, None),
    )


@pytest.mark.parametrize(
    ("pre_tokenizer", "normalizer", "is_byte_level"),
    [
        ({"type": "ByteLevel"}, None, True),
        ({"type": "ByteLevel"}, {"type": "NFC"}, True),
        ({"type": "ByteLevel"}, {"type": "Lowercase"}, False),
        ({"type": "ByteLevel"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}, True),
        (
            {"type": "Sequence", "pretokenizers": [{"type": "Split"}, {"type": "ByteLevel"}]},
            None,
            True,
        ),
        ({"type": "Metaspace"}, None, False),
        (None, None, False),
        ({"type": "Sequence", "pretokenizers": [[1], {}]}, [1], False),
    ],
)
def test_tokens_that_spell_bytes_are_known_from_the_pre_tokenizer(
    model_directory: Path, pre_tokenizer: object, normalizer: object, is_byte_level: bool
) -> None:
    parts = {"pre_tokenizer": pre_tokenizer, "normalizer": normalizer}
    (model_directory / "tokenizer.json").write_text(json.dumps(parts | TOKENIZER))
    tokenizer, findings = read_tokenizer(str(model_directory), "tiny", {}, {})
    assert findings == ()
    assert tokenizer is not None
    assert tokenizer.is_byte_level is is_byte_level
