"""The page of benchmarks shows what was recorded."""

import importlib.util
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "benchmarks" / "beside" / "record.py"


def load_record():
    spec = importlib.util.spec_from_file_location("record_of_benchmarks", SOURCE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_every_number_of_the_record() -> None:
    record = load_record()
    page = record.PAGE.read_text(encoding="utf-8")
    for part, results in json.loads(record.RECORD.read_text(encoding="utf-8")).items():
        begin, end = (page.index(f"<!-- {part}: {edge} -->") for edge in ("begin", "end"))
        for row in results["measured"]:
            verdict, target = row.pop("verdict"), row.pop("target")
            measured = record.Measured(**row, target=target and record.Target(**target))
            assert measured.verdict == verdict
            assert measured.line() in page[begin:end]


def test_a_target_is_met_at_its_limit_and_missed_beyond_it() -> None:
    record = load_record()
    assert record.ratio_at_least(2.0).is_met(2.0)
    assert not record.ratio_at_least(2.0).is_met(1.99)
    assert record.at_most(0.3).is_met(0.3)
    assert not record.at_most(0.3).is_met(0.31)
