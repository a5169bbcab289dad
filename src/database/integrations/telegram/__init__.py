"""The import of Telegram's files: Bot API updates as JSON lines, and the chat export of Telegram Desktop."""

from src.database.integrations.telegram.files import TelegramFile, TelegramMessage, read_telegram
from src.database.integrations.telegram.importer import CHAT_PROVIDER, ImportReport, import_messages, sender_of

__all__ = [
    "CHAT_PROVIDER",
    "ImportReport",
    "TelegramFile",
    "TelegramMessage",
    "import_messages",
    "read_telegram",
    "sender_of",
]
