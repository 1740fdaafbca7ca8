"""The only room of pipelines that uses models: the workers' jobs, and their plans on the launcher.

Torch is imported where a model is loaded.
"""

from captionbeam.pipelines.workers.processors.jobs import (
    CaptionerJob,
    ChatJob,
    EncoderJob,
    ModelJob,
    ReducerJob,
    ScoringJob,
    TransformersJob,
    columns_of,
    parsers_of,
    prepare_alone,
)
from captionbeam.pipelines.workers.processors.plans import (
    ModelPlan,
    decode_options,
    keep_components,
    plan_captioner,
    plan_chat,
    plan_encoder,
    plan_transformers,
)

__all__ = [
    "CaptionerJob", "ChatJob", "EncoderJob", "ModelJob", "ModelPlan", "ReducerJob", "ScoringJob", "TransformersJob",
    "columns_of", "decode_options", "keep_components", "parsers_of", "plan_captioner", "plan_chat", "plan_encoder",
    "plan_transformers", "prepare_alone",
]  # fmt: skip
