"""What each field of a body is for, in a line: for /openapi.json and docs/api.md."""

from __future__ import annotations

NOTES: dict[str, str] = {
    # Of generations.
    "model": "A name that `GET /v1/models` lists; the one that is served where there is none.",
    "prompt": "One or several, each a text or token ids.",
    "messages": "The chat so far, rendered by the model's template.",
    "n": "Choices for each prompt.",
    "stream": "Whether the answer comes as server-sent events.",
    "stream_options": "`include_usage`: whether the last chunk has the usage.",
    "max_tokens": "Most tokens of a choice: 16 of a completion where there is none, as many as the "
    "gateway allows of a chat. 0 only of a completion with `echo`.",
    "max_completion_tokens": "The same by OpenAI's newer name; it precedes `max_tokens`.",
    "min_tokens": "Tokens before any stop token may be drawn.",
    "temperature": "0 is greedy.",
    "top_p": "Of the likeliest tokens, those that make up this probability.",
    "top_k": "Of the likeliest tokens, this many; 0 or -1: all.",
    "min_p": "Tokens that are at least this likely, as a part of the likeliest's probability.",
    "seed": "The same seed, the same text. Drawn where there is none.",
    "presence_penalty": "Taken off the logit of each token that the text has.",
    "frequency_penalty": "Taken off the logit of a token for each time that the text has it.",
    "repetition_penalty": "Divides the positive logits of tokens that were there, multiplies "
    "negative ones.",
    "logit_bias": "Token ids, and what is added to their logits; at most 1024.",
    "stop": "Up to four texts that end a choice; they are not part of it.",
    "stop_token_ids": "Tokens that end a choice, beside the model's own.",
    "ignore_eos": "Whether the model's end tokens end nothing.",
    "user": "Taken, and not used.",
    "timeout": "Seconds that the request may take.",
    "echo": "Whether the prompt leads the text; with `logprobs` its tokens are told of as well: "
    "null of the first.",
    "logprobs": "Of a completion, how many likeliest tokens are told with each token; of a chat, "
    "whether each token's probability is told.",
    "top_logprobs": "How many likeliest tokens are told with each token of a chat.",
    "prompt_logprobs": "How many likeliest tokens are told with each token of the prompt but the "
    "first; not in a stream.",
    "response_format": "`json_object`, or `json_schema` with the schema that the text must follow.",
    "structured_outputs": "What the text must be: `json`, `regex`, `choice` or `grammar`.",
    "speculation": "How to draft: `mode` off or auto, `length`, `max_length`, `drafters`, `vote`.",
    "return_speculation": "Whether `metrics.speculative_decoding` is told.",
    "return_trace": "Whether each round is told as it went, under `trace`.",
    "priority": "`interactive`, or `batch` for what can wait: it is taken after the other, but for "
    "one request in eight. A number, as vLLM has it, is batch above 0.",
    "service_tier": "`flex` is `priority: batch` by OpenAI's name; the answer says which tier "
    "served it.",
    "tools": "Functions that the model may call.",
    "tool_choice": "Whether it may, must, or must not call one.",
    "parallel_tool_calls": "Whether it may call several; if not, the first whole call ends the "
    "text.",
    "request_id": "The header `x-request-id` names a request.",
    "guided_json": "Older vLLM's name for `structured_outputs.json`.",
    "guided_regex": "Older vLLM's name for `structured_outputs.regex`.",
    "guided_choice": "Older vLLM's name for `structured_outputs.choice`.",
    "guided_grammar": "Older vLLM's name for `structured_outputs.grammar`.",
    "prompt_cache_key": "What prompts share is computed once anyway.",
    "skip_special_tokens": "Special tokens are never part of the text.",
    # Of recommendations.
    "context": "The model's context fields by name, each with a list of values.",
    "candidates": "Items to score, by name; the whole catalogue where there are none.",
    "inputs": "The model's inputs by name: lists of numbers, or in msgpack tensors of `dtype`, "
    "`shape` and `data`.",
    "k": "How many of the best; 10 of names, all of inputs, where it is not said.",
    "version": "By its name or a label; the stable one where there is none.",
    "table": "One that the plan lists.",
    "rows": "Numbers of the rows to replace.",
    "values": "Their new vectors.",
    # Of tokens.
    "return_token_strs": "Whether the tokens are told as the vocabulary writes them, too.",
    "tokens": "Token ids.",
    # Of the inference protocol.
    "id": "Comes back.",
    "parameters": "Of a request `timeout` in microseconds and `binary_data_output`, of an input "
    "`binary_data_size`, of an output `binary_data`.",
    "outputs": "Those that are wanted; all where there are none.",
    "name": "As the model's metadata has it.",
    "shape": "In C order.",
    "datatype": "INT64, INT32 or FP32.",
    "data": "Numbers, flat or nested; where the bytes follow the JSON, none.",
    "dtype": "int64 or float32.",
}
