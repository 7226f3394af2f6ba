"""Servers of vLLM that are killed while they sample: nothing is lost or doubled."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import vllm_servers
from test_served_engine import (
    GREEDY,
    ON_POLICY,
    PLAN,
    engine,
    greedy,
    make_home,
    requests_of,
    tensors,
)
from tiny_plans import plan_text

from gkdplan.diagnostics import UserError
from gkdplan.runplan.sampling import Sampling
from gkdplan.runtime.rollout.engine import Request
from gkdplan.runtime.rollout.served import ServedEngine
from gkdplan.runtime.saved.run_directory import read_metrics
from gkdplan.vocab import Engine

pytestmark = [pytest.mark.grid, pytest.mark.timeout(900)]

LONG = Sampling(Engine.VLLM, 1.0, 1.0, None, 60)
COMMAND = (sys.executable, "-c", "from gkdplan.cli.main import main; main()", "run", "plan.toml")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def pair(home) -> Iterator[list[vllm_servers.VllmServer]]:
    """Two of one plan, up or killed."""
    urls = [vllm_servers.free_url() for _ in range(2)]
    plan = home / "two.toml"
    plan.write_text(PLAN.format(home=home, url=json.dumps(urls)))
    started = [vllm_servers.start(plan, url) for url in urls]
    try:
        yield started
    finally:
        for server in started:
            server.kill()


@pytest.fixture
def servers(pair) -> list[vllm_servers.VllmServer]:
    """The two, both up: what a test has killed is started again."""
    for place, server in enumerate(pair):
        if server.process.poll() is not None:
            pair[place] = vllm_servers.start(server.plan, server.url)
    return [server.wait_until_up() for server in pair]


def test_two_servers_share_the_prompts_and_give_what_one_gives(servers, home):
    weights, urls = tensors(home / "trained"), [server.url for server in servers]
    asked = [Request((5, 6, 7, 10 + i), i) for i in range(40)]
    drawn = []
    for some in (urls, urls[:1]):
        served = engine(*some, weights=weights)
        served.refit(iter(weights.items()), 1)
        drawn.append(served.generate(asked, GREEDY))
        served.close()
    assert drawn[0] == drawn[1]
    for server in servers:
        assert server.log.read_text().count('/inference/v1/generate HTTP/1.1" 200') > 5


def _generate_and_kill(
    served: ServedEngine, asked: list[Request], victims: list[vllm_servers.VllmServer]
) -> tuple[threading.Thread, list]:
    """Begin to generate, and kill once the first answers are there."""
    results: list = []

    def generate() -> None:
        try:
            results.append(served.generate(asked, LONG))
        except UserError as failure:
            results.append(failure)

    thread = threading.Thread(target=generate)
    thread.start()
    deadline = time.monotonic() + 60
    while not any("generate HTTP" in victim.log.read_text() for victim in victims):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for victim in victims:
        victim.kill()
    return thread, results


def test_prompts_of_a_killed_server_go_to_the_other(servers, home):
    weights, told = tensors(home / "trained"), []
    served = engine(*(s.url for s in servers), weights=weights, tell=told.append)
    served.refit(iter(weights.items()), 1)
    asked = [Request((5, 6, 7, i % 290), i) for i in range(400)]
    thread, results = _generate_and_kill(served, asked, [servers[0]])
    thread.join(timeout=300)
    (drawn,) = results
    assert [type(completion).__name__ for completion in drawn] == ["Completion"] * 400
    assert any(servers[0].url in line for line in told)
    served.refit(iter(weights.items()), 2)  # the other goes on
    assert {c.weights_version for c in served.generate(requests_of(), GREEDY)} == {2}
    served.close()


def test_a_server_that_comes_back_is_sent_its_weights_again(pair, servers, home):
    weights = tensors(home / "trained")
    servers[1].kill()
    served = engine(servers[0].url, weights=weights, patience_s=240.0)
    served.refit(iter(weights.items()), 1)
    asked = [Request((5, 6, 7, i % 290), i) for i in range(400)]
    thread, results = _generate_and_kill(served, asked, [servers[0]])
    pair[0] = vllm_servers.start(servers[0].plan, servers[0].url)
    thread.join(timeout=400)
    (drawn,) = results
    assert len(drawn) == 400
    prompts = [request.prompt for request in asked[:4]]
    found = served.generate(requests_of(prompts), GREEDY)
    assert [list(c.tokens) for c in found] == [
        greedy(home / "trained", prompt, 12) for prompt in prompts
    ]
    served.close()


def test_a_run_whose_servers_are_gone_stops_and_can_be_resumed(servers, home, tmp_path):
    urls = json.dumps([server.url for server in servers])
    generation = f'engine = "vllm"\nmode = "server"\nserver_url = {urls}\nserver_patience_s = 3.0'
    changes = ON_POLICY | {"generation": generation, "save_interval": 2, "steps": 200}
    (tmp_path / "plan.toml").write_text(plan_text(home, tmp_path / "run", **changes))
    environment = {**vllm_servers.os.environ, **vllm_servers.ENVIRONMENT}
    process = subprocess.Popen(
        COMMAND, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while len(read_metrics(metrics)) < 5:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for server in servers:
        server.kill()
    killed_s = time.monotonic()
    err = process.communicate(timeout=120)[1]
    assert time.monotonic() - killed_s < 60
    assert process.returncode == 4, err
    assert "error[GK546]" in err
    lines = [line for line in read_metrics(metrics) if "loss" in line]
    drawn = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").open()]
    rows = [(line["step"], line["row"]) for line in drawn]
    assert len(rows) == len(set(rows)) >= 8 * len(lines)
