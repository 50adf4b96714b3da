"""What the machine can do: its identity, the catalogue of devices, measured roofs."""
