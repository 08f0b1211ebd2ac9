"""Running studies: spec, sampling, runner, trials, stages, storage, report and commands."""
