"""A vLLM engine inside the ranks that train, one on each `tensor` of them in a row (vLLM 0.32)."""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gkdplan.runplan.sampling import Sampling, VllmPlan
from gkdplan.runtime.rollout.answers import checked, logits_are_not_finite
from gkdplan.runtime.rollout.engine import Completion, NamedTensor, Request
from gkdplan.runtime.rollout.images import (
    engine_input,
    options_for_images,
    under_names_of_vllm,
)
from gkdplan.runtime.rollout.latents import options_for_latents
from gkdplan.runtime.rollout.packed_experts import pack_experts_anew
from gkdplan.runtime.rollout.shared_memory import own_shared_memory
from gkdplan.vision import VisionShape
from gkdplan.vocab import Dtype, Tier

WEIGHTS, KV_CACHE = "vllm weights", "kv cache"
"""What the schedule calls the parts of an engine that sleeps."""
_TAGS = {WEIGHTS: "weights", KV_CACHE: "kv_cache"}
"""What vLLM calls them."""
_DTYPES = {Dtype.FP32: "float32", Dtype.BF16: "bfloat16"}
_NOT_ASKED = 0.01
"""Of the device's memory that vLLM asks for as it starts. The cache's bytes are the plan's, so the
share decides nothing; at the plan's own share vLLM would not start beside a model that trains."""


class ColocatedEngine:
    """A RolloutEngine of vLLM's `LLM`, without a process, a port or a tokenizer of its own.

    It starts with arbitrary weights; `refit` brings all of them before the first sample.
    """

    def __init__(
        self,
        plan: VllmPlan,
        config: Mapping[str, Any],
        *,
        dtype: Dtype,
        seed: int,
        names: Collection[str],
        vocab_size: int,
        num_rows: int,
        stop_ids: Collection[int],
        rank: int,
        world_size: int,
        device: torch.device,
        vision: VisionShape | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        """Collective over the default process group, which is up already.

        `config` is the student's config.json, `names` its tensors. Of the `num_rows` ids of its
        head those from `vocab_size` on are padding and never sampled; `stop_ids` end a response.
        Of a model with `vision` vLLM opens tokenizer and image processor, which are `files`.
        """
        self._plan = plan
        self._vision = vision
        self._names = frozenset(names)
        self._vocab_size = vocab_size
        self._padding = num_rows - vocab_size
        self._stop_ids = sorted(stop_ids)
        self._place, self._num_engines = rank // plan.tensor, world_size // plan.tensor
        self._device = device
        self._version = -1
        with self._apart():
            self._llm = _start(plan, config, vision, files, dtype, seed, device)
            if plan.sleep_level:
                self._llm.sleep(level=plan.sleep_level)

    def refit(self, tensors: Iterator[NamedTensor], version: int) -> None:
        """One tensor at a time; vLLM keeps those of a module until it has them all."""
        seen: set[str] = set()
        with self._apart():
            if self._device.type == "cpu":
                pack_experts_anew(self._runner.model)
            weights = under_names_of_vllm(self._vision, _noted(tensors, seen))
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            if self._device.type == "cpu":
                _pack_tied_head(self._runner.model)
            assert seen == self._names, f"a refit of other tensors: {sorted(seen ^ self._names)}"
            assert self._llm.reset_prefix_cache(), "vllm still holds prompts of the old weights"
            self._llm.llm_engine.set_weight_version(str(version))
        self._version = version

    def share(self, num_rows: int) -> range:
        """Every so-manieth row, for all ranks of an engine alike."""
        return range(self._place, num_rows, self._num_engines)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        if not requests:
            return []
        with self._apart():
            for number, request in enumerate(requests):
                settings = self._settings(request.seed, sampling)
                self._llm.llm_engine.add_request(str(number), engine_input(request), settings)
            try:
                outputs = self._llm.wait_for_completion(use_tqdm=False)
            except RuntimeError as failure:
                if "NaNs detected in logits" in str(failure):
                    raise logits_are_not_finite("vllm") from failure
                raise
            self._llm.llm_engine.reset_encoder_cache()  # of images no feature outlives its weights
        completions = [_completion(output.outputs[0]) for output in outputs]
        return checked(completions, self._vocab_size, self._version, "vllm")

    def apply(self, name: str, tier: Tier) -> None:
        """Let the weights or the cache come to the device; they leave it together."""
        with self._apart():
            if tier is Tier.DEVICE:
                self._llm.wake_up(tags=[_TAGS[name]])
            elif name == WEIGHTS:
                self._llm.sleep(level=self._plan.sleep_level)

    def resident_tensors(self) -> list[Tensor]:
        """The cache and the weights, but for those that vLLM packs for a CPU: no tensors then."""
        runner = self._runner
        return [*runner.kv_caches, *runner.model.parameters(), *runner.model.buffers()]

    @property
    def _runner(self) -> Any:
        return self._llm.llm_engine.model_executor.driver_worker.model_runner

    def close(self) -> None:
        """It ends with its process: vLLM's own shutdown would take torch's default group along."""

    def _settings(self, seed: int, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            seed=seed,
            max_tokens=sampling.max_completion_length,
            stop_token_ids=self._stop_ids,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            allowed_token_ids=list(range(self._vocab_size)) if self._padding else None,
        )

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """vLLM seeds torch's generators and compiles where no GPU is: neither reaches training."""
        on_gpu = self._device.type == "cuda"
        eager: AbstractContextManager[Any] = (
            nullcontext() if on_gpu else torch.compiler.set_stance("force_eager")
        )
        with torch.random.fork_rng([self._device] if on_gpu else []), torch.no_grad(), eager:
            yield


def _start(
    plan: VllmPlan,
    config: Mapping[str, Any],
    vision: VisionShape | None,
    files: Sequence[Path],
    dtype: Dtype,
    seed: int,
    device: torch.device,
) -> Any:
    _set_environment()
    from vllm import LLM

    on_gpu = device.type == "cuda"
    with (
        nullcontext() if on_gpu else own_shared_memory(),
        tempfile.TemporaryDirectory(prefix="gkdplan-vllm-") as directory,
    ):
        Path(directory, "config.json").write_text(json.dumps(config), encoding="utf-8")
        for file in files:
            shutil.copy(file, directory)
        return LLM(
            model=directory,
            skip_tokenizer_init=vision is None,
            trust_remote_code=False,
            load_format="dummy",
            dtype=_DTYPES[dtype],
            seed=seed,
            tensor_parallel_size=plan.tensor,
            distributed_executor_backend="external_launcher",
            max_model_len=plan.max_model_len,
            max_num_seqs=plan.max_num_seqs,
            max_num_batched_tokens=plan.max_num_batched_tokens,
            kv_cache_memory_bytes=plan.kv_cache_bytes,
            gpu_memory_utilization=_NOT_ASKED,
            enable_sleep_mode=plan.sleep_level > 0,
            enforce_eager=not on_gpu,
            disable_log_stats=True,
            **options_for_images(vision, plan.max_images, plan.image_tokens),
            **options_for_latents(has_latents="kv_lora_rank" in config, on_gpu=on_gpu),
        )


def _set_environment() -> None:
    """Read as vllm is imported: no statistics sent, no chatter, threads as the launcher set them,
    and an error where logits are not finite."""
    for name, value in {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "CRITICAL",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_RAISE_ON_LOGIT_NANS": "1",
    }.items():
        os.environ.setdefault(name, value)


def _pack_tied_head(model: Any) -> None:
    """On a CPU vLLM multiplies with a packed copy of a linear layer's weight, made anew where the
    layer's weight is loaded: a tied head loads none (vllm/model_executor/layers/utils.py,
    dispatch_cpu_unquantized_gemm), but where the embedding itself is the head, as in Gemma 2."""
    decoder = getattr(model, "language_model", model)
    if decoder.config.tie_word_embeddings and hasattr(decoder, "lm_head"):
        decoder.lm_head.quant_method.process_weights_after_loading(decoder.lm_head)


def _noted(tensors: Iterator[NamedTensor], seen: set[str]) -> Iterator[NamedTensor]:
    for name, tensor in tensors:
        seen.add(name)
        yield name, tensor


def _completion(output: Any) -> Completion:
    """Its tokens; a response that two versions have drawn has none."""
    versions = {span.version for span in output.weight_versions or ()}
    version = int(versions.pop()) if len(versions) == 1 else -1
    return Completion(tuple(output.token_ids), version)
