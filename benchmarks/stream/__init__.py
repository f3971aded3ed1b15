"""The parts of `benchmarks.streaming`: a Node program with several streams, and what is asked."""
