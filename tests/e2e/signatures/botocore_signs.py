"""Signs requests with botocore: a JSON list of requests on standard input, one of signatures on standard output."""

import datetime
import json
import sys

from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


def sign(case):
    now = datetime.datetime.strptime(case["date"], "%Y%m%dT%H%M%SZ")
    auth.get_current_datetime = lambda *ignored, **too: now
    request = AWSRequest(method=case["method"], url=case["url"], data=case["body"].encode())
    for name, value in case["headers"]:
        request.headers.add_header(name, value)
    credentials = Credentials(case["access_key"], case["secret"], case["token"])
    signer = auth.SigV4Auth(credentials, case["service"], case["region"])
    signer.add_auth(request)
    authorization = request.headers["Authorization"]
    del request.headers["Authorization"]
    return {"authorization": authorization, "canonical": signer.canonical_request(request)}


json.dump([sign(case) for case in json.load(sys.stdin)], sys.stdout)
