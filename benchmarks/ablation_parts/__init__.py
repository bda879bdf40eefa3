"""What `benchmarks/ablations.py` is made of, a module for each part."""
