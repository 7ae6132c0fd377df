"""The tables by name; figure2 has no models and stands apart."""

from __future__ import annotations

from . import freeze, intervals, phases, table2, table3, target

TABLES = {one.TABLE.name: one.TABLE for one in (table2, table3, target, intervals, phases, freeze)}
