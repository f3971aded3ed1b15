"""The parts of `benchmarks.peers`: published packages that do the same work from Node to Python."""
