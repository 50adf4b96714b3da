"""What is measured while a command trains: beside its processes and inside them."""
