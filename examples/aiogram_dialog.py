"""A bot of aiogram that stores its dialog in the database; no two workers handle one dialog at the same time."""

import asyncio
import os

from aiogram import Bot, Dispatcher
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State, StatesGroup
from aiogram.types import Message

from src.database.integrations.aiogram import StateIsolation, StateStorage


class Form(StatesGroup):
    """The questions of the bot."""

    name = State()


dispatcher = Dispatcher(storage=StateStorage(), events_isolation=StateIsolation())


@dispatcher.message(Form.name)
async def greet(message: Message, state: FSMContext) -> None:
    """Answer with the name, and end the dialog."""
    await state.clear()
    await message.answer(f"Hello, {message.text}!")


@dispatcher.message()
async def ask(message: Message, state: FSMContext) -> None:
    """Begin the dialog."""
    await state.set_state(Form.name)
    await message.answer("What is your name?")


if __name__ == "__main__":
    asyncio.run(dispatcher.start_polling(Bot(os.environ["BOT_TOKEN"])))
