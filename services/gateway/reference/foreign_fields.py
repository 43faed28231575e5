"""The fields of OpenAI's and vLLM's requests, by name: what clients may send. schemas.py says which
are taken; for those of vLLM that are not, here is which values ask for nothing. Pure."""

from __future__ import annotations

OPENAI_COMPLETION = (
    "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "model", "n",
    "presence_penalty", "prompt", "seed", "stop", "stream", "stream_options", "suffix",
    "temperature", "top_p", "user",
)  # fmt: skip
OPENAI_CHAT = (
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
    "max_completion_tokens", "max_tokens", "messages", "metadata", "modalities", "model",
    "moderation", "n", "parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "response_format",
    "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options",
    "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
    "web_search_options",
)  # fmt: skip
# Those of vLLM 0.11, and what it had as guided_... until then.
_VLLM_BOTH = (
    "add_special_tokens", "allowed_token_ids", "cache_salt", "guided_choice",
    "guided_decoding_backend", "guided_grammar", "guided_json", "guided_regex",
    "guided_whitespace_pattern", "ignore_eos", "include_stop_str_in_output", "kv_transfer_params",
    "length_penalty", "logits_processors", "min_p", "min_tokens", "priority", "prompt_logprobs",
    "repetition_penalty", "request_id", "response_format", "return_token_ids",
    "return_tokens_as_token_ids", "skip_special_tokens", "spaces_between_special_tokens",
    "stop_token_ids", "structural_tag", "structured_outputs", "top_k", "truncate_prompt_tokens",
    "use_beam_search", "vllm_xargs",
)  # fmt: skip
VLLM_COMPLETION = (*_VLLM_BOTH, "prompt_embeds")
VLLM_CHAT = (
    *_VLLM_BOTH, "add_generation_prompt", "bad_words", "best_of", "chat_template",
    "chat_template_kwargs", "continue_final_message", "documents", "echo", "include_reasoning",
    "mm_processor_kwargs",
)  # fmt: skip

# As schemas.NEUTRAL, which holds OpenAI's.
ALSO_NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (None, True),
    "add_special_tokens": (None,),
    "allowed_token_ids": (None,),
    "bad_words": (None, []),
    "cache_salt": (None,),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "continue_final_message": (None, False),
    "documents": (None, []),
    "guided_choice": (None,),
    "guided_decoding_backend": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_whitespace_pattern": (None,),
    "include_reasoning": (None, True, False),
    "include_stop_str_in_output": (None, False),
    "kv_transfer_params": (None,),
    "length_penalty": (None, 1, 1.0),
    "logits_processors": (None, []),
    "min_tokens": (None, 0),
    "mm_processor_kwargs": (None, {}),
    "moderation": (None,),
    "prompt_cache_key": (None,),
    "prompt_cache_options": (None,),
    "prompt_cache_retention": (None,),
    "prompt_embeds": (None,),
    "request_id": (None,),
    "return_token_ids": (None, False),
    "return_tokens_as_token_ids": (None, False),
    "safety_identifier": (None,),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "structural_tag": (None,),
    "structured_outputs": (None,),
    "truncate_prompt_tokens": (None,),
    "use_beam_search": (None, False),
    "vllm_xargs": (None, {}),
}
