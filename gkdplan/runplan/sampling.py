"""How responses are drawn, and the engine that draws them."""

from dataclasses import dataclass

from gkdplan.vocab import Engine


@dataclass(frozen=True, slots=True)
class VllmPlan:
    """An engine of `tensor` ranks on the ranks that train; bytes are those of one rank.

    `max_model_len` counts the tokens of a prompt and its response. The kv cache is `num_blocks`
    blocks of `block_tokens` tokens, of which vllm keeps one back. At a `sleep_level` of 0 the
    engine stays on the device between uses; at 1 its weights wait on the host, at 2 nowhere, and
    the cache is dropped. Of a model that sees, a prompt shows `max_images` images at most, and each
    takes `image_tokens` tokens at most, all of them `prompt_image_tokens`.
    """

    tensor: int
    gpu_memory_utilization: float
    sleep_level: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    graph_bytes: int
    block_tokens: int
    num_blocks: int
    kv_cache_bytes: int
    max_images: int = 0
    image_tokens: int = 0
    prompt_image_tokens: int = 0

    @property
    def encoder_tokens(self) -> int:
        """Of images whose features are kept at one time, and that are looked at in one forward
        (vllm/v1/core/encoder_cache_manager.py, compute_mm_encoder_budget)."""
        return max(self.max_num_batched_tokens, self.image_tokens) if self.max_images else 0

    @property
    def capacity_tokens(self) -> int:
        return max(0, self.num_blocks - 1) * self.block_tokens

    @property
    def num_sequences(self) -> int:
        """Of full length that the cache holds at one time."""
        blocks_of_one = -(-self.max_model_len // self.block_tokens)
        return max(0, self.num_blocks - 1) // blocks_of_one


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What `gkdplan serve` starts a server with. `max_model_len` counts the tokens of a prompt and
    its response; of a share of memory or a cache that is None vllm decides. Of a model that sees, a
    prompt shows `max_images` images at most, of `image_tokens` tokens at most."""

    max_model_len: int
    max_num_seqs: int
    max_logprobs: int
    tensor: int
    gpu_memory_utilization: float | None
    kv_cache_bytes: int | None
    max_images: int = 0
    image_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses of at most `max_completion_length` tokens are drawn: docs/sampling.md.

    With vllm the student's weights travel to the engine in buckets of `refit_bucket_bytes` before
    it samples; `vllm` is the engine on the ranks, None where servers at `server_urls` share the
    prompts, and ask for a key where `server_key` says so. When none answers any more, one has
    `server_patience_s` seconds to come back. With a `staleness` of 1 they draw a step's samples
    while the step before trains.
    """

    engine: Engine
    temperature: float
    top_p: float
    top_k: int | None
    max_completion_length: int
    server_urls: tuple[str, ...] = ()
    server_key: bool = True
    server_patience_s: float = 180.0
    staleness: int = 0
    refit_bucket_bytes: int = 0
    vllm: VllmPlan | None = None
