"""What made-up people say, in Spanish and in English."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from src.database.cli.seed.dice import Dice

__all__ = ["LANGUAGES", "Language", "said", "tool_call"]

LONGEST: Final = 4096


@dataclass(frozen=True, slots=True)
class Language:
    """Sentences with gaps, and what goes into the gaps."""

    asks: tuple[str, ...]
    answers: tuple[str, ...]
    system: str
    notes: tuple[str, ...]
    events: tuple[str, ...]
    days: tuple[str, ...]
    """Events that last whole days."""
    tags: tuple[str, ...]
    gaps: dict[str, tuple[str, ...]]


LANGUAGES: Final = {
    "es": Language(
        asks=(
            "Recuérdame {task} {when}.",
            "¿Qué tengo {when}?",
            "Apunta que hay que {task}.",
            "¿Puedes mover la cita con {who} a {when}?",
            "¡Buenos días! ¿Qué tiempo hará en {place}?",
            "Gracias, perfecto 👍",
            "No, eso no. Lo que quiero es {task} {when}.",
            "¿Cuándo era lo de {who}?",
            "Resúmeme lo que hablamos sobre {thing}.",
            "Añade {thing} a la lista de la compra.",
            "Al final {who} no puede {when}, así que habrá que cambiarlo 😅",
            "¿Cuánto costó {thing} la última vez?",
        ),
        answers=(
            "Hecho: te lo recordaré {when}.",
            "He apuntado «{thing}» en tus notas.",
            "{when} tienes una cita con {who} en {place}.",
            "No encuentro nada sobre {thing}; ¿quieres que lo busque en el archivo?",
            "En {place} se esperan 21 °C y algo de viento por la tarde.",
            "Lo he movido. Si {who} no contesta, te aviso.",
            "Según tus notas, hay que {task} antes del viernes.",
            "¿Quieres que lo repita cada semana o solo esta vez?",
            "De acuerdo. También veo que tienes pendiente {task}.",
            "La última vez pagaste 34,50 € por {thing}, hace tres semanas.",
        ),
        system="Eres un asistente amable y breve. Responde en español y no inventes citas.",
        notes=("Lista de {thing}", "Ideas para {thing}", "Reunión con {who}", "Viaje a {place}", "Pendiente: {task}"),
        events=("Cita con {who}", "Reunión sobre {thing}", "Comida en {place}", "Llamar a {who}", "Clase de inglés"),
        days=("Vacaciones en {place}", "Cumpleaños de {who}", "Fiesta local", "Vence el seguro"),
        tags=("trabajo", "casa", "compras", "ideas", "viajes", "salud", "niños", "música"),
        gaps={
            "task": ("comprar pan", "pagar el alquiler", "llamar al médico", "regar las plantas", "enviar el informe"),
            "when": ("mañana a las nueve", "el lunes", "esta tarde", "el 15 de marzo", "la semana que viene"),
            "who": ("Begoña", "el señor Ibáñez", "mi hermana", "la doctora Peña", "Íñigo"),
            "place": ("Madrid", "Málaga", "A Coruña", "la oficina", "Ciudad de México"),
            "thing": ("café", "el presupuesto", "la reforma del baño", "leche y huevos", "el cumpleaños de Zoë"),
        },
    ),
    "en": Language(
        asks=(
            "Remind me to {task} {when}.",
            "What's on {when}?",
            "Make a note that I have to {task}.",
            "Can you move the appointment with {who} to {when}?",
            "Good morning! What's the weather going to be in {place}?",
            "Thanks, perfect 👍",
            "No, not that. I want to {task} {when}.",
            "When was that thing with {who}?",
            "Summarise what we said about {thing}.",
            "Add {thing} to the shopping list.",
            "It turns out {who} can't make it {when}, so we'll have to change it 😅",
            "How much was {thing} last time?",
        ),
        answers=(
            "Done: I'll remind you {when}.",
            "I've put “{thing}” into your notes.",
            "You're meeting {who} in {place} {when}.",
            "I can't find anything about {thing}; shall I look in the archive?",
            "In {place} expect 21 °C and some wind in the afternoon.",
            "I've moved it. If {who} doesn't answer, I'll let you know.",
            "Your notes say that you have to {task} by Friday.",
            "Should it repeat every week, or only this once?",
            "All right. I also see that you still have to {task}.",
            "Last time you paid €34.50 for {thing}, three weeks ago.",
        ),
        system="You are a friendly assistant and keep it short. Answer in English and never make appointments up.",
        notes=("List: {thing}", "Ideas for {thing}", "Meeting with {who}", "Trip to {place}", "To do: {task}"),
        events=("Appointment with {who}", "Meeting on {thing}", "Lunch in {place}", "Call {who}", "Spanish class"),
        days=("Holidays in {place}", "{who}'s birthday", "Bank holiday", "Insurance ends"),
        tags=("work", "home", "shopping", "ideas", "travel", "health", "kids", "music"),
        gaps={
            "task": ("buy bread", "pay the rent", "call the doctor", "water the plants", "send the report"),
            "when": ("tomorrow at nine", "on Monday", "this afternoon", "on 15 March", "next week"),
            "who": ("Chloe", "Mr O'Neill", "my sister", "Dr Patel", "Ed Müller"),
            "place": ("London", "Dublin", "New York", "the office", "San Francisco"),
            "thing": ("coffee", "the budget", "the bathroom", "milk and eggs", "Zoë's birthday"),
        },
    ),
}
_TOOLS: Final = (("weather", "place"), ("find_events", "when"), ("find_notes", "thing"), ("add_note", "task"))


def said(dice: Dice, language: Language, sentences: tuple[str, ...], length: float = 0) -> str:
    """Say sentences until there are so many characters; at least one, and no more than a channel takes."""
    filled = _Gaps(dice, language)
    text = dice.pick(sentences).format_map(filled)
    while len(text) < length:
        filled.clear()
        text = f"{text} {dice.pick(sentences).format_map(filled)}"
    return text[:LONGEST]


def tool_call(dice: Dice, language: Language) -> tuple[str, dict[str, str], str]:
    """Return a tool's name, what it is asked, and what it answers, as JSON."""
    name, gap = dice.pick(_TOOLS)
    asked = {gap: dice.pick(language.gaps[gap])}
    found = [{"title": said(dice, language, language.notes)} for _ in range(int(dice.random() * 4))]
    return name, asked, json.dumps({"found": found}, ensure_ascii=False)


class _Gaps(dict[str, Any]):
    """Fills each gap of a sentence when it comes to it."""

    def __init__(self, dice: Dice, language: Language) -> None:
        super().__init__()
        self._dice = dice
        self._gaps = language.gaps

    def __missing__(self, gap: str) -> str:
        return self._dice.pick(self._gaps[gap])
