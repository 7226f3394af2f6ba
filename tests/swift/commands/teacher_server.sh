# A teacher behind a server, which gives its likeliest ids.
top_k=32
CUDA_VISIBLE_DEVICES=1,2 \
NPROC_PER_NODE=2 \
megatron rlhf \
    --rlhf_type gkd \
    --model Qwen/Qwen2.5-1.5B-Instruct \
    --teacher_model_server http://127.0.0.1:8000 \
    --gkd_logits_topk $top_k \
    --dataset data/rows.jsonl \
    --vllm_mode server --vllm_server_host 127.0.0.1 --vllm_server_port 8001 \
    --vllm_server_timeout 600 \
    --micro_batch_size 2 --global_batch_size 32 --train_iters 500 --lr 5e-5 \
    --max_length 2048 --max_completion_length 512
