"""Train, measure and export RPCANet+. The only package that imports torch."""
