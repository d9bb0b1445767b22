"""The alert rules and channels: what `alerts.toml` says, as every room knows it. Imports no room."""
