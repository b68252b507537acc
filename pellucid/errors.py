"""Every error Pellucid raises on purpose, as one tree.

    PellucidError
    ├── InvalidRequest             400  the caller asked for something that cannot be done
    │   ├── InvalidParameter            a field has a value outside its documented range
    │   ├── UnsupportedParameter        a field exists elsewhere in this field of work, but not here (yet)
    │   ├── ContextLengthExceeded       prompt + answer do not fit the context; the message gives both numbers
    │   └── TemplateError               the chat template refused the messages, or broke a limit
    ├── ModelError                 500  the model cannot be used
    │   ├── ModelNotFound          404  no file, folder, built-in name or hub id of that name
    │   ├── DownloadError          503  the model could not be fetched
    │   ├── FormatError                 the file is damaged or hostile; nothing of it was used
    │   ├── UnsupportedModel            a sound file that asks for something we do not implement
    │   └── GraphError                  the weights do not fit the architecture (names node and tensor)
    ├── ResourceError              503  not enough memory, cores or disk
    ├── ExecutorError              500  a step failed, or an executor or instruction set is not available
    └── EngineUnavailable          503  the process that runs a model cannot answer now
        ├── EngineRestarting            it was lost while it answered, or is being started again; ask again soon
        └── EngineFailed                it was lost too often, or never came up; somebody has to look

A message says what was found, what was expected and what to do. `assert` is for our own bugs only.
"""


class PellucidError(Exception):
    """Base class. `http_status` and `code` are what a server answers with (OpenAI's error shape)."""

    http_status = 500
    code = "internal_error"


class InvalidRequest(PellucidError):
    http_status = 400
    code = "invalid_request_error"


class InvalidParameter(InvalidRequest):
    """`param` names the offending field."""

    code = "invalid_value"

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


class UnsupportedParameter(InvalidParameter):
    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class TemplateError(InvalidRequest):
    code = "invalid_template"


class ModelError(PellucidError):
    code = "model_error"


class ModelNotFound(ModelError):
    http_status = 404
    code = "model_not_found"


class DownloadError(ModelError):
    http_status = 503
    code = "download_failed"


class FormatError(ModelError):
    code = "malformed_model_file"


class UnsupportedModel(ModelError):
    code = "unsupported_model"


class GraphError(ModelError):
    code = "graph_error"


class ResourceError(PellucidError):
    http_status = 503
    code = "insufficient_resources"


class ExecutorError(PellucidError):
    code = "executor_error"


class EngineUnavailable(PellucidError):
    """`retry_after` is the number of seconds after which asking again makes sense; None: not before it is repaired."""

    http_status = 503
    code = "engine_unavailable"

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineRestarting(EngineUnavailable):
    code = "engine_restarting"


class EngineFailed(EngineUnavailable):
    code = "engine_failed"
