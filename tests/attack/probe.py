"""A helper that does what it is told: Python code in, one JSON line out. For tests, from inside a helper's privilege.

Stands alone, under ``-I -S``: descriptor 3 brings {"code", "values"} lines, 4 takes the answers.
"""

import json
import os
import sys


def main():
    reader = os.fdopen(3, "rb", buffering=0)
    rest = b""
    space = {"os": os, "sys": sys}
    while True:
        while b"\n" not in rest:
            data = reader.read(65536)
            if not data:
                return
            rest += data
        line, rest = rest.split(b"\n", 1)
        order = json.loads(line)
        space.update(order["values"], result=None)
        try:
            exec(order["code"], space)
            answer = {"result": space["result"]}
        except OSError as error:
            answer = {"error": str(error), "errno": error.errno or 5}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        os.write(4, json.dumps(answer).encode() + b"\n")


main()
