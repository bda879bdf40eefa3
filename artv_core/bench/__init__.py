"""`artv bench`: how fast this machine makes frames, and how fast peers do on it."""
