"""`artv bench`: how fast this machine makes frames, also in comparison with other methods."""
