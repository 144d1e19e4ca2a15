#!/bin/sh
cat <<'E'
{"Version": 1, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret", "Expiration": "2099-01-01T02:00:00.5+02:00"}
E
