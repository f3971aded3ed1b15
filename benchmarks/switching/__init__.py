"""What the benchmark of model switches is made of."""
