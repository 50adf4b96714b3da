"""boundscope: says what a PyTorch training run is bound by, proves it, and says what to do."""

__version__ = "0.1.0"

__all__ = ["__version__"]
