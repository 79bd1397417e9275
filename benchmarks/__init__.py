"""What helperd costs, beside what cannot be avoided: `python -m benchmarks`."""
