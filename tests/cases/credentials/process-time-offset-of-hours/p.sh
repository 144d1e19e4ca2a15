#!/bin/sh
cat <<'E'
{"Version": 1, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret", "Expiration": "2099-01-01T00:00:00+00"}
E
