"""The routes that turn text into the target's tokens and back, as vLLM names them."""

from __future__ import annotations

from aiohttp import web

from services.gateway.chats import chat_tokens
from services.gateway.schemas import DetokenizeBody, TokenizeBody, parse
from services.gateway.text import TextModel
from shared.errors import InvalidRequestError


class TokenizationRoutes:
    """Nothing of these leaves the gateway."""

    def __init__(self, text: TextModel) -> None:
        self._text = text

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/detokenize", self.detokenize)

    async def tokenize(self, request: web.Request) -> web.Response:
        """The tokens that a prompt, or a chat by the model's template, is made of."""
        body = parse(TokenizeBody, await request.read())
        self._text.require_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise InvalidRequestError("prompt or messages are needed, one of the two", "prompt")
        if body.prompt is not None:
            tokens = self._text.encode(body.prompt)
        else:
            tokens = chat_tokens(self._text, body.messages or ())
        answer = {
            "count": len(tokens),
            "max_model_len": self._text.manifest.max_context,
            "tokens": tokens,
            "token_strs": [self._text.token(t) for t in tokens] if body.return_token_strs else None,
        }
        return web.json_response(answer)

    async def detokenize(self, request: web.Request) -> web.Response:
        """The text of tokens, markers of the template among it."""
        body = parse(DetokenizeBody, await request.read())
        self._text.require_model(body.model)
        self._text.require_tokens(body.tokens, "tokens")
        return web.json_response({"prompt": self._text.decode(body.tokens, with_markers=True)})
