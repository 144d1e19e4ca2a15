"""Reports the identity that botocore, and so the AWS CLI, uses for AWS files and an environment.

Reads requests as JSON lines and answers each with one line. STS, IAM Identity Center and container endpoints are
simulated below botocore's HTTP client: everything above is the real botocore, including the signature.

A request: `home`, `env` (the whole environment), `profile` (or null), `passwd_home`, `aws` (as in a case.json), and
`repair`: if a file can't be parsed, the faulty sections are removed, and named in the answer (`removed`).
An answer: the identity, or `error`. With `must_refuse` the profile depends on a removed section.
"""

import configparser
import getpass
import io
import json
import os
import pwd
import re
import sys
import urllib.parse


def no_terminal(*_args, **_kwargs):
    raise EOFError


# Before botocore uses it as a default argument.
getpass.getpass = no_terminal

import botocore.auth  # noqa: E402
import botocore.awsrequest  # noqa: E402
import botocore.configloader  # noqa: E402
import botocore.credentials  # noqa: E402
import botocore.httpsession  # noqa: E402
import botocore.loaders  # noqa: E402
import botocore.session  # noqa: E402
import botocore.tokens  # noqa: E402
from botocore.exceptions import ConfigParseError  # noqa: E402

EXPIRY = "2099-01-01T00:00:00Z"
# The first parts of paths by which endpoints are told apart (`PLACES` of known_aws.rs).
PLACES = ("all", "file", "loc", "sts", "sso")


class Aws:
    """The answers of the services for one of our requests, and the requests that they received."""

    def __init__(self, answers):
        self.answers = answers
        self.issued = {}
        self.roles = 0
        self.secret = None

    def send(self, request):
        url = urllib.parse.urlsplit(request.url)
        headers = {}
        for name, value in request.headers.items():
            value = value.decode() if isinstance(value, bytes) else str(value)
            headers[name.lower()] = value
        body = request.body or b""
        body = body if isinstance(body, bytes) else body.encode()
        if url.path.endswith("/federation/credentials"):
            return self.portal(url, headers)
        if url.path.endswith("/token"):
            return self.oidc(json.loads(body))
        if request.method == "POST":
            return self.sts(url, headers, dict(urllib.parse.parse_qsl(body.decode())))
        return self.container(headers)

    def sts(self, url, headers, fields):
        action = fields["Action"]
        error = self.answers.get("sts", {}).get(action)
        if error:
            text = (
                "<ErrorResponse><Error><Type>Sender</Type>"
                f"<Code>{error['code']}</Code><Message>{escaped(error['message'])}</Message>"
                "</Error></ErrorResponse>"
            )
            return error["status"], {}, text
        self.roles += 1
        number = self.roles
        hop = {"role": fields["RoleArn"], "at": place(url)}
        hop |= {"by": None, "by_secret": None, "by_token": None, "sts_region": None}
        signed = re.search(r"Credential=([^/]*)/\d+/([^/]*)/", headers.get("authorization", ""))
        if signed:
            hop["by"] = signed.group(1)
            hop["by_secret"] = self.secret
            hop["by_token"] = headers.get("x-amz-security-token")
            hop["sts_region"] = signed.group(2)
        hop["parameters"] = {
            name: fields[name]
            for name in ("DurationSeconds", "ExternalId", "RoleSessionName", "WebIdentityToken")
            if name in fields and not fields[name].startswith("botocore-session-")
        }
        self.issued[f"AKIDROLE{number}"] = hop
        text = (
            f"<{action}Response><{action}Result><Credentials>"
            f"<AccessKeyId>AKIDROLE{number}</AccessKeyId>"
            f"<SecretAccessKey>rolesecret{number}</SecretAccessKey>"
            f"<SessionToken>roletok{number}</SessionToken><Expiration>{EXPIRY}</Expiration>"
            "</Credentials><AssumedRoleUser><AssumedRoleId>A</AssumedRoleId>"
            f"<Arn>arn:aws:sts::123456789012:assumed-role/R/s</Arn></AssumedRoleUser>"
            f"</{action}Result></{action}Response>"
        )
        return 200, {}, text

    def portal(self, url, headers):
        if self.answers.get("sso"):
            return problem(self.answers["sso"])
        token = headers.get("x-amz-sso_bearer_token")
        if token not in (self.answers.get("sso_tokens") or ["tok1"]):
            message = {"message": "Session token not found or invalid"}
            return problem({"status": 401, "type": "UnauthorizedException", "body": message})
        query = dict(urllib.parse.parse_qsl(url.query))
        self.issued["AKIDSSO1"] = {
            "role": f"{query['account_id']}/{query['role_name']}",
            "at": place(url),
            "by": None,
            "by_secret": None,
            "by_token": token,
            "sts_region": None,
            "parameters": {},
        }
        credentials = {
            "accessKeyId": "AKIDSSO1",
            "secretAccessKey": "ssosecret1",
            "sessionToken": "ssotok1",
            "expiration": 4070908800000,
        }
        return 200, {}, json.dumps({"roleCredentials": credentials})

    def oidc(self, fields):
        if self.answers.get("oidc"):
            return problem(self.answers["oidc"])
        if fields.get("grantType") != "refresh_token":
            error = {"error": "unsupported_grant_type"}
            return problem(
                {"status": 400, "type": "UnsupportedGrantTypeException", "body": error}
            )
        token = {
            "accessToken": "tok2",
            "expiresIn": 28800,
            "tokenType": "Bearer",
            "refreshToken": "r2",
        }
        return 200, {}, json.dumps(token)

    def container(self, headers):
        container = self.answers.get("container", {})
        wanted = container.get("authorization")
        if wanted is not None and headers.get("authorization") != wanted:
            return 401, {}, json.dumps({"code": "Unauthorized", "message": "no such token"})
        usual = {
            "AccessKeyId": "AKIDECS",
            "SecretAccessKey": "ecssecret",
            "Token": "ecstok",
            "Expiration": EXPIRY,
        }
        return 200, {}, json.dumps(container.get("body", usual))


def place(url):
    """The endpoint of a request: the host name of AWS, or the first part of the path of another one."""
    if not url.hostname.startswith("127."):
        return url.hostname
    first = url.path.split("/")[1]
    return first if first in PLACES else ""


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


def problem(error):
    headers = {"x-amzn-ErrorType": error["type"]} if error.get("type") else {}
    return error["status"], headers, json.dumps(error["body"])


class Raw:
    """The part of a response of urllib3 that botocore uses."""

    def __init__(self, body):
        self.body = body

    def stream(self):
        yield self.body


AWS = None


def send(_session, request):
    status, headers, body = AWS.send(request)
    headers = botocore.awsrequest.HeadersDict(headers)
    return botocore.awsrequest.AWSResponse(request.url, status, headers, Raw(body.encode()))


botocore.httpsession.URLLib3Session.send = send


def signing(add_auth):
    """The same signer, which also records the secret that it signs with."""

    def noted(signer, request):
        AWS.secret = signer.credentials.secret_key
        return add_auth(signer, request)

    return noted


botocore.auth.SigV4Auth.add_auth = signing(botocore.auth.SigV4Auth.add_auth)
# Made once for all sessions: reading the models and registering the built-in handlers take most of the time.
LOADER = botocore.loaders.create_loader()
HANDLERS = botocore.session.Session()._original_handler


def new_session(request):
    """A session as `botocore.session.Session` makes it. Clients register their own handlers in a copy."""
    session = botocore.session.Session(
        event_hooks=HANDLERS,
        include_builtin_handlers=False,
        profile=request["profile"],
    )
    session.register_component("data_loader", LOADER)
    return session


def identity(request):
    """The identity, according to botocore."""
    session = new_session(request)
    credentials = session.get_credentials()
    if credentials is None:
        return {"error": "no credentials"}
    frozen = credentials.get_frozen_credentials()
    answer = {
        "key": frozen.access_key,
        "secret": frozen.secret_key,
        # The signer handles an empty token as none.
        "token": frozen.token or None,
        "hops": [],
        "region": session.get_config_variable("region"),
    }
    key = frozen.access_key
    while key in AWS.issued:
        hop = AWS.issued[key]
        answer["hops"].insert(0, hop)
        key = hop["by"]
    return answer


# --- Files that can't be parsed.


def sections_of(text):
    """The ranges of lines of each section, as configparser finds them (RawConfigParser._read)."""
    ranges, name, start, option, indent = [], None, 0, None, 0
    # Not splitlines, which ends a line at a form feed too.
    lines = list(io.StringIO(text))
    for number, line in enumerate(lines):
        stripped = line.strip()
        if stripped.startswith(("#", ";")) or not stripped:
            if not stripped:
                indent = sys.maxsize if option is None else indent
            continue
        level = len(line) - len(line.lstrip())
        if name is not None and option and level > indent:
            continue
        indent = level
        header = re.match(r"\[(.+)\]", stripped)
        if header:
            ranges.append((name, start, number))
            name, start, option = header.group(1), number, None
        else:
            option = stripped
    ranges.append((name, start, len(lines)))
    return lines, ranges


def repair(path):
    """Removes the sections that configparser refuses, one after another.

    Returns their names, with None for lines before the first section, and the remaining text.
    """
    with open(path, "rb") as file:
        data = file.read()
    # With universal newlines, as in configparser.
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    removed = []
    while True:
        faulty = faults(text)
        if not faulty:
            return removed, text
        removed += faulty
        if None in faulty:
            return removed, ""
        lines, ranges = sections_of(text)
        left = [line for name, start, end in ranges if name not in faulty for line in lines[start:end]]
        if len(left) == len(lines):
            return removed + [None], ""
        text = "".join(left)


def faults(text):
    """The names of the sections that make configparser or botocore refuse the text."""
    lines, ranges = sections_of(text)

    def at(number):
        return [name for name, start, end in ranges if start <= number < end]

    for number, line in enumerate(lines):
        if any("\udc80" <= char <= "\udcff" for char in line):
            return at(number)
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.MissingSectionHeaderError:
        return [None]
    except (configparser.DuplicateSectionError, configparser.DuplicateOptionError) as error:
        return [error.section]
    except configparser.ParsingError as error:
        return sorted({name or "" for number, _ in error.errors for name in at(number - 1)})
    for section in parser.sections():
        for option in parser.options(section):
            value = parser.get(section, option)
            if value.startswith("\n"):
                try:
                    botocore.configloader._parse_nested(value)
                except ValueError:
                    return [section]
    return []


def named(section, kind):
    """The name of a section of the config file, if it is of that kind."""
    if kind == "profile" and section == "default":
        return "default"
    if section.startswith(kind):
        return next(iter(botocore.configloader._parse_section(section, True)), None)
    return None


def repaired(request):
    """The identity after the faulty sections were removed from the files."""
    removed = []
    for variable, usual in (
        ("AWS_CONFIG_FILE", ".aws/config"),
        ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
    ):
        path = request["env"].get(variable) or os.path.join(request["home"], usual)
        path = os.path.expanduser(os.path.expandvars(path))
        if not os.path.isfile(path):
            continue
        faulty, text = repair(path)
        if faulty:
            removed += [(usual, section) for section in faulty]
            copy = path + ".repaired"
            with open(copy, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            os.environ[variable] = copy
    answer = attempt(request)
    answer["removed"] = [f"{file}: [{section}]" for file, section in removed]
    answer["must_refuse"] = any(
        section is None or section == "DEFAULT" for _, section in removed
    ) or builds_on(request, removed)
    return answer


def builds_on(request, removed):
    """Whether the profile, or one that it depends on, is in a removed section."""

    def gone(kind, name):
        return any(
            (file == ".aws/credentials" and kind == "profile" and section == name)
            or (file == ".aws/config" and named(section, kind) == name)
            for file, section in removed
        )

    try:
        session = new_session(request)
        profiles = session.full_config["profiles"]
        name = session.get_config_variable("profile") or "default"
    except Exception:  # noqa: BLE001 - after any error, the profile can't be used
        return True
    seen = set()
    while name not in seen:
        seen.add(name)
        settings = profiles.get(name, {})
        if gone("profile", name):
            return True
        for kind, key in (("sso-session", "sso_session"), ("services", "services")):
            # Only the services of the requested profile matter.
            if kind == "services" and len(seen) > 1:
                continue
            if key in settings and gone(kind, settings[key]):
                return True
        # Keys of a source take precedence over its role.
        if len(seen) > 1 and {"aws_access_key_id", "aws_secret_access_key"} & settings.keys():
            return False
        if "role_arn" in settings and "source_profile" in settings:
            name = settings["source_profile"]
    return False


def attempt(request):
    """An identity, or an error."""
    global AWS
    AWS = Aws(request.get("aws") or {})
    try:
        return identity(request)
    except Exception as error:  # noqa: BLE001 - every error is an answer
        return {"error": f"{type(error).__name__}: {error}", "parse": isinstance(error, ConfigParseError)}


def answer(request):
    os.environ.clear()
    os.environ.update(request["env"])
    home = request["env"].get("HOME") or request.get("passwd_home") or "/nonexistent"
    pwd.getpwuid = lambda _uid: pwd.struct_passwd(("u", "x", 0, 0, "", home, "/bin/sh"))
    # These depend on the home of this process.
    cache = os.path.join(home, ".aws", "sso", "cache")
    botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR = cache
    botocore.tokens.SSOTokenProvider._SSO_TOKEN_CACHE_DIR = cache
    found = attempt(request)
    if request.get("repair") and found.get("parse"):
        found = repaired(request)
    return found


def main():
    for line in sys.stdin:
        text = json.dumps(answer(json.loads(line)), ensure_ascii=False)
        # An error may quote bytes that aren't text.
        sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
