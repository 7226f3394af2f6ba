# Adapters over context and pipeline ranks.
NNODES=2 NPROC_PER_NODE=8 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 NODE_RANK=0 \
megatron rlhf \
    --rlhf_type gkd \
    --model Qwen/Qwen2.5-7B-Instruct \
    --teacher_model Qwen/Qwen2.5-7B-Instruct \
    --tuner_type lora --lora_rank 16 --lora_alpha 64 --target_modules all-linear \
    --dataset data/rows.jsonl \
    --context_parallel_size 2 --pipeline_model_parallel_size 2 \
    --decoder_first_pipeline_num_layers 15 --decoder_last_pipeline_num_layers 13 \
    --use_vllm false --lmbda 0 \
    --micro_batch_size 1 --global_batch_size 16 --num_train_epochs 1 \
    --max_length 8192 --max_completion_length 2048 \
    --merge_lora true --packing true --tp_comm_overlap true --report_to tensorboard swanlab
