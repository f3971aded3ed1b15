"""The parts of `benchmarks.ipc_floor`: subjects in Node and Python, and what is asked of them."""
