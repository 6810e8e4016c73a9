"""LingLong (玲珑): decoders after GPT-2 with sparse attention, pinyin, or right-to-left text, as a class of ours.

Once `hanmo` is imported, `transformers.AutoConfig` and `transformers.AutoModelForCausalLM` know `model_type: linglong`
(see `hanmo.registration`), so that folders load without `trust_remote_code`.

    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained("FOLDER")

    from hanmo.models.linglong.generation import complete
    complete(model, [[10, 31, 58]], max_new_tokens=20)   # also backward models, and those with pinyin

| module | holds |
|---|---|
| `configuration` | `LingLongConfig` |
| `sparse` | which keys a query sees, and the attention that computes only those |
| `places` | where tokens stand: padding, packed documents, keys of a cache |
| `modeling` | `LingLongModel`, `LingLongForCausalLM` |
| `generation` | completing batches: padding, prefix and suffix, pinyin, right-to-left |

Published weights of both forms become such a folder by `hanmo convert import`.
"""
