"""Error responses in OpenAI's format, with HTTP status and reason."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

MAX_ERROR_CHARACTERS = 2000
KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refusal(Exception):
    """Raised to reject a client's request with an HTTP status and a reason."""

    def __init__(
        self,
        status: int,
        message: str,
        parameter: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        closes_connection: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_s = (
            status,
            message,
            parameter,
            code,
            retry_after_s,
        )
        self.closes = closes_connection  # whether the connection is closed after the answer


class ClientDisconnected(Refusal):
    """Raised if the client has disconnected, so that the response is not needed."""

    STATUS = 499


def format_error(error: Refusal) -> dict[str, Any]:
    """Format the rejection of a request as a JSON object in OpenAI's error format."""
    kind = KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    message = error.message  # it may quote a long text of the client's
    if len(message) > MAX_ERROR_CHARACTERS:
        message = f"{message[: MAX_ERROR_CHARACTERS // 2]} … {message[-MAX_ERROR_CHARACTERS // 2 :]}"
    return {"message": message, "type": kind, "param": error.param, "code": error.code}


def make_error_response(error: Refusal) -> JSONResponse:
    """Return the HTTP response that rejects a request."""
    headers = {}
    if error.retry_s is not None:
        headers["retry-after"] = str(error.retry_s)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.closes or error.status in (408, 413):  # the rest of the body is not read
        headers["connection"] = "close"
    return JSONResponse({"error": format_error(error)}, error.status, headers)
