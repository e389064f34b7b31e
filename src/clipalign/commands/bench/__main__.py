"""`python -m clipalign.commands.bench TASK`: one method in a process of its own; prints its cost as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from ...core.errors import UserError
from .cost import Cost
from .measure import measure

if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    try:
        found = measure(**task)
    except UserError as error:
        found = Cost(task["method"], task["backbone"], reason=str(error))
    print(json.dumps(asdict(found)))
