"""The live view and the metrics: what a run looks like, in a browser and to Prometheus; see ``docs/live_view.md``."""
