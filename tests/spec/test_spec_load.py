import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkdplan.spec.load import Loaded, load_plan
from gkdplan.spec.source import Source

PLAN = """\
name = "small"
[cluster]
devices_per_node = 2
[student]
model = "models/tiny"
dtype = "fp32"
init = "layers"
keep = { layers = [0, 2] }
[student.parallel]
tensor = 2
[teacher]
model = "models/tiny"
[distill]
lmbda = 0.5
seq_kd = true
[data]
train = ["rows.jsonl#8"]
[batch]
global = 4
[optimizer]
lr = 1e-4
betas = [0.9, 0.99]
[run]
steps = 2
loggers = ["tensorboard"]
"""


def load(text: str) -> Loaded:
    return load_plan("plan.toml", text)


def found(text: str) -> list[tuple[str, str | None]]:
    return [(finding.code, finding.path) for finding in load(text).diagnostics]


def only(text: str) -> tuple[str, ...]:
    """The help of a text's only finding."""
    (finding,) = load(text).diagnostics
    return finding.help


def test_a_good_plan_loads_with_its_values_and_no_findings() -> None:
    loaded = load(PLAN)
    assert loaded.diagnostics == ()
    plan = loaded.plan
    assert plan is not None
    assert plan.student.keep is not None
    assert plan.student.keep.layers == (0, 2)
    assert (plan.batch.global_, plan.batch.micro) == (4, 1)
    assert plan.student.parallel.tensor == 2
    assert plan.teacher.parallel is None
    assert plan.distill.seq_kd is True
    assert plan.optimizer.betas == (0.9, 0.99)


@pytest.mark.parametrize(
    ("before", "after", "help"),
    [
        ("tensor = 2", 'tensor = "2"', "write `tensor = 2`"),
        ("tensor = 2", "tensor = 2.0", "write `tensor = 2`"),
        ("tensor = 2", "tensor = 0", "write `tensor = 1`"),
        ("tensor = 2", "tensor = true", "leave `tensor` out for the default, `1`"),
        ("lr = 1e-4", 'lr = "1e-4"', "write `lr = 0.0001`"),
        ("lr = 1e-4", "lr = nan", "leave `lr` out for the default, `1e-5`"),
        ("lmbda = 0.5", "lmbda = 50", "write `lmbda = 0.5`"),
        ("lmbda = 0.5", "lmbda = -0.5", "write `lmbda = 0.0`"),
        ("seq_kd = true", 'seq_kd = "yes"', "write `seq_kd = true`"),
        ("seq_kd = true", 'seq_kd = "0.25"', "write `seq_kd = 0.25`"),
        ('dtype = "fp32"', 'dtype = "BF16"', 'write `dtype = "bf16"`'),
        ('name = "small"', "name = 3", 'write `name = "3"`'),
        ('["rows.jsonl#8"]', '"rows.jsonl"', 'write `train = ["rows.jsonl"]`'),
        ('["tensorboard"]', '["tensorbord"]', 'write `"tensorboard"` in its place'),
        (
            "betas = [0.9, 0.99]",
            "betas = [0.9]",
            "leave `betas` out for the default, `[0.9, 0.95]`",
        ),
        ("[cluster]", '[cluster]\nmemory_limit = "2gb"', 'write `memory_limit = "2 GiB"`'),
        ("[data]", '[data]\nimage_hosts = ["https://A.org/x"]', 'write `"a.org"` in its place'),
        ("[data]", '[data]\nimage_hosts = "A.org"', 'write `image_hosts = ["a.org"]`'),
    ],
)
def test_a_wrong_value_is_answered_with_what_to_write(before: str, after: str, help: str) -> None:
    assert before in PLAN
    text = PLAN.replace(before, after)
    assert [code for code, _ in found(text)] == ["GK003"]
    assert only(text) == (help,)


@pytest.mark.parametrize(
    ("before", "after", "help"),
    [
        ("lmbda = 0.5", "lmda = 0.5", ("did you mean `lmbda`?",)),
        ("lmbda = 0.5", "lambda = 0.5", ("it is called `distill.lmbda` here",)),
        ("steps = 2", "steps = 2\nlr = 1e-5", ("`lr` exists as `optimizer.lr`",)),
        ("steps = 2", "steps = 2\ntemperatur = 1", ("did you mean `distill.temperature`?",)),
        ("steps = 2", "max_steps = 2", ("it is called `run.steps` here",)),
        ("global = 4", "global_ = 4", ("did you mean `global`?",)),
        ("[cluster]", "[clutser]", ("did you mean `cluster`?",)),
        ("[cluster]", "pipeline = 2\n[cluster]", (
            "`pipeline` exists as `student.parallel.pipeline` or `teacher.parallel.pipeline`",
        )),
        ("[cluster]", '"a b" = 2\n[cluster]', ()),
    ],
)  # fmt: skip
def test_an_unknown_key_is_answered_with_the_nearest(
    before: str, after: str, help: tuple[str, ...]
) -> None:
    assert before in PLAN
    text = PLAN.replace(before, after)
    assert [code for code, _ in found(text)] == ["GK002"]
    assert only(text) == help


def test_an_unknown_key_is_underlined_and_not_its_value() -> None:
    (finding,) = load(PLAN.replace("lmbda = 0.5", "lmda = 0.5")).diagnostics
    assert finding.span is not None
    assert (finding.span.line, finding.span.column, finding.span.length) == (14, 1, 4)


def test_a_missing_key_points_at_its_table_or_at_the_first_line() -> None:
    text = PLAN.replace('[teacher]\nmodel = "models/tiny"\n', "[teacher]\n").replace(
        'name = "small"\n', ""
    )
    assert found(text) == [("GK004", "name"), ("GK004", "teacher.model")]
    lines = [finding.span.line for finding in load(text).diagnostics if finding.span]
    assert lines == [1, text.split("\n").index("[teacher]") + 1]


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        ("steps = 2", "steps = 2\nepochs = 1", "run.epochs"),
        ("keep = { layers = [0, 2] }", "", "student.init"),
        ('init = "layers"', "", "student.keep"),
        ("[0, 2]", "[2, 0]", "student.keep.layers[1]"),
        ("[0, 2]", "[0, 0]", "student.keep.layers[1]"),
        ("[teacher]", "[student.lora]\n[teacher]", "student.lora"),
        ("[batch]", '[student.recompute]\nmethod = "block"\n[batch]', "student.recompute.method"),
        ("[batch]", '[teacher.server]\nurl = "x"\n[teacher.parallel]\n[batch]', "teacher.parallel"),
        ("lmbda = 0.5", "top_k = 5", "distill.top_k"),
        ("lmbda = 0.5", 'payload = "top_k"', "distill.payload"),
        ("[batch]", '[generation]\nengine = "vllm"\nmode = "server"\n[batch]', "generation.mode"),
        (
            "[batch]",
            '[generation]\nmode = "server"\nserver_url = "http://x"\n[batch]',
            "generation.mode",
        ),
        ("[batch]", '[generation]\nserver_url = "http://x"\n[batch]', "generation.server_url"),
        ("[batch]", "[generation]\nstaleness = 1\n[batch]", "generation.staleness"),
        ("lr = 1e-4", "lr = 1e-4\nmin_lr = 1e-3", "optimizer.min_lr"),
        ("lr = 1e-4", 'min_lr = 1e-6\nschedule = "constant"', "optimizer.min_lr"),
    ],
)  # fmt: skip
def test_keys_that_contradict_each_other_are_found(before: str, after: str, path: str) -> None:
    assert before in PLAN
    assert found(PLAN.replace(before, after)) == [("GK006", path)]


def test_all_findings_come_at_once_in_the_order_of_the_text() -> None:
    text = PLAN.replace("tensor = 2", 'tensor = "2"').replace("steps = 2", "steps = 2\nepochs = 1")
    text = text.replace("lmbda = 0.5", "lmda = 0.5").replace('name = "small"\n', "")
    assert [code for code, _ in found(text)] == ["GK004", "GK003", "GK002", "GK006"]


@pytest.mark.parametrize(
    ("text", "line", "column", "help"),
    [
        ('name = "x"\ndtype = bf16\n', 2, 9, ('write `dtype = "bf16"`',)),
        ("on = True\n", 1, 6, ("write `on = true`",)),
        ("a = runs/x # where\n", 1, 5, ('write `a = "runs/x"`',)),
        ("name: x\n", 1, 5, ("a key and its value are parted by `=`: write `name = x`",)),
        ("a = 99999999999999999999\n", 1, 5, ()),
        ("a = [\n", 1, 6, ()),
    ],
)
def test_a_text_that_is_no_toml_is_one_finding_at_its_place(
    text: str, line: int, column: int, help: tuple[str, ...]
) -> None:
    (finding,) = load(text).diagnostics
    assert finding.code == "GK001"
    assert finding.span is not None
    assert (finding.span.line, finding.span.column) == (line, column)
    assert finding.help == help


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "9" * 5000, "a = 0x" + "f" * 5000])
def test_absurd_values_are_findings(text: str) -> None:
    assert [code for code, _ in found(text)] == ["GK001"]


def check_places(text: str, loaded: Loaded) -> None:
    """Every finding stands inside the text; there is a plan, or a reason for there being none."""
    lines = loaded.source.text.split("\n")
    assert (loaded.plan is None) == bool(loaded.diagnostics)
    for finding in loaded.diagnostics:
        span = finding.span
        assert span is not None
        assert 1 <= span.line <= len(lines)
        assert 1 <= span.column <= len(lines[span.line - 1]) + 1


@given(st.text())
def test_no_text_makes_loading_raise(text: str) -> None:
    check_places(text, load(text))


ODDITIES = '\n ] [[data]] { = " nan 0x1 . 1979-05-27 [student.keep] layers=["a"] """ # \x1b é -'
fragments = st.sampled_from([*PLAN.split(), *PLAN.splitlines(), *ODDITIES.split(" "), "\r"])


@given(st.data())
def test_no_mutation_of_a_plan_makes_loading_raise(data: st.DataObject) -> None:
    text = PLAN
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + data.draw(fragments | st.text(max_size=2)) + text[end:]
    check_places(text, load(text))


everything = st.recursive(
    st.integers() | st.floats() | st.booleans() | st.text("ab2", max_size=3) | st.dates(),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(st.data())
def test_no_value_at_any_key_makes_loading_raise(data: st.DataObject) -> None:
    keys = [line for line in PLAN.splitlines() if " = " in line]
    line = data.draw(st.sampled_from(keys))
    value = data.draw(everything)
    text = PLAN.replace(line, f"{line.partition(' = ')[0]} = {toml(value)}")
    assert tomllib.loads(text)
    check_places(text, load(text))


def toml(value: object) -> str:
    match value:
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case _:
            return str(value)


def test_the_places_of_a_plan_are_those_of_its_source() -> None:
    loaded = load(PLAN)
    assert loaded.source.places == Source.parse("plan.toml", PLAN).places
