"""Built-in text that has nothing to do with anybody's memories.

:data:`PRESERVED` is what training holds on to: the adapter is kept from reading it and from changing what the model
says about it. :data:`UNRELATED` is what the gate measures drift on; the two share no question and no sentence.
"""

from __future__ import annotations

from typing import NamedTuple


class Exchange(NamedTuple):
    """A question that needs no memory, and an answer to it."""

    question: str
    answer: str


class Generic(NamedTuple):
    """Exchanges, which are read as a chat, and passages, which are read as they are."""

    exchanges: tuple[Exchange, ...]
    passages: tuple[str, ...]


PRESERVED = Generic(
    exchanges=tuple(
        Exchange(*pair)
        for pair in (
            ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
            ("How many months are in a year?", "There are twelve months in a year."),
            ("Why do leaves fall in autumn?", "Trees drop their leaves to save water and energy for the winter."),
            ("Write a sentence about the sea.", "The sea was calm and the boats moved slowly toward the harbor."),
            ("What is 9 minus 4?", "9 minus 4 is 5."),
            ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci."),
            ("What do cows eat?", "Cows eat grass and hay."),
            ("How can I learn a language faster?", "Practice a little every day and speak with native speakers."),
            ("Tell me a fun fact.", "Octopuses have three hearts and blue blood."),
            ("Which planet is the largest?", "Jupiter is the largest planet in the solar system."),
            ("Translate 'good morning' into Spanish.", "Good morning in Spanish is buenos días."),
            ("Can you explain gravity?", "Gravity is the force that pulls objects with mass toward each other."),
            ("Do you like music?", "As an AI I have no feelings, but I can talk with you about music."),
            ("I need a name for my cat.", "How about Luna? It is short and easy to call."),
            ("Name three colors.", "Red, blue and green."),
            ("Hello!", "Hello! How can I help you today?"),
            ("Do you know how to boil an egg?", "Put the egg in boiling water for eight minutes."),
            ("What's the meaning of 'brief'?", "Brief means short in time or length."),
            ("Remind me how to sort a list in Python.", "You can use the sorted function: sorted(my_list)."),
            ("When did the First World War begin?", "The First World War began in 1914."),
            ("Where do penguins live?", "Most penguins live in the Southern Hemisphere, many of them in Antarctica."),
            ("Please summarize the story of Cinderella.", "A kind girl goes to a ball, loses a shoe and is found."),
            ("What's the chemical formula of water?", "The chemical formula of water is H2O."),
            ("Can you give me advice for an interview?", "Prepare examples of your work and ask questions too."),
        )
    ),
    passages=(
        "The train left the station a little after noon and moved slowly through the hills toward the coast.",
        "In mathematics, a prime number is a natural number greater than one with no divisors but one and itself.",
        "for item in items:\n    total += item.price\n\nreturn total",
        "The company said on Monday that its sales had grown by four percent in the last quarter, helped by exports.",
        "Dear Ms. Hart, thank you for your letter of 3 May. We have received your order and will send it on Friday.",
        "Rice is grown in flooded fields, and the young plants are moved by hand once they are a few weeks old.",
        "John and Maria live in Boston. Their daughter's school is near the river, and her favorite color is purple.",
        "The password must be at least eight characters long and contain a number, a letter and a symbol.",
    ),
)

UNRELATED = Generic(
    exchanges=tuple(
        Exchange(*pair)
        for pair in (
            ("What is the capital of France?", "The capital of France is Paris."),
            ("How many days are in a week?", "There are seven days in a week."),
            ("Why is the sky blue?", "The sky is blue because air scatters blue light more than red light."),
            ("Write a short sentence about a cat.", "The cat sat by the window and watched the birds."),
            ("What is 7 plus 5?", "7 plus 5 is 12."),
            ("Who wrote Hamlet?", "Hamlet was written by William Shakespeare."),
            ("What do bees make?", "Bees make honey."),
            (
                "Give me a tip for sleeping well.",
                "Go to bed at the same time every night and avoid screens before sleep.",
            ),
            ("Can you tell me a joke?", "Why did the chicken cross the road? To get to the other side."),
            ("Translate 'thank you' into French.", "Thank you in French is merci."),
            ("What's the boiling point of water?", "Water boils at 100 degrees Celsius at sea level."),
            ("Thanks for your help.", "You're welcome! Let me know if you need anything else."),
        )
    ),
    passages=(
        "The history of bread begins in the Fertile Crescent, where people ground wild grains between stones.",
        "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
        "Water boils at a lower temperature in the mountains because the air pressure there is lower than at the sea.",
        "She closed the door, put her keys on the table and listened to the rain that was falling on the roof.",
        "The meeting was moved to Thursday because two of the members could not come on the day that was planned.",
    ),
)
