"""Which truth: images with true label maps, as the benchmarks are published."""
