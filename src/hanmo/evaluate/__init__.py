"""How good is a model, and how sure are we: bits per byte on held-out text, exams, samples and the report.

`bpb` measures a language model on text it never saw, in a unit that does not depend on the tokenizer. `exam` asks
questions and says how far the score is from guessing. `generate` writes text in batches for both. `stage` runs all of
it over several models side by side; `report` draws the whole run as one page.
"""
