"""The sentences of `search.report.summary`, one file each: functions of an `Analysis` that return text."""
