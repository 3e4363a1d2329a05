"""Run the command line with ``python -m wbcpipe``."""

from wbcpipe.pipeline import main

if __name__ == "__main__":
    main()
