# vLLM on the ranks that train.
PYTORCH_CUDA_ALLOC_CONF='expandable_segments:True' \
NPROC_PER_NODE=8 \
CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 \
megatron rlhf \
    --rlhf_type gkd \
    --model Qwen/Qwen2.5-3B-Instruct --teacher_model Qwen/Qwen2.5-7B-Instruct \
    --dataset data/rows.jsonl \
    --tensor_model_parallel_size 2 --sequence_parallel \
    --use_vllm true --vllm_mode colocate --vllm_gpu_memory_utilization 0.4 \
    --vllm_tensor_parallel_size 2 --vllm_max_model_len 4096 --sleep_level 2 \
    --lmbda 1 --beta 1.0 --temperature 0.8 --top_p 0.95 --top_k 50 \
    --torch_dtype bfloat16 \
    --micro_batch_size 1 --global_batch_size 32 --train_iters 400 --lr_warmup_iters 20 \
    --max_length 2048 --max_completion_length 1024 \
    --offload_teacher_model true --offload_model true --offload_optimizer true \
    --finetune --no_save_optim --no_save_rng \
    --steps_per_generation 4 --repetition_penalty 1.05 --log_completions true
