"""What `gkdplan serve` adds to the workers of vLLM's server: weight transfer over gloo, and the
sizes of its model.

vllm 0.32 has backends of weight transfer for CUDA only. Named as `--worker-extension-cls`, this
module is imported in each worker before its engine of weight transfer is made, which is when it
registers one.
"""

from datetime import timedelta
from math import prod

import torch
import torch.distributed as dist
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferInitInfo,
    NCCLWeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.packed_tensor import unpack_tensor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

from gkdplan.runtime.rollout.packed_experts import pack_experts_anew
from gkdplan.runtime.rollout.servers import SIZES

BACKEND = "gloo"
JOIN_LIMIT = timedelta(seconds=60)
"""For all to meet, and for one bucket to travel."""


class GlooWeightTransferEngine(NCCLWeightTransferEngine):
    """As vLLM's own for nccl, packed: each update is one broadcast of bytes from rank 0."""

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        parallel = self.parallel_config
        rank = parallel.data_parallel_index * parallel.world_size + parallel.rank
        store = dist.TCPStore(
            init_info.master_address, init_info.master_port, is_master=False, timeout=JOIN_LIMIT
        )
        self.model_update_group = dist.ProcessGroupGloo(
            store, rank + init_info.rank_offset, init_info.world_size, JOIN_LIMIT
        )

    def update_weights(self, update_info: dict) -> None:
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        dtypes = [getattr(torch, name) for name in update_info.dtype_names]
        shapes = update_info.shapes
        sizes = [prod(s) * dtype.itemsize for s, dtype in zip(shapes, dtypes, strict=True)]
        packed = torch.empty(sum(sizes), dtype=torch.uint8)
        self.model_update_group.broadcast([packed], dist.BroadcastOptions()).wait()
        self.model.load_weights(unpack_tensor(packed, update_info.names, shapes, dtypes, sizes))

    def start_weight_update(self) -> None:
        pack_experts_anew(self.model)
        super().start_weight_update()

    def finish_weight_update(self) -> None:
        """A tied head has no tensor of its own, so vLLM leaves what a CPU has packed of the old
        one: it is packed again (vllm/model_executor/layers/vocab_parallel_embedding.py)."""
        super().finish_weight_update()
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        self.model_update_group = None


class WorkerExtension:
    """What a worker can be asked for beside vLLM's own."""

    def gkdplan_model_sizes(self) -> dict[str, int | bool | str]:
        """Of the server's config.json, those of `servers.SIZES`, and the dtype: tensors of other
        sizes are cut to these by vLLM, and nothing is said. Whether a head is tied the config of
        the whole model says, where it sees."""
        whole, decoder = self.model_config.hf_config, self.model_config.hf_text_config
        names = (*SIZES, "intermediate_size")
        sizes = {name: getattr(decoder, name, None) for name in names}
        sizes["tie_word_embeddings"] = getattr(whole, "tie_word_embeddings", None)
        return sizes | {"dtype": str(self.model_config.dtype).removeprefix("torch.")}


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, GlooWeightTransferEngine)
