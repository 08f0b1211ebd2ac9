"""Reports made from the files of a results folder alone: `write.write_report`, `terminal.front_table`."""
