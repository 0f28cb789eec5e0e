"""A limit to what one cell may show, kept where it arises: in the kernel, before it travels.

The kernel loads this as an IPython extension. Without it a cell that prints 200 MB fills the memory
of the worker, and a page that no browser opens. What is cut is followed by a note; the cell goes
on, and its errors are always told.
"""

from collections import Counter
from typing import Any

import zmq
from ipykernel.zmqshell import ZMQInteractiveShell
from jupyter_client.session import Session

LIMIT = 20_000_000
"""Characters that one cell may show, and as many that its widgets may say."""
WRAPPING = 500
"""Characters that a message counts beside its own: many small ones are large as well."""
FRAME = 20_000
"""The same of a figure or table, which has an element of its own on the page."""
LONGEST = 5_000
"""Characters of one line of an error."""
NOTE = (
    f"\n[Cut here: one cell may show {LIMIT // 10**6} million characters, with its figures. "
    "Print less, or write to a file.]\n"
)
SHOWN = {"stream", "display_data", "update_display_data", "execute_result"}
WIDGETS = {"comm_open", "comm_msg"}


class OutputLimit:
    """Stands in for the `send` of a kernel's session, and counts what each cell sends."""

    def __init__(self, session: Session) -> None:
        self._session, self._send = session, session.send
        self._sent: Counter[tuple[str, bool]] = Counter()

    def send(
        self,
        stream: Any,
        msg_or_type: Any,
        content: dict[str, Any] | None = None,
        parent: dict[str, Any] | None = None,
        ident: Any = None,
        buffers: Any = None,
        track: bool = False,
        header: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """As `Session.send`, for as much of the message as still fits."""
        message = msg_or_type
        if not isinstance(message, dict):
            message = self._session.msg(message, content, parent, header, metadata)
        kind = message["msg_type"]
        if kind == "stream":
            text = _encodable(message["content"]["text"])
            message["content"] = {**message["content"], "text": text}
        if kind == "error" or message["content"].get("status") == "error":
            message["content"] = _shortened(message["content"])
        if kind in SHOWN | WIDGETS:
            cell = str(message["parent_header"].get("msg_id")), kind in WIDGETS
            room, size = LIMIT - self._sent[cell], _size(message, buffers)
            self._sent[cell] += size  # another thread's in between would be some too much at worst
            if size > room:
                return self._rest(stream, message, ident, room)
        return self._send(stream, message, ident=ident, buffers=buffers, track=track)

    def _rest(self, stream: Any, message: dict[str, Any], ident: Any, room: int) -> dict[str, Any]:
        """Send what fits of the first message that is too much, and a note; of later ones nothing.

        Of widgets a page shows nothing, so there is nothing to say about them either.
        """
        if room >= 0 and message["msg_type"] in SHOWN:
            parent = message["parent_header"]
            if message["msg_type"] == "stream":
                start = message["content"]["text"][:room]
                content = {**message["content"], "text": start}
                self._send(stream, self._session.msg("stream", content, parent), ident=ident)
            note = {"name": "stderr", "text": NOTE}
            self._send(stream, self._session.msg("stream", note, parent), ident=b"stream.stderr")
        return message


def _size(message: dict[str, Any], buffers: Any) -> int:
    """About how many characters a message has, as it counts."""
    content = message["content"]
    if message["msg_type"] == "stream":
        return WRAPPING + len(content["text"])
    size = len(str(content)) + sum(memoryview(buffer).nbytes for buffer in buffers or [])
    return size + (WRAPPING if message["msg_type"] in WIDGETS else FRAME)


def _encodable(text: str) -> str:
    """Half of a surrogate pair is no text: as \\ud800 it can be sent.

    Unsent it raises in the thread that sends, and the word that the cell has ended may wait there
    for ever.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _shortened(content: dict[str, Any]) -> dict[str, Any]:
    """An error with lines that can be read."""
    cut = dict(content)
    if "traceback" in content:
        cut["traceback"] = [_encodable(line[:LONGEST]) for line in content["traceback"]]
    if "evalue" in content:
        cut["evalue"] = _encodable(content["evalue"][:LONGEST])
    return cut


def load_ipython_extension(shell: ZMQInteractiveShell) -> None:
    """Put the limit in place. IPython calls this."""
    kernel = shell.kernel
    kernel.session.send = OutputLimit(kernel.session).send
    # The socket drops what is above its mark, the word that the cell has ended as well. What waits
    # there is bounded by the limit. The socket belongs to its thread.
    kernel.iopub_thread.schedule(lambda: kernel.iopub_thread.socket.setsockopt(zmq.SNDHWM, 0))
