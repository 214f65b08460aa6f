"""One client of a receiver: aiosmtpd's protocol, with the bounds and the answers that it lacks.

What aiosmtpd 1.4.6 does, and what is overridden here: it keeps a line that never ends; it needs
seventy bytes for each empty line of a mail; it reads addresses with Python's parser for headers,
which changes some; it hangs up without a word when a client is too slow, also while its mail is
being handled; and it sends each line of an answer in a packet of its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict
from typing import Any, ClassVar

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Session, TLSSetupException

from salmon_state.mail.receivers.handling import ReceivedMail, one_answer, refusal, same_case
from salmon_state.mail.receivers.limits import IN_HAND
from salmon_state.mail.receivers.service import ENDING, Service
from salmon_state.mail.receivers.workers import TooBusy

__all__ = ["LMTPClient", "SMTPClient"]

_END = b"\r\n.\r\n"
"""Of a mail, and nothing else is: with a bare LF or CR another mail could be smuggled into one."""

_ADDRESS = re.compile(
    r"""<(?P<address>
        (?: [^\s"(),:;<>@\[\]\\\x00-\x1f\x7f]+ | "(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*" )
        @(?: (?!-)[\w-]+(?:\.[\w-]+)* | \[[\x21-\x5a\x5e-\x7e]+\] )
      |   postmaster | )>(?P<parameters>(?:\ .*)?)""",
    re.VERBOSE | re.IGNORECASE,
)
_NEEDS_UTF8 = "553 5.6.7 An address with such letters needs SMTPUTF8"
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_GONE = (asyncio.IncompleteReadError, ConnectionError, TLSSetupException)
_UNENHANCED = re.compile(r"^(([245])[0-9][0-9] )(?![245]\.[0-9])", re.MULTILINE)
_ENHANCED = r"\1\2.0.0 "
_NO_SUCH_COMMANDS = frozenset(["smtp_AUTH", "smtp_EXPN", "smtp_HELP", "smtp_VRFY"])
"""Of those that aiosmtpd has: nobody can log in, and nobody is told who is here."""

# It writes a line for each command of each client.
if not logging.getLogger("mail.log").level:
    logging.getLogger("mail.log").setLevel(logging.ERROR)


def _commands(protocol: type) -> list[str]:
    found = (name for name in dir(protocol) if name.startswith("smtp_"))
    return [name for name in found if name not in _NO_SUCH_COMMANDS]


class _Hooks:
    """What aiosmtpd asks: in each of its answers is what the client hears."""

    def __dir__(self) -> list[str]:
        """Returns what aiosmtpd looks for, as `SMTPClient` does."""
        return [name for name in vars(_Hooks) if name.startswith("handle_")]

    async def handle_EHLO(  # noqa: N802 - as in aiosmtpd
        self, client: SMTPClient, session: Session, _: object, name: str, lines: list[str]
    ) -> list[str]:
        session.host_name = name
        offered = [line for line in lines if not line[4:].startswith(("AUTH", "HELP"))]
        offered += ["250-PIPELINING", "250 ENHANCEDSTATUSCODES"]
        return ["\r\n".join(offered)]

    async def handle_MAIL(  # noqa: N802 - as in aiosmtpd
        self, client: SMTPClient, _: object, envelope: Any, address: str, options: list[str]
    ) -> str:
        return client.begin(address, options)

    async def handle_RCPT(  # noqa: N802 - as in aiosmtpd
        self, client: SMTPClient, _: object, envelope: Any, address: str, options: list[str]
    ) -> str:
        return client.add_recipient(address)

    async def handle_PROXY(  # noqa: N802 - as in aiosmtpd
        self, client: SMTPClient, session: Session, _: object, data: Any
    ) -> bool:
        if data.src_addr is not None:  # which it is for what the proxy itself asks
            # aiosmtpd calls it a text, and makes it such a pair as well.
            session.peer = (str(data.src_addr), data.src_port)  # type: ignore[assignment]
        return True


class SMTPClient(SMTP):
    """A client that speaks SMTP."""

    command_size_limit = 2048
    line_length_limit = 64 * 1024
    """Bytes of a command that are kept until its end; mails have lines as long as they like."""

    answers_each: ClassVar[bool] = False
    """Whether there is an answer for each recipient of a mail."""

    commands: ClassVar[list[str]] = _commands(SMTP)
    """The methods that obey a command."""

    def __init__(self, service: Service) -> None:
        # aiosmtpd has one for all clients, which each new client clears.
        self.command_size_limits = defaultdict(lambda: self.command_size_limit)
        super().__init__(
            _HOOKS,
            data_size_limit=service.limits.size,
            enable_SMTPUTF8=True,
            hostname=service.hostname,
            ident="ready",
            tls_context=service.tls,
            timeout=service.limits.silence,
            proxy_protocol_timeout=service.limits.silence if service.proxy_protocol else None,
            loop=service.loop,
        )
        self._service = service
        self._refused = False
        self._taken = 0  # bytes of the memory for mails
        self._silent_at = 0.0
        self.has_mail = False
        """Whether a mail of this client is complete and has not been answered."""

    def __dir__(self) -> list[str]:
        """Returns the commands, which are what aiosmtpd looks for in each new client.

        It looks at all attributes three times: without this a client costs four times as much.
        """
        return self.commands

    # ---------------------------------------------------------------- coming and going

    def connection_made(self, transport: Any) -> None:
        """Lets a client in, or says why not."""
        if self._original_transport is None:  # it is no client that has just begun TLS
            refused = self._service.admit(self, transport)
            if refused:
                self._refused = True
                transport.write(refused.encode() + b"\r\n")
                transport.close()
                return
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Forgets a client."""
        if not self._refused:
            self._service.leave(self)
            super().connection_lost(error)

    def eof_received(self) -> bool | None:
        """Goes on with what a client has said before it stopped talking; it may still listen."""
        if self._refused or (self.session is not None and self.session.ssl is not None):
            return False
        return asyncio.StreamReaderProtocol.eof_received(self)

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Waits for the client from now on.

        There is one timer, which looks when its time comes: another one for each command would be a
        sixth of what a mail costs this thread.
        """
        self._silent_at = self.loop.time() + (duration or self._timeout_duration)
        handle = self._timeout_handle
        if handle is not None:
            if handle.when() <= self._silent_at:
                return
            handle.cancel()
        self._timeout_handle = self.loop.call_at(self._silent_at, self._timeout_cb)

    def _timeout_cb(self) -> None:
        now = self.loop.time()
        if self.has_mail:  # nobody waits for the client
            self._silent_at = now + self._timeout_duration
        if now < self._silent_at:
            self._timeout_handle = self.loop.call_at(self._silent_at, self._timeout_cb)
        else:
            self.hang_up("421 4.4.2 Nothing heard for too long")

    def hang_up(self, reason: str) -> None:
        """Says why, and hangs up, whether the client listens or not."""
        transport: Any = self.transport
        if transport is not None:
            transport.write(reason.encode() + b"\r\n")
            transport.close()
            below: Any = self._original_transport or transport
            self.loop.call_later(1.0, below.abort)

    async def handle_exception(self, error: Exception) -> str:
        """Returns what to say when the protocol failed; a client that is gone hears nothing."""
        if isinstance(error, _GONE):
            if self._handler_coroutine is not None:
                self._handler_coroutine.cancel()
            if self.transport is not None:
                self.transport.close()
        else:
            self._service.repeated.say("a client cannot be served: %r", error, level=logging.ERROR)
        return "451 4.3.0 This server has failed"

    # ---------------------------------------------------------------- answers

    async def push(self, status: Any) -> None:
        """Sends an answer, with an enhanced status code (RFC 2034) where it has none."""
        text = status.decode() if isinstance(status, bytes) else status
        if not text.startswith(("220 ", "250-", f"250 {self.hostname}")):
            text = _UNENHANCED.sub(_ENHANCED, text)
        self._writer.write(text.encode() + b"\r\n")
        await self._writer.drain()

    # ---------------------------------------------------------------- the envelope

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Returns the address as it was written, if it is one, and the parameters behind it."""
        found = _ADDRESS.fullmatch(arg)
        if found is None or _CONTROL.search(arg):
            return None, None
        return found["address"] or "<>", found["parameters"]  # for aiosmtpd '' is no address

    def begin(self, address: str, options: list[str]) -> str:
        """Takes a sender; returns the answer."""
        envelope: Any = self.envelope
        if not self._can_have(address):
            return _NEEDS_UTF8
        envelope.mail_from = address if address == "<>" else same_case(address)
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    def _can_have(self, address: str) -> bool:
        envelope: Any = self.envelope
        return address.isascii() or bool(envelope.smtp_utf8)

    def add_recipient(self, address: str) -> str:
        """Takes a recipient; returns the answer."""
        envelope: Any = self.envelope
        if address == "<>":
            return "501 5.1.3 No recipient"
        if not self._can_have(address):
            return _NEEDS_UTF8
        if len(envelope.rcpt_tos) >= self._service.most_recipients(each=self.answers_each):
            return "452 4.5.3 Too many recipients"
        recipient = same_case(address)
        refused = refusal(recipient) if self._service.check_recipients else None
        if refused is None:
            envelope.rcpt_tos.append(recipient)
        return refused or "250 2.1.5 OK"

    # ---------------------------------------------------------------- the mail

    async def smtp_DATA(self, arg: str | None) -> None:  # noqa: N802 - as in aiosmtpd
        """Receives a mail, has it handled, and answers."""
        envelope: Any = self.envelope
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        if not envelope.rcpt_tos:
            await self.push("503 5.5.1 Need RCPT before DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        try:
            data = await self._receive()
            if isinstance(data, str):
                answers = [data] * len(envelope.rcpt_tos)
            else:
                answers = await self._handle(envelope, data)
            await self.push("\r\n".join(answers) if self.answers_each else one_answer(answers))
        finally:
            self._take(0)
        self.envelope = self._create_envelope()
        if self._service.is_ending:
            self.hang_up(ENDING)
            await asyncio.sleep(0)  # where this ends: what the client has sent already is not heard

    async def _receive(self) -> bytes | str:
        """Returns what the client sends, or what to answer if that was too much."""
        reader, limits = self._reader, self._service.limits
        until = self.loop.time() + limits.mail_time
        kept, refused, end = bytearray(b"\r\n"), "", -1
        while end < 0:
            searched = max(len(kept) - len(_END) + 1, 0)
            kept += await reader.read(2**30)  # which is all that is there
            end = kept.find(_END, searched)
            if end < 0 and reader.at_eof():
                raise ConnectionResetError
            refused = refused or (
                self._refusal(len(kept), len(kept))
                if end < 0
                else self._refusal(end, end * IN_HAND)
            )
            if refused and end < 0:
                self._take(0)
                del kept[: 1 - len(_END)]
            self._reset_timeout(max(min(limits.silence, until - self.loop.time()), 0.001))
        self._give_back(kept[end + len(_END) :])
        # As Salmon's receivers give it to handlers.
        del kept[end:]
        return refused or bytes(kept.replace(b"\r\n.", b"\r\n")[2:].replace(b"\r\n", b"\n"))

    def _give_back(self, rest: bytearray) -> None:
        """Lets what follows a mail be read as commands."""
        reader = self._reader
        if has_ended := reader.at_eof():  # such a one takes nothing any more
            self._reader = reader = asyncio.StreamReader(self.line_length_limit, self.loop)
        if rest:
            reader.feed_data(rest)
        if has_ended:
            reader.feed_eof()

    def _refusal(self, size: int, memory: int) -> str:
        """Takes memory for a mail of a size; returns what to answer if there is none."""
        service = self._service
        if size > service.limits.size:
            return "552 5.3.4 This mail is too large"
        if memory - self._taken > service.memory:
            service.repeated.say("there is no memory for more mails: clients are to come again")
            return "452 4.3.1 Too many mails at once, please try again"
        self._take(memory)
        return ""

    def _take(self, memory: int) -> None:
        self._service.memory += self._taken - memory
        self._taken = memory

    async def _handle(self, envelope: Any, data: bytes) -> list[str]:
        session: Any = self.session
        sender = "" if envelope.mail_from == "<>" else envelope.mail_from
        mail = ReceivedMail(session.peer, sender, tuple(envelope.rcpt_tos), data)
        self.has_mail = True
        try:
            answers = await self._service.handle(mail)
        except TooBusy:
            answers = ["451 4.3.2 Too busy, please try again"] * len(mail.recipients)
        finally:
            self.has_mail = False
        self._reset_timeout()
        return answers


class LMTPClient(SMTPClient, LMTP):
    """A client that speaks LMTP (RFC 2033)."""

    answers_each = True
    commands = _commands(LMTP)


_HOOKS = _Hooks()
