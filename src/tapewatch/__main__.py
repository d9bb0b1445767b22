"""``python -m tapewatch`` is the command ``tapewatch``."""

from tapewatch.cli import main

if __name__ == "__main__":
    main()
