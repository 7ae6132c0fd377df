"""All that can be reproduced, by name, in the order in which it is made; figure2 and modes train no `sprites`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import figure2, freeze, intervals, longer, making, modes, phases, power, table2, table3, target
from .work import Work

TABLES = {t.TABLE.name: t.TABLE for t in (table2, table3, target, intervals, phases, freeze, longer, power)}
MAKE: dict[str, Callable[[Work], Path]] = {"figure2": figure2.make, modes.NAME: modes.make}
MAKE |= {name: partial(making.make, one) for name, one in TABLES.items()}
