"""What the stages of an iteration do with data: prompts, answers, ranks, pairs, shards, scores. Pure and cold."""
