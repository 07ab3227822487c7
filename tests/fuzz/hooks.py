"""What schemathesis may not do, lest a run spend the rest of its requests on 401, what it is helped with to get past
the first refusal, and the count of what it met."""

import atexit
import os
from collections import Counter, defaultdict

import requests
import schemathesis

KEY = os.environ["TOLLHOUSE_KEY"]


def ask(method, path, body=None):
    answer = requests.request(
        method,
        f"{os.environ['TOLLHOUSE_URL']}/admin/v1{path}",
        headers={"Authorization": f"Bearer {KEY}"},
        json=body,
        timeout=10,
    )
    answer.raise_for_status()
    return answer.json()["data"]


# Calls in a minute that no run makes.
OUT_OF_REACH = 1_000_000

OWN = ask("GET", "/whoami")["api_key"]["id"]

met = defaultdict(Counter)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Ids are taken from earlier answers too, among them that of the key which it calls with. Only the last platform
    key is kept from being revoked, and a run makes others; nor is it kept from being rotated or narrowed."""
    if case.method.upper() != "GET" and case.path_parameters.get("id") == OWN:
        case.path_parameters["id"] = "key_0"
    operation = case.operation.definition.raw["operationId"]
    # A limit that is reached would hide what is behind it, and end the run when it asks for itself.
    if operation == "updateConfiguration" and isinstance(case.body, dict):
        limits = case.body.get("rate_limits")
        if isinstance(limits, dict) and limits.get("admin_per_minute") in range(1, OUT_OF_REACH):
            limits["admin_per_minute"] = OUT_OF_REACH
    calls = sum(met[operation].values())
    # Every second request only, so that the refusals are met too.
    if calls % 2 == 0:
        # No made-up ETag is ever the current one.
        if case.headers.get("If-Match"):
            case.headers["If-Match"] = "*"
        # Generated keys repeat, and every request but the first with the same key is a 422.
        if case.headers.get("Idempotency-Key"):
            case.headers["Idempotency-Key"] = f"{operation}-{calls}"
        # Two ids that belong together are seldom met, and the first to be removed is gone.
        if operation == "deleteMember" and case.method.upper() == "DELETE":
            mail = f"{calls}@fuzz.example"
            organization = ask("POST", "/organizations", {"name": "Fuzz", "email": mail})["id"]
            user = ask("POST", "/users", {"name": "Fuzz", "email": mail})["id"]
            ask("POST", f"/organizations/{organization}/members", {"user_id": user, "role": "member"})
            case.path_parameters.update(id=organization, user_id=user)
        # And the example's key may have been revoked by then.
        if operation == "rotateApiKey" and case.method.upper() == "POST":
            case.path_parameters["id"] = ask("POST", "/api-keys", {"name": "Fuzz", "scopes": ["keys:verify"]})["id"]


@schemathesis.hook
def after_call(context, case, response):
    # Coverage asks with other methods too, which says nothing about the operation.
    if case.method.upper() == case.operation.method.upper():
        met[case.operation.definition.raw["operationId"]][response.status_code] += 1


@atexit.register
def tell():
    """What was met, and for scripts/fuzz the operations that nothing got into."""
    for operation, statuses in sorted(met.items()):
        print(operation, *(f"{status}:{count}" for status, count in sorted(statuses.items())))
    with open(os.environ["FUZZ_REFUSED"], "w") as file:
        file.writelines(
            f"{operation}\n"
            for operation, statuses in sorted(met.items())
            if not any(200 <= status < 300 for status in statuses)
        )
