"""What clients send, in OpenAI's names. Unknown fields are ignored; a wrong type or an impossible value is refused.

Beyond OpenAI: top_k, min_p, repetition_penalty. What this server cannot do is refused, not ignored: suffix, best_of
above n, tools, another response_format than text.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

MAX_LOGPROBS = 20
MAX_CHOICES = 128
MAX_STOP = 16
INT64 = 2**63


def expected(what: str) -> WrapValidator:
    """One message for a union; pydantic has one for each of its members."""

    def validate(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError:
            raise ValueError(f"expected {what}") from None

    return WrapValidator(validate)


Number = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Ids = list[Annotated[int, Field(ge=0, lt=2**31)]]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class Options(BaseModel):
    """Of both kinds of completion."""

    model_config = ConfigDict(strict=True)

    model: str | None = Field(None, description="one of /v1/models; without it, the first")
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = Field(None, description="0 and -1: all tokens")
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None = Field(
        None, description="token id → bias"
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Annotated[
        StopText | Annotated[list[StopText], Field(max_length=MAX_STOP)] | None,
        expected(f"a text of 1 to 1,000 characters, or a list of at most {MAX_STOP}"),
    ] = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @field_validator("logit_bias")
    @classmethod
    def token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for token in bias or ():
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise ValueError("the keys must be token ids")
        return bias


class CompletionRequest(Options):
    prompt: Annotated[str | list[str] | Ids | list[Ids], expected("text, token ids from 0, or a list of one of them")]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    suffix: str | None = None


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        str | list[TextPart] | None, expected('text, or a list of {"type": "text", "text": "…"}: no images, no sound')
    ] = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ResponseFormat(BaseModel):
    model_config = ConfigDict(strict=True)
    type: Literal["text"]


class ChatRequest(Options):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = Field(None, description="goes before max_tokens")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="not supported")

    @field_validator("tools", mode="before")
    @classmethod
    def no_tools(cls, tools: Any) -> Any:
        if tools:
            raise ValueError("tools are not supported: these models write text")
        return tools
