"""The dashboard: the report's page in a browser on this machine, with live data."""
