"""The log of a server: whoever writes to it never fails because of it."""

import io
import json
import logging

from pellucid.server.logs import BackgroundHandler, JsonLines, TextLines


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_records_of_every_kind_are_written_or_dropped_but_never_raise() -> None:
    stream = io.StringIO()
    for formatter in (JsonLines(), TextLines()):
        handler = BackgroundHandler(stream)
        handler.setFormatter(formatter)
        logger = logging.Logger("test")
        logger.addHandler(handler)
        logger.error("with %s", "exc_info", exc_info=False)
        logger.error("no error", exc_info=True)
        logger.error("text %s", Unprintable())
        logger.error("half a character \ud800\n", extra={"fields": {"name": "\x1b[31m\n"}})
        handler.close()
    lines = stream.getvalue().splitlines()
    assert [json.loads(line)["message"] for line in lines[:3]] == [
        "with exc_info",
        "no error",
        "half a character \\ud800\n",
    ]
    assert len(lines) == 6
