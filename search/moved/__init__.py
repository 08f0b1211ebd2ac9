"""Where the stages of a trial moved the model: records, and what follows from them."""
