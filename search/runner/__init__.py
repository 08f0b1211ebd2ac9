"""Ray Tune: placement, concurrency and the searcher. The only place that imports ray."""
