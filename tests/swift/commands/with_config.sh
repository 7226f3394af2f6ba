# What the command line says stands above its YAML.
NPROC_PER_NODE=2 megatron rlhf --config flags.yaml --beta 0.9
