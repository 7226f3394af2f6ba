"""A command of ms-swift's `megatron rlhf --rlhf_type gkd` -> a plan.

`shell` and `yaml_file` read what a person has, `flags` gives every flag one name, `translation`
says which key of a plan each is, `remarks` why others are none, and `plan_text` writes the plan.
"""
