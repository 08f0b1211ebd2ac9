"""Studies that `apportion init` copies; each folder has a study.yaml, a README.md and a build_data.py."""
