"""The unified model with a head that judges: a whole text, each of its tokens, or where an answer stands.

A pair's second text has token type 1 here as in a BERT, and means no more than that: who judges sees everything. By the
rule of `hanmo.models.unified.masks` the first token, which stands for the whole, would not see the second text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.models.auto.modeling_auto import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.utils.generic import can_return_tuple

from hanmo.models.unified.config import UnifiedConfig
from hanmo.models.unified.model import UnifiedModel, UnifiedPreTrainedModel


class UnifiedPooler(nn.Module):
    """What stands for a whole text: its first token's state, through a layer and tanh (as in BERT)."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """[rows, d] of states [rows, length, d]; padding before the first token is passed over."""
        if attention_mask is None:
            return self.dense(hidden[:, 0]).tanh()
        first = attention_mask.long().argmax(-1)
        return self.dense(hidden[torch.arange(len(hidden), device=hidden.device), first]).tanh()


class UnifiedForSequenceClassification(UnifiedPreTrainedModel):
    """Labels (or with `num_labels` 1 a number) for whole texts and pairs of texts."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = UnifiedModel(config)
        self.pooler = UnifiedPooler(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits [rows, num_labels], and with `labels` the loss that `config.problem_type` says.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds: as of `UnifiedModel`.
            token_type_ids: [rows, length], 1 in a pair's second text; all tokens see each other.
            labels: [rows] classes, [rows] numbers where num_labels is 1, or [rows, num_labels] of 0 and 1.
        """
        outputs = self.bert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            sees_all=True,
            use_cache=False,
            **kwargs,
        )
        logits = self.classifier(self.dropout(self.pooler(outputs.last_hidden_state, attention_mask)))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class UnifiedForTokenClassification(UnifiedPreTrainedModel):
    """A label for each token, as of named entities."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = UnifiedModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Logits [rows, length, num_labels], and with `labels` [rows, length] (-100: not asked) the loss in nats."""
        outputs = self.bert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            sees_all=True,
            use_cache=False,
            **kwargs,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None if labels is None else self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class UnifiedForQuestionAnswering(UnifiedPreTrainedModel):
    """Where in a passage the answer begins and ends."""

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config)
        self.bert = UnifiedModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Logits of first and last token, [rows, length] each, and with positions [rows] the loss in nats."""
        outputs = self.bert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            sees_all=True,
            use_cache=False,
            **kwargs,
        )
        starts, ends = self.qa_outputs(outputs.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(starts, ends, start_positions, end_positions)
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=starts,
            end_logits=ends,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


AutoModelForSequenceClassification.register(UnifiedConfig, UnifiedForSequenceClassification)
AutoModelForTokenClassification.register(UnifiedConfig, UnifiedForTokenClassification)
AutoModelForQuestionAnswering.register(UnifiedConfig, UnifiedForQuestionAnswering)
