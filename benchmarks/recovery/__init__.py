"""The parts of `benchmarks.resilience`: what guarding a call costs, and what a failure costs."""
