"""What is measured: evaluators of one behaviour each, and suites of them. Knows nothing of searching."""
