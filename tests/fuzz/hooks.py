"""Hooks for schemathesis. They keep a run from losing its own access, which would turn all later responses into 401,
adjust requests that would otherwise never succeed, and count the responses."""

import atexit
import os
from collections import Counter, defaultdict

import requests
import schemathesis

KEY = os.environ["TOLLHOUSE_KEY"]


def call(method, path, body=None):
    response = requests.request(
        method,
        f"{os.environ['TOLLHOUSE_URL']}/admin/v1{path}",
        headers={"Authorization": f"Bearer {KEY}"},
        json=body,
        timeout=10,
    )
    response.raise_for_status()
    return response.json()["data"]


# A limit of calls per minute that no run reaches.
UNREACHABLE_LIMIT = 1_000_000

OWN_KEY_ID = call("GET", "/whoami")["api_key"]["id"]

# Number of responses by operation and status.
statuses_by_operation = defaultdict(Counter)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Replaces the ID of the run's own key, which schemathesis takes from earlier responses, in changes. The server
    refuses only the revocation of the last recovery key, and the run creates others. It doesn't refuse that the key
    rotates or narrows itself."""
    if case.method.upper() != "GET" and case.path_parameters.get("id") == OWN_KEY_ID:
        case.path_parameters["id"] = "key_0"
    operation = case.operation.definition.raw["operationId"]
    # A limit that is reached would hide other responses, and would end the run in the calls of these hooks.
    if operation == "updateConfiguration" and isinstance(case.body, dict):
        limits = case.body.get("rate_limits")
        if isinstance(limits, dict) and limits.get("admin_per_minute") in range(1, UNREACHABLE_LIMIT):
            limits["admin_per_minute"] = UNREACHABLE_LIMIT
    calls = sum(statuses_by_operation[operation].values())
    # Adjusts only every second request, so that refusals occur too.
    if calls % 2 == 0:
        # A generated ETag is never the current one.
        if case.headers.get("If-Match"):
            case.headers["If-Match"] = "*"
        # Generated keys repeat, and every request but the first with the same key is a 422.
        if case.headers.get("Idempotency-Key"):
            case.headers["Idempotency-Key"] = f"{operation}-{calls}"
        # Generated IDs rarely name a user and an organization with a membership, so one is created to be deleted.
        if operation == "deleteMember" and case.method.upper() == "DELETE":
            email = f"{calls}@fuzz.example"
            organization = call("POST", "/organizations", {"name": "Fuzz", "email": email})["id"]
            user = call("POST", "/users", {"name": "Fuzz", "email": email})["id"]
            call("POST", f"/organizations/{organization}/members", {"user_id": user, "role": "member"})
            case.path_parameters.update(id=organization, user_id=user)
        # The key of the document's example may have been revoked by then.
        if operation == "rotateApiKey" and case.method.upper() == "POST":
            case.path_parameters["id"] = call("POST", "/api-keys", {"name": "Fuzz", "scopes": ["keys:verify"]})["id"]


@schemathesis.hook
def after_call(context, case, response):
    # The coverage phase also sends other methods, whose responses don't belong to the operation.
    if case.method.upper() == case.operation.method.upper():
        statuses_by_operation[case.operation.definition.raw["operationId"]][response.status_code] += 1


@atexit.register
def report():
    """Prints the counts, and writes the operations that never succeeded to a file for scripts/fuzz."""
    for operation, statuses in sorted(statuses_by_operation.items()):
        print(operation, *(f"{status}:{count}" for status, count in sorted(statuses.items())))
    with open(os.environ["FUZZ_REFUSED"], "w") as file:
        file.writelines(
            f"{operation}\n"
            for operation, statuses in sorted(statuses_by_operation.items())
            if not any(200 <= status < 300 for status in statuses)
        )
