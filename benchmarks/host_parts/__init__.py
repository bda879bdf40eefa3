"""What `benchmarks/host.py` measures, part by part."""
