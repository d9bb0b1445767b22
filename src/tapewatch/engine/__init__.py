"""Windows, bars, crosses and volume surges: arrays in, rows and alerts out."""
