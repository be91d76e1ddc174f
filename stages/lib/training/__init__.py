"""What sft, dpo and preference share: token rows, the plan for this machine, the trainer, checkpoints."""
