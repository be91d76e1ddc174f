"""What sft, dpo and orpo share: token rows, the plan for this machine, the trainer, checkpoints."""
