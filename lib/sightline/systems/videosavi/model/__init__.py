"""InternVL2.5 through transformers' own implementation: configuration and weights of the released checkpoints."""
