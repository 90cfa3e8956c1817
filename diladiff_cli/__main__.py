"""``python -m diladiff_cli`` is the same as ``diladiff``."""

from diladiff_cli.cli.main import main

if __name__ == "__main__":
    main()
