"""``scripts/gpu_check.py``: what is checked on a GPU, word by word, and timed against the libraries there."""
