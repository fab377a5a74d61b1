"""The sixteen nouns, in the order that everything numbered by noun follows."""

from pretraining.world.toys.animals import CAT, DOG, RABBIT, TEDDY
from pretraining.world.toys.base import Parameters, Toy
from pretraining.world.toys.people import WOMAN
from pretraining.world.toys.things import CAR, CHAIR, FLOWER, HAT, LAMP, SUNGLASSES
from pretraining.world.toys.vessels import BALL, BARREL, CUP, JAR, TEAPOT

__all__ = ["NOUNS", "Parameters", "Toy"]

NOUNS: dict[str, Toy] = {
    "cat": CAT,
    "dog": DOG,
    "rabbit": RABBIT,
    "teddy bear": TEDDY,
    "jar": JAR,
    "teapot": TEAPOT,
    "cup": CUP,
    "barrel": BARREL,
    "ball": BALL,
    "car": CAR,
    "chair": CHAIR,
    "hat": HAT,
    "sunglasses": SUNGLASSES,
    "flower": FLOWER,
    "woman": WOMAN,
    "lamp": LAMP,
}
