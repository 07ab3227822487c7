# Has Authlib decide, by the guide's validator, who may read workflows. Prints its decisions as lines of JSON.
import json
import os
import sys

from introspect import Keys, client

client.token_endpoint_auth_method = os.environ.get("TOKEN_ENDPOINT_AUTH_METHOD", client.token_endpoint_auth_method)

keys = Keys()
for key in sys.argv[1:]:
    try:
        keys.validate_token(keys.authenticate_token(key), ["workflows:read"], None)
        decision = "accepted"
    except Exception as error:
        decision = type(error).__name__
    print(json.dumps(decision))
