"""The routes that turn text into the target's tokens and back, as vLLM names them."""

from __future__ import annotations

from aiohttp import web

from services.gateway.chats import chat_tokens
from services.gateway.schemas import DetokenizeBody, TokenizeBody, parse
from services.gateway.targets import Targets
from shared.errors import InvalidRequestError


class TokenizationRoutes:
    """Nothing of these leaves the gateway."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/detokenize", self.detokenize)

    async def tokenize(self, request: web.Request) -> web.Response:
        """The tokens that a prompt, or a chat by the model's template, is made of."""
        body = parse(TokenizeBody, await request.read())
        text = self._targets.find(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise InvalidRequestError("prompt or messages are needed, one of the two", "prompt")
        if body.prompt is not None:
            tokens = text.encode(body.prompt)
        else:
            tokens = chat_tokens(text, body.messages or ())
        answer = {
            "count": len(tokens),
            "max_model_len": text.manifest.max_context,
            "tokens": tokens,
            "token_strs": [text.token(t) for t in tokens] if body.return_token_strs else None,
        }
        return web.json_response(answer)

    async def detokenize(self, request: web.Request) -> web.Response:
        """The text of tokens, markers of the template among it."""
        body = parse(DetokenizeBody, await request.read())
        text = self._targets.find(body.model)
        text.require_tokens(body.tokens, "tokens")
        return web.json_response({"prompt": text.decode(body.tokens, with_markers=True)})
