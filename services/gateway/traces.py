"""What traces tell of HTTP requests: OpenTelemetry's conventions for HTTP, and for generations
`gen_ai.*`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from services.gateway.choices import Choices
from services.gateway.responses import Shape
from shared.tracing import Span, Tracer, current

ROUTINE = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics")
"""Asked again and again, by machines."""


def tracing(tracer: Tracer) -> Middleware:
    """A span for each request, within the trace that its `traceparent` names. The outermost one,
    so that it sees the status of errors."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in ROUTINE:
            return await handler(request)
        name, about = request.method, {"http.request.method": request.method}
        if (resource := request.match_info.route.resource) is not None:
            name, about["http.route"] = f"{name} {resource.canonical}", resource.canonical
        with tracer.request(name, request.headers.get("traceparent"), about) as span:
            response = await handler(request)
            span.set({"http.response.status_code": response.status})
            if response.status >= 500:
                span.fail(str(response.status))
            return response

    return middleware


@contextmanager
def told(choices: Choices, shape: Shape) -> Iterator[None]:
    """Tells of a generation what was asked for, and at the end what came of it."""
    try:
        yield
    finally:
        if span := current():
            _tell(span, choices, shape)


def _tell(span: Span, choices: Choices, shape: Shape) -> None:
    wanted = choices.all[0].wanted
    sampling = wanted.sampling
    span.set(
        {
            "gen_ai.operation.name": "chat" if shape.kind == "chat" else "text_completion",
            "gen_ai.provider.name": "quorum",
            "gen_ai.request.model": shape.model,
            "gen_ai.request.max_tokens": wanted.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.seed": sampling.seed,
            "gen_ai.request.choice.count": len(choices.all),
            "gen_ai.response.id": shape.response_id,
            "gen_ai.response.model": shape.model,
            "gen_ai.response.finish_reasons": [c.reason for c in choices.all if c.reason],
            "gen_ai.usage.input_tokens": sum(len(p.tokens) for p in choices.prompts),
            "gen_ai.usage.output_tokens": sum(c.num_tokens for c in choices.all),
        }
    )
