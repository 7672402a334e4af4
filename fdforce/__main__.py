"""``python -m fdforce``."""

from fdforce.cli import main

if __name__ == "__main__":
    main()
