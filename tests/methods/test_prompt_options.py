"""Options of the prompt learners."""

from __future__ import annotations

from typing import Any

import pytest

from clipalign.core.errors import UserError
from clipalign.methods import Method
from clipalign.methods.cocoop import CoCoOp
from clipalign.methods.coop import CoOp
from clipalign.methods.dpl import Dpl
from clipalign.methods.maple import Maple
from clipalign.methods.promptsrc import PromptSrc
from tests.helpers.prompts import ready


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (CoOp, {"context_tokens": 20}, '--context-tokens 20: the prompt of "red apple" would have 25 tokens'),
        (CoOp, {"context_tokens": 0}, "--context-tokens must be at least 1"),
        (CoOp, {"context_tokens": 5, "context_init": "a photo of a"}, "has 4 tokens"),
        (CoOp, {"context_init": "a " * 30}, "--context-init"),
        (CoCoOp, {"prompts_at_once": 0}, "--prompts-at-once"),
        (CoCoOp, {"meta_net_reduction": 0}, "--meta-net-reduction"),
        (CoCoOp, {"context_tokens": 21, "context_init": ""}, "--context-tokens 21: the prompt of"),
        (Maple, {"prompt_depth": 4}, "--prompt-depth 4: this backbone allows 1 to 3"),
        (Maple, {"prompt_depth": 0}, "--prompt-depth 0"),
        (Maple, {"context_tokens": 0}, "--context-tokens"),
        (Maple, {"context_tokens": 21}, "--context-tokens 21: the prompt of"),
        (PromptSrc, {"text_depth": 4}, "--text-depth 4: this backbone allows 1 to 3"),
        (PromptSrc, {"vision_depth": 5}, "--vision-depth 5: this backbone allows 1 to 4"),
        (PromptSrc, {"vision_tokens": 0}, "--vision-tokens"),
        (PromptSrc, {"text_weight": -1.0}, "--text-weight"),
        (PromptSrc, {"context_tokens": 21}, "--context-tokens 21: the prompt of"),
        (Dpl, {"context_tokens": 21}, "--context-tokens 21: the prompt of"),
        (Dpl, {"context_tokens": 0}, "--context-tokens must be at least 1"),
        (Dpl, {"generator_depth": 1}, "--generator-depth"),
        (Dpl, {"generator_width": 0}, "--generator-width"),
        (Dpl, {"generator_dropout": 1.0}, "--generator-dropout"),
        (Dpl, {"prompt_batch": 0}, "--prompt-batch"),
    ],
)
def test_invalid_options_raise(cls: type[Method[Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(cls, **options)
