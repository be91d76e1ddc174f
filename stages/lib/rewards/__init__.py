"""What reward and rl share: the reward model, rewards as functions of answers, the questions that rl asks."""
