"""The engine: the one thread that touches MLX, its scheduler, and how tokens are made."""
