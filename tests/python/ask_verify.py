# Asks for each key of the command line by the guide's own function. Prints each answer as a line of JSON.
import asyncio
import json
import sys

from verify import verify


async def main():
    for key in sys.argv[1:]:
        print(json.dumps(await verify(key, ["workflows:read"], "203.0.113.7")))


asyncio.run(main())
