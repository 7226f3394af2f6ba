"""Generation: vLLM on the ranks, on servers, or none."""

from collections.abc import Iterator

from gkdplan.swift.command import Flag
from gkdplan.swift.given import Given
from gkdplan.swift.said import DEFAULT, Loss, Said

ROLLOUT_SERVER = "http://127.0.0.1:8000"


def sampling(given: Given) -> Iterator[Said | Loss]:
    """The table `[generation]`, and what leaves the device while samples are drawn."""
    uses_vllm = given.flag("use_vllm")
    if not given.truth("use_vllm", default=True):
        yield Said("generation.engine", "none", uses_vllm)
        lmbda = given.flag("lmbda")
        if lmbda and given.number("lmbda"):
            yield Loss(lmbda, "without vllm no step learns from samples")
        yield Said("distill.lmbda", 0.0, "without vllm no step learns from samples")
        return
    yield Said("generation.engine", "vllm", uses_vllm or DEFAULT)
    yield from _server(given) if _is_served(given) else _colocated(given)
    top_k = given.count("top_k")
    if top_k is not None and top_k > 0:
        yield Said("generation.top_k", top_k, given.flag("top_k"))
    if given.truth("offload_model"):
        yield Said("student.offload", "cpu", given.flag("offload_model"))


def _is_served(given: Given) -> bool:
    return given.text("vllm_mode") == "server" or not given.command.colocated


def _server(given: Given) -> Iterator[Said | Loss]:
    yield Said("generation.mode", "server", given.flag("vllm_mode") or "rollout has its own GPUs")
    urls, hosts = given.texts("vllm_server_base_url"), given.texts("vllm_server_host")
    ports = given.texts("vllm_server_port") or ("8000",) * len(hosts)
    source: Flag | str | None = "start it with `gkdplan serve`"
    if urls:
        source = given.flag("vllm_server_base_url")
    elif hosts:
        urls = tuple(f"http://{host}:{port}" for host, port in zip(hosts, ports, strict=False))
        source = given.flag("vllm_server_host")
    urls = urls or (ROLLOUT_SERVER,)
    yield Said("generation.server_url", list(urls) if len(urls) > 1 else urls[0], source)
    for name in ("vllm_gpu_memory_utilization", "vllm_tensor_parallel_size", "sleep_level"):
        flag = given.flag(name)
        if flag:
            yield Loss(flag, "the server's own: `gkdplan serve` takes it")


def _colocated(given: Given) -> Iterator[Said | Loss]:
    given.flag("vllm_mode")
    share = given.number("vllm_gpu_memory_utilization")
    tensor = given.count("vllm_tensor_parallel_size")
    yield Said(
        "generation.gpu_memory_utilization",
        0.9 if share is None else share,
        given.flag("vllm_gpu_memory_utilization") or DEFAULT,
    )
    yield Said(
        "generation.tensor",
        1 if tensor is None else tensor,
        given.flag("vllm_tensor_parallel_size") or DEFAULT,
    )
    level = given.count("sleep_level")
    if level is not None:
        yield Said("generation.sleep_level", level, given.flag("sleep_level"))
