"""Run MLX language models from Node: one Python runtime, many requests, one pipe.

This package is the runtime (`isthmus runtime`) and a Python host for it (`isthmus.host`).
Importing it imports neither mlx nor mlx_lm.
"""

__version__ = "0.1.0"
