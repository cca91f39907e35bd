"""Train, measure and export RPCANet+. The only package that imports torch."""

import sys

if sys.argv[:1] == ["-m"]:  # so it is while a command of ours is being found
    from engine.asides import start_quietly

    start_quietly()
