"""Tasks whose answer is written: summaries, advertisements, words, corrected sentences, equations, facts.

`tasks` is their table, `files` reads the forms in which they are published, `writing` lets a model of any class
answer, `overlap` (ROUGE, BLEU) and `checks` (words, errors, sums, facts) judge, `measures` says how sure a figure is.
`stage` is all of it over several models, and makes dialogues of a task's files, which `hanmo sft` learns.
"""
