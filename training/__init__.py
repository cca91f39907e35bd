"""Train, measure and export RPCANet+. The only package that imports torch."""

import sys

if sys.argv[:1] == ["-m"]:  # so it is while a command is being found
    from engine.asides import find_quietly

    find_quietly()
