"""Publishing a model on a hub: what goes up, what it was trained on and whether that lets it be published.

| file | holds |
|---|---|
| `licences.py` | every text, record file and base model behind a model, and what its licence says of publishing |
| `parcel.py` | the folder that goes up: model files, card, lineage |
| `hubs.py` | Hugging Face and ModelScope, by their own clients |
| `commands.py` | `hanmo publish` |
"""
