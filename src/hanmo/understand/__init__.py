"""Understanding tasks: CLUE and FewCLUE, entities, reading; a model is tuned on one and its predictions are submitted.

A task is a row of a table (`tasks.TASKS`): the form of its files, the kind of head, the metric, the form of a
submission. What is read (`forms`), how it becomes rows of tokens (`rows`), what is on top of the model (`heads`,
`entities`, `reading`) and how it is scored (`metrics`) are shared by all of them; the loop is transformers' Trainer
(`stage`). Few-shot tasks may also be asked as cloze questions (`prompts`).
"""
