"""Put on PYTHONPATH by the launcher; holds nothing but the bootstrap."""
