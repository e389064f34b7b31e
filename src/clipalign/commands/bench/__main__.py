"""`python -m clipalign.commands.bench TASK`: measure one method and print its cost as JSON.

TASK is a JSON object with the arguments of `measure`.
"""

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
        cost = measure(**task)
    except UserError as error:
        cost = Cost(task["method"], task["backbone"], reason=str(error), guide=task.get("guide"))
    print(json.dumps(asdict(cost)))
