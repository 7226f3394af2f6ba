# Several turns, which a plan has not.
NPROC_PER_NODE=2 \
megatron rlhf --rlhf_type gkd \
    --model Qwen/Qwen2.5-1.5B-Instruct --teacher_model Qwen/Qwen2.5-3B-Instruct \
    --tuner_type lora \
    --dataset data/rows.jsonl \
    --use_vllm true --vllm_gpu_memory_utilization 0.3 --sleep_level 1 --lmbda 1 \
    --multi_turn_scheduler math_tip_trick --max_turns 2 --enable_thinking false \
    --loss_scale last_round --a_flag_of_tomorrow 3 \
    --micro_batch_size 2 --global_batch_size 16 --num_train_epochs 1 --lr 5e-6 \
    --max_length 1024 --max_completion_length 512
