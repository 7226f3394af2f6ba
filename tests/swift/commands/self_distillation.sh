# No teacher is named: the student learns from itself as it starts.
NPROC_PER_NODE=4 \
megatron rlhf --rlhf_type gkd \
    --model Qwen/Qwen2.5-3B-Instruct \
    --external_plugins plugin.py \
    --dataset data/rows.jsonl \
    --vllm_mode colocate --vllm_gpu_memory_utilization 0.3 --sleep_level 1 \
    --lmbda 1.0 --beta 0.5 --temperature 1.2 \
    --micro_batch_size 1 --global_batch_size 32 --train_iters 100 --lr 2e-5 \
    --max_length 1024 --max_completion_length 1024
