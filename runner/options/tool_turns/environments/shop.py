"""A shop with products in stock and orders of customers."""

from __future__ import annotations

from random import Random
from typing import Any

from runner.options.tool_turns.environments.base import ANY, Environment, Slots, State, ToolError

PRODUCTS = (
    "blue mug",
    "desk lamp",
    "wool scarf",
    "steel bottle",
    "paper fan",
    "oak tray",
    "tea pot",
    "rain coat",
)
CUSTOMERS = ("Ortiz", "Novak", "Keller", "Haddad", "Larsen", "Moreau", "Tanaka", "Walsh")
OPEN, SENT, CANCELLED, RETURNED = "open", "sent", "cancelled", "returned"
SHAPE = {
    "products": {ANY: {"name": "string", "price": "number", "stock": "integer"}},
    "orders": {
        ANY: {"customer": "string", "product_id": "string", "quantity": "integer", "status": "string"}
    },
}


def find_product(state: State, name: str) -> Any:
    wanted = name.strip().casefold()
    found = [
        {"product_id": key} | product
        for key, product in state["products"].items()
        if product["name"].casefold() == wanted
    ]
    if not found:
        raise ToolError(f"there is no product with the name {name}")
    return found[0]


def list_orders(state: State, customer: str) -> Any:
    return [
        {"order_id": key} | order for key, order in state["orders"].items() if order["customer"] == customer
    ]


def place_order(state: State, customer: str, product_id: str, quantity: int) -> Any:
    if product_id not in state["products"]:
        raise ToolError(f"there is no product {product_id}")
    product = state["products"][product_id]
    if quantity < 1:
        raise ToolError("the quantity must be 1 or more")
    if quantity > product["stock"]:
        raise ToolError(f"only {product['stock']} of {product_id} are in stock")
    product["stock"] -= quantity
    numbers = [int(key[1:]) for key in state["orders"] if key[1:].isdecimal()]
    key = f"O{1 + max(numbers, default=0)}"
    state["orders"][key] = {
        "customer": customer,
        "product_id": product_id,
        "quantity": quantity,
        "status": OPEN,
    }
    return {"order_id": key}


def cancel_order(state: State, order_id: str) -> None:
    _end_order_and_restock(state, order_id, OPEN, CANCELLED)


def return_order(state: State, order_id: str) -> None:
    _end_order_and_restock(state, order_id, SENT, RETURNED)


def _end_order_and_restock(state: State, order_id: str, expected: str, status: str) -> None:
    if order_id not in state["orders"]:
        raise ToolError(f"there is no order {order_id}")
    order = state["orders"][order_id]
    if order["status"] != expected:
        raise ToolError(f"the order {order_id} is {order['status']}")
    order["status"] = status
    if order["product_id"] in state["products"]:
        state["products"][order["product_id"]]["stock"] += order["quantity"]


def _generate_random_shop(random: Random) -> tuple[State, Slots]:
    names, customers = random.sample(PRODUCTS, 5), random.sample(CUSTOMERS, 6)
    products = {
        f"P{number}": {"name": name, "price": random.randint(4, 60), "stock": random.randint(10, 30)}
        for number, name in enumerate(names, start=1)
    }
    statuses = [OPEN, OPEN, SENT, SENT, OPEN]
    orders = {
        f"O{number}": {
            "customer": customer,
            "product_id": random.choice([*products]),
            "quantity": random.randint(1, 4),
            "status": status,
        }
        for number, (customer, status) in enumerate(zip(customers, statuses, strict=False), start=1)
    }
    order, sent = random.choice(("O1", "O2", "O5")), random.choice(("O3", "O4"))
    product = random.choice([*products])
    slots = {
        "order": order,
        "order_customer": orders[order]["customer"],
        "order_product": orders[order]["product_id"],
        "order_quantity": orders[order]["quantity"],
        "sent": sent,
        "sent_product": orders[sent]["product_id"],
        "sent_quantity": orders[sent]["quantity"],
        "customer": customers[5],
        "product": product,
        "product_name": products[product]["name"],
        "new_order": "O6",
        "quantity": random.randint(1, 4),
        "more": random.randint(5, 8),
        "few": random.randint(2, 4),
    }
    return {"products": products, "orders": orders}, slots


ENVIRONMENT = Environment(
    "shop",
    SHAPE,
    {
        "find_product": find_product,
        "list_orders": list_orders,
        "place_order": place_order,
        "cancel_order": cancel_order,
        "return_order": return_order,
    },
    _generate_random_shop,
    frozenset({"orders"}),
)
