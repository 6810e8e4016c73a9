"""What `race.py`, `train_cpu.py` and `train_cuda.py` share: one way to run, time and score our engine and its peers."""
