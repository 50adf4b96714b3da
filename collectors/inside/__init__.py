"""What runs inside a training process: a guest that never raises, waits or keeps a tensor."""
