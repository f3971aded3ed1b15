"""The parts of `benchmarks.cache_states`: sessions that are cold, warm and hot, beside mlx-lm."""
