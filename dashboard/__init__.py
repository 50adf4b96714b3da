"""The dashboard: recorded runs in a browser. Needs the extra `dashboard`."""
