#!/bin/bash
# Answers of the dataset only, 3.12's names.
export CUDA_VISIBLE_DEVICES=0,1,2,3
STUDENT="Qwen/Qwen2.5-1.5B-Instruct"
rows=${ROWS:-500}
NPROC_PER_NODE=4 megatron rlhf --rlhf_type gkd \
    --model "$STUDENT" \
    --teacher_model Qwen/Qwen2.5-7B-Instruct \
    --train_type full \
    --dataset "data/rows.jsonl#${rows}" 'data/more.jsonl' \
    --val_dataset data/held_out.jsonl \
    --load_safetensors true --save_safetensors true \
    --use_vllm false \
    --lmbda 0 --beta 0.1 --temperature 1.0 --sft_alpha 0.25 \
    --pipeline_model_parallel_size 2 \
    --micro_batch_size 2 --global_batch_size 16 --max_epochs 2 \
    --recompute_granularity full --recompute_method uniform --recompute_num_layers 1 \
    --lr 2e-5 --min_lr=2e-6 --lr_decay_style linear --lr_warmup_fraction 0.05 \
    --weight_decay 0.05 --adam_beta2 0.98 --clip_grad 0.5 \
    --max_length 1536 --max_completion_length 384 --truncation_strategy right \
    --save runs/off-policy --save_interval 50 --save_total_limit 3 --log_interval 1 \
    --num_workers 2 --dataset_num_proc 4 --attention_backend flash --seed 7 \
    2>&1 | tee off_policy.log
