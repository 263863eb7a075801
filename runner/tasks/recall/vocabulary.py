"""Frequent adjectives and nouns from which needle names are drawn."""

_ADJECTIVES = """
amber ancient bitter blank bold brave bright broad calm clear clever cold copper crisp curly dark deep dusty eager
early empty fair famous fancy fast flat fresh gentle golden grand happy heavy hidden humble jolly late lazy light
little lonely loud lucky mild modest narrow noble plain proud quick quiet rapid rare round silent silver slow smooth
solid sweet warm
"""
_NOUNS = """
anchor apple arrow badge barrel basket beach bell bird board boat bottle bridge brush button cabin camel candle canyon
carpet castle cattle chair cherry circle cloud coast comet corner cotton crown desert dragon drum eagle engine falcon
farm feather fence field flame forest fountain garden glove hammer harbor hill honey horse island jacket journey
kettle kitchen kite ladder lake lamp lantern lemon lion market meadow mirror monkey mountain needle ocean orchard
palace panther paper pebble pepper pillow planet pocket pond rabbit ribbon river rocket saddle sailor shadow shell
ship spoon station stone summer table temple tiger tower tunnel valley window
"""
ADJECTIVES, NOUNS = tuple(_ADJECTIVES.split()), tuple(_NOUNS.split())
