"""The pages, one a file: what to show and where; what it says comes from `profiler`."""
