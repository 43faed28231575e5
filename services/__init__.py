"""One folder each; __main__.py runs them together."""

import shared  # noqa: F401 - before any service loads onnxruntime: shared keeps it from reporting
