#!/bin/sh
cat <<'E'
{"Version": 1, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret", "Expiration": 4070908800}
E
