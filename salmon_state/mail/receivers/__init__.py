"""Receivers that stand in Salmon's ``settings.receiver``, and can be stopped without a loss."""

from salmon_state.mail.receivers.limits import Limits
from salmon_state.mail.receivers.listening import LMTPReceiver, SMTPReceiver
from salmon_state.mail.receivers.queue import QueueReceiver

__all__ = ["LMTPReceiver", "Limits", "QueueReceiver", "SMTPReceiver"]
