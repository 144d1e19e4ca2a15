#!/bin/sh
cat <<'E'
{"Version": 1, "AccessKeyId": "AKIDPROC", "SecretAccessKey": "procsecret", "Expiration": "Thu, 01 Jan 2099 00:00:00 GMT"}
E
