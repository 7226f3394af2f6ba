"""vLLM's own server, started for a plan: this process becomes it."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from gkdplan.diagnostics import UserError, error
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.models import ModelPlan
from gkdplan.runplan.sampling import ServerLimits
from gkdplan.runtime.http_server import API_KEY
from gkdplan.runtime.model_files import model_directory
from gkdplan.runtime.rollout.images import options_for_images
from gkdplan.runtime.rollout.latents import options_for_latents
from gkdplan.runtime.student_config import DTYPE_NAMES, write_config
from gkdplan.vocab import Role

ROLLOUT = "gkdplan.runtime.rollout"
NOWHERE = "nowhere.invalid"
"""A domain that there is none of (RFC 2606)."""
DEFAULT_PORTS = {"http": 80, "https": 443}


def become_server(
    run_plan: RunPlan, role: Role, url: str, limits: ServerLimits, key: str | None
) -> NoReturn:
    """Replace this process by the server, with the program of `command`; a signal ends it and all
    that it started.

    Raises UserError where vllm is not installed (GK507) or the model is not here (GK516).
    """
    if find_spec("vllm") is None:
        raise UserError(
            error(
                "GK507",
                "serving needs `vllm`, which is not installed",
                help=("install it with `pip install 'gkdplan[vllm]'`",),
            )
        )
    model: ModelPlan = getattr(run_plan.models, role)
    arguments = [*command(run_plan, role, url, limits, is_guarded=key is not None)]
    arguments += _model(role, model)
    os.execve(sys.executable, [sys.executable, "-m", *arguments], environment(role, run_plan, key))


def command(
    run_plan: RunPlan, role: Role, url: str, limits: ServerLimits, *, is_guarded: bool
) -> Iterator[str]:
    """The module and its options but for the model's; the key travels in the environment, where
    no list of processes shows it."""
    model: ModelPlan = getattr(run_plan.models, role)
    parts = urlsplit(url)
    backend = run_plan.layout.backend
    yield "vllm.entrypoints.openai.api_server"
    yield from ("--host", parts.hostname or "")
    yield from ("--port", str(parts.port or DEFAULT_PORTS[parts.scheme]))
    yield from ("--dtype", DTYPE_NAMES[model.dtype])
    yield from ("--max-model-len", str(limits.max_model_len))
    yield from ("--max-num-seqs", str(limits.max_num_seqs))
    yield from ("--max-logprobs", str(limits.max_logprobs))
    yield from ("--tensor-parallel-size", str(limits.tensor))
    yield from ("--generation-config", "vllm")
    yield from ("--served-model-name", run_plan.name)
    if limits.gpu_memory_utilization is not None:
        yield from ("--gpu-memory-utilization", str(limits.gpu_memory_utilization))
    if limits.kv_cache_bytes is not None:
        yield from ("--kv-cache-memory-bytes", str(limits.kv_cache_bytes))
    if backend == "gloo":
        yield "--enforce-eager"
    has_latents = model.shape.latent is not None
    yield from _as_options(options_for_latents(has_latents=has_latents, on_gpu=backend == "nccl"))
    if model.shape.vision is not None:
        yield from _sight(
            options_for_images(model.shape.vision, limits.max_images, limits.image_tokens)
        )
    if is_guarded:
        yield from ("--middleware", f"{ROLLOUT}.server_key.KeyOnEveryRoute")
    if role is Role.STUDENT or model.shape.vision is not None:
        yield "--enable-scale-out"
    if role is Role.STUDENT:
        yield from ("--weight-transfer-config", json.dumps({"backend": backend}))
        yield from ("--worker-extension-cls", f"{ROLLOUT}.worker_extension.WorkerExtension")


def _sight(options: Mapping[str, Any]) -> Iterator[str]:
    """As options of the command, and no address from which its other routes may fetch an image."""
    yield from ("--allowed-media-domains", NOWHERE)
    yield from _as_options(options)


def _as_options(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        else:
            yield from (f"--{option}", value if isinstance(value, str) else json.dumps(value))


def environment(role: Role, run_plan: RunPlan, key: str | None) -> dict[str, str]:
    """This process's, with the key in it or without one, no network for files that are here, and
    the routes that take weights for a student."""
    variables = {name: value for name, value in os.environ.items() if name != API_KEY}
    variables.setdefault("HF_HUB_OFFLINE", "1")
    variables.setdefault("VLLM_NO_USAGE_STATS", "1")
    if key is not None:
        variables[API_KEY] = key
    if role is Role.STUDENT:
        variables["VLLM_SERVER_DEV_MODE"] = "1"
    if run_plan.layout.backend == "gloo":
        variables.setdefault("TORCH_COMPILE_DISABLE", "1")
    return variables


def _model(role: Role, model: ModelPlan) -> list[str]:
    """The model's directory; of a student that begins otherwise, that sees, or whose config leaves
    to transformers what vllm reads, one with its shape and no weights, as they travel to the server
    before it samples."""
    source = model_directory(role, model.model, model.revision)
    is_plain = model.shape.vision is None and model.shape.latent is None
    if role is Role.TEACHER or (model.init == "pretrained" and is_plain):
        return ["--model", str(source)]
    directory = Path(tempfile.mkdtemp(prefix="gkdplan-student-"))
    write_config(model, source, directory)
    return ["--model", str(directory), "--load-format", "dummy"]
