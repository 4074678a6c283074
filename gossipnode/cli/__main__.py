"""``python -m gossipnode.cli``: the same as ``gossipnode``."""

from gossipnode.cli import main

main()
