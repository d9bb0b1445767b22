"""Tapewatch: every trade of the symbols you care about, and a word when a price breaks through its average."""

__version__ = "0.1.0"
