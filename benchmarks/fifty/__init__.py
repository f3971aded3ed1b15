"""The parts of `benchmarks.fifty_questions`: questions, models, the four sides, passes, tables."""
