"""Public exams (C-Eval, CMMLU, C3, …) through lm-eval: what a model knows, beside chance and with its uncertainty."""
