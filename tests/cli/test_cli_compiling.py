"""What can be said of a plan whose models are not there."""

from gkdplan.cli.compiling import compile_file

PLAN = """
name = "nowhere"
[student]
model = "no/such-model"
[teacher]
model = "no/such-model"
[data]
train = ["rows.jsonl"]
[generation]
tensor = 2
"""


def test_a_missing_model_hides_no_feature_that_is_not_available(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    codes = {finding.code for finding in compile_file("plan.toml").diagnostics}
    assert {"GK101", "GK590"} <= codes
