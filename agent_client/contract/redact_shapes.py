"""Credentials known by where they stand: headers, addresses, command lines, key blocks, prose.

Sources: RFC 7617 and 6750 (Basic, Bearer), RFC 6265 (cookies), RFC 3986 (user-info), RFC 7468 (PEM),
the manuals of curl, sshpass, mysql, docker, netrc, and the SQL of PostgreSQL and MySQL.
"""

# ruff: noqa: E501 - a pattern or an example stays whole
from __future__ import annotations

from agent_client.contract.redact_rules import Rule

# What may stand between the name of a header and its value: colon, quotes, escapes.
_SEP = r"\\*[\"'`]?\]?\s*[:=,]\s*\\*[\"'`]?"
_TELLING_NAME = (
    r"[\w.-]*(?:token|secret|passw(?:or)?d|passwd|pwd|api[_-]?key|access[_-]?key|auth|signature)"
)

SHAPE_RULES: tuple[Rule, ...] = (
    Rule(
        id="private-key",
        # The body is a run of what PEM may hold, escaped newlines included; a block cut off before
        # its end goes as well. A hyphen only inside a word, so that the run stops at "-----END".
        pattern=r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[\w+/=\s\\:,.()@<>|\"]|-[0-9A-Za-z])*(?:-----END [A-Z0-9 ]{0,40}-----)?",
        keywords=("PRIVATE KEY",),
        judge="key-block",
        spans_lines=True,
        matches=("-----BEGIN RSA PRIVATE KEY-----\n<s64>\n<s64>\n-----END RSA PRIVATE KEY-----",),
        non_matches=(
            "-----BEGIN OPENSSH PRIVATE KEY----------END OPENSSH PRIVATE KEY-----",
            "-----BEGIN PUBLIC KEY-----\n<s64>\n-----END PUBLIC KEY-----",
        ),
    ),
    Rule(
        id="putty-key",
        pattern=r"Private-Lines: \d+(?:\s+[0-9A-Za-z+/=]{16,})+",
        keywords=("Private-Lines",),
        judge="any",
        spans_lines=True,
        matches=("Private-Lines: 2\n<s64>\n<s64>",),
        non_matches=("Private-Lines: 2",),
    ),
    Rule(
        id="password-hash",
        pattern=r"\$2[abxy]\$\d\d\$[./0-9A-Za-z]{53}|\$(?:[156y]|apr1)\$[./=,0-9A-Za-z$]{22,}"
        r"|\$argon2id?\$[\w$=,+/.]{40,}",
        keywords=(r"\$(?:2[abxy]|[156y]|apr1|argon2id?)\$",),
        matches=("admin:$2y$10$<w53>", "root:$6$<w16>$<w86>:19000:0"),
        non_matches=("cost $1$2",),
    ),
    Rule(
        id="authorization",
        pattern=r"(?i)authorization"
        + _SEP
        + r"(?:(?:bearer|basic|token|apikey|api-key|key|negotiate"
        r"|ntlm|splunk|sso-key|genie[\w-]*|bot|jwt|pve[\w-]*|ghost|deepl[\w-]*|discogs)[ =:]\s*|[a-z][\w-]{1,20}[ ]+)?"
        r"([^\s\"'`\\<>{}$*\[][^\s\"'`\\<>]*)",
        keywords=("(?i)authorization",),
        judge="opaque",
        group=1,
        matches=("Authorization: Bearer <w40>", '"authorization":"token <h40>"'),
        non_matches=("Authorization: Bearer <token>", "authorization: required for this page"),
    ),
    Rule(
        id="authorization-parameters",
        pattern=r"(?i)authorization"
        + _SEP
        + r"(?:digest|aws4-hmac-sha256|oauth|hawk|mac|signature)\s+"
        r"([^\r\n`\\<>{}$*\[][^\r\n`\\]*)",
        keywords=("(?i)authorization",),
        judge="opaque",
        group=1,
        matches=("Authorization: AWS4-HMAC-SHA256 Credential=<A20>/x, Signature=<h64>",),
        non_matches=("authorization: digest is what the old proxy wants",),
    ),
    Rule(
        id="bearer",
        pattern=r"(?i)\bbearer(?:\s+|%20)\\*[\"'`]?([\w.~+/=|:-]{12,})",
        keywords=("(?i)bearer",),
        judge="opaque",
        group=1,
        matches=("send it as Bearer <w30>",),
        non_matches=("the bearer authentication-scheme of the server",),
    ),
    Rule(
        id="basic",
        pattern=r"(?i)\bbasic\s+([0-9A-Za-z+/]{8,}={0,2})",
        keywords=("(?i)basic",),
        judge="basic",
        group=1,
        matches=("Basic dXNlcjpwYXNzd29yZDEyMw==",),
        non_matches=("Basic authentication is off",),
    ),
    Rule(
        id="cookie",
        pattern=r"(?i)\b(?:set-)?cookie" + _SEP + r"([\w.-]{1,128}=[^\s\"'\\;,]{4,}"
        r"(?:;\s*[\w.-]{1,128}=[^\s\"'\\;,]*)*)",
        keywords=("(?i)cookie",),
        judge="cookie",
        group=1,
        matches=("Cookie: sid=<w24>; theme=dark", "Set-Cookie: session=<w32>; Path=/"),
        non_matches=(
            "if cookie.port is not None:",
            "Set-Cookie: lang=en-GB; Path=/; SameSite=Lax",
        ),
    ),
    Rule(
        id="url-password",
        pattern=r"[A-Za-z][\w+.-]*://[^\s/?#\"'<>@:\\\[]*:([^\s/\"'<>\\]+)@[\w\[%$({]",
        keywords=("://",),
        judge="any",
        group=1,
        matches=("postgres://app:<w12>@db/shop", "mongodb+srv://u:p-<w9>@cluster0.mongodb.net"),
        non_matches=("https://url:8000 @something", "redis://user:${PW}@h", "https://host/a@b"),
    ),
    Rule(
        id="url-token",
        pattern=r"[A-Za-z][\w+.-]*://([^\s/?#\"'<>@:\\\[]{20,})(?::x-oauth-basic)?@[\w\[]",
        keywords=("://",),
        judge="opaque",
        group=1,
        matches=("https://<w32>@git.example.com/team/app.git",),
        non_matches=("ssh://deploy-service-user@host/x",),
    ),
    Rule(
        id="url-escaped-parameter",
        pattern=r"(?i)%(?:3F|26)" + _TELLING_NAME + r"%3D([^%&\s\"']{6,})",
        keywords=("(?i)%3D",),
        judge="opaque",
        group=1,
        matches=("redirect=https%3A%2F%2Fx%3Ftoken%3D<w32>%26a%3D1",),
        non_matches=("redirect=https%3A%2F%2Fx%3Fpage%3D12",),
    ),
    Rule(
        id="url-code",
        pattern=r"[?&#](?:code|sig|state|key|ticket|assertion|sas|hmac|appid)=([^&\s\"'<>]{16,})",
        keywords=("[?&#](?:code|sig|state|key|ticket|assertion|sas|hmac|appid)=",),
        judge="strong",
        group=1,
        matches=("https://x/cb?code=<w32>",),
        non_matches=("https://x/cb?code=access_denied_by_user",),
    ),
    Rule(
        id="command-line",
        pattern=r"(?i)--?[\w-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|[_-]pat|credentials?"
        r"|auth|(?:api|app|access|secret|private|master|setup|service|write|encryption|signing|license|auth)[_-]?key)(?:[_-](?:private|secret|value|live|prod|production))?(?:\s+|=)\\*[\"'`]?([^\s\"'`\\<>${}|;()-][^\s\"'`\\<>|;]*)",
        keywords=(
            "(?i)pass",
            "(?i)pwd",
            "(?i)secret",
            "(?i)token",
            "(?i)key",
            "(?i)auth",
            "(?i)cred",
            r"(?i)pat\b",
        ),
        judge="opaque",
        group=1,
        matches=("deploy --token <w24> --verbose", "x --db-password hunter2xx"),
        non_matches=("run --token-file path", "build --no-auth now"),
    ),
    Rule(
        id="command-user",
        pattern=r"\b(?:curl|http|https|wget|xh)\b[^\n|;]*?\s(?:-u|--user|-a|--auth|--proxy-user|-U)"
        r"[\s=]*\\*[\"']?[^\s:\"']+:([^\s\"'\\]+)",
        keywords=(r"\s(?:-u|-a|-U|--user|--auth|--proxy-user)",),
        judge="any",
        group=1,
        matches=("curl -u admin:s3cr3tX9 https://repo", "curl -s --user 'bob:<w12>' https://x"),
        non_matches=(
            'curl -u "name" http://localhost:15130/api/',
            "curl --user neo4j:[PASSWORD] http://x",
        ),
    ),
    Rule(
        id="command-password",
        pattern=r"\b(?:sshpass|mysql|mysqldump|mysqladmin|mariadb|mongo|mongosh|mongodump|mongorestore|cqlsh|clickhouse-client|snowsql|svn|mosquitto_pub|mosquitto_sub|lftp|xfreerdp|evil-winrm|oc login|docker login|podman login|helm registry login"
        r"|redis-cli|az login|zip|7z|unzip|smbclient|ldapsearch|kinit|htpasswd|sqlcmd|bcp)\b"
        r"[^\n|;]*?\s-(?:p|P|a|w|u[^\n|;]{1,40}\s-p)\s?\\*[\"']?([^\s\"'\\-][^\s\"'\\]{3,})",
        keywords=(r"\s-[pPaw]",),
        judge="opaque",
        group=1,
        matches=("sshpass -p 'Zx9!kLm2Qw' ssh ops@h", "mysql -u root -pXXap0JTt1 -h db shop"),
        non_matches=("mysql -P port -u root", "docker run -p 8080:80 x"),
    ),
    Rule(
        id="docker-env",
        pattern=r"(?m)^\s*(?:ENV|ARG)\s+\w*(?:PASS|PWD|SECRET|TOKEN|KEY|CREDENTIAL|AUTH)\w*\s+[\"']?([^\s\"'=$]\S{5,})",
        keywords=(r"(?:ENV|ARG)\s",),
        judge="opaque",
        group=1,
        matches=("ENV DB_PASSWORD <w20>",),
        non_matches=("ENV KEYBOARD_LAYOUT english",),
    ),
    Rule(
        id="netrc",
        pattern=r"\b(?:login|account|user|username)\s+\S{1,128}\s+(?:password|passwd)\s+(\S{4,})",
        keywords=(r"(?:password|passwd)\s",),
        judge="opaque",
        group=1,
        matches=("machine h login bot password <w22>",),
        non_matches=("the user must password protect",),
    ),
    Rule(
        id="sql-password",
        pattern=r"(?i)\b(?:identified\s+(?:with\s+\w+\s+)?by|(?:with|encrypted|set|(?:role|user)\s+\S{1,64})\s+password|password\s+for\s+\S+\s*=)"
        r"\s*(?:=\s*)?[\"']([^\"'\n]{3,})[\"']",
        keywords=("(?i)identified", "(?i)password"),
        judge="any",
        group=1,
        matches=("CREATE USER app WITH PASSWORD 'Zx9!kLm2Qw';", "IDENTIFIED BY 'qwe9rty'"),
        non_matches=("login with password 'xxxx'",),
    ),
    Rule(
        id="seed-phrase",
        pattern=r"(?i)(?:seed|mnemonic|recovery|backup|secret)[ _-]?(?:phrase|words|key)?\\*[\"']?\]?"
        r"(?:,?\s+\\*[\"']?value\\*[\"']?)?(?: is)?\s*[:=,]?\s*\\*[\"']?((?:[a-z]{3,8}[ ,]{1,2}){11,23}[a-z]{3,8})",
        keywords=("(?i)seed", "(?i)mnemonic", "(?i)recovery", "(?i)phrase", "(?i)words"),
        judge="words",
        group=1,
        matches=(
            "seed phrase: abandon ability able about above absent absorb abstract absurd abuse access accident",
            'setProperty("mnemonic", "abandon ability able about above absent absorb abstract absurd abuse access accident")',
            "- name: MNEMONIC\n  value: abandon ability able about above absent absorb abstract absurd abuse access accident",
            "env['MNEMONIC'] = 'abandon ability able about above absent absorb abstract absurd abuse access accident'",
        ),
        non_matches=("seed phrase: twelve words that you keep",),
    ),
    Rule(
        id="prose",
        pattern=r"(?i)\b(?:passwords?|passphrase|passcode|secret|token|key|pass|pwd|credentials?|pin)"
        r"\s+(?:is|was|are|to)\s*:?\s+[\"'`*]*([^\s\"'`<>$(){}\[\]]{6,})",
        keywords=(
            "(?i)pass",
            "(?i)secret",
            "(?i)token",
            "(?i)key",
            "(?i)pwd",
            "(?i)credential",
            "(?i)pin",
        ),
        judge="opaque",
        group=1,
        matches=("The admin password is hunter2!ZJZV, do not share it.",),
        non_matches=("the key is whatever the caller gave", "the token is 12 long"),
    ),
    Rule(
        id="prose-key",
        pattern=r"(?i)\b(?:password|token|key|secret|bearer|credential)\s+(?:value\s+)?[\"'`(]?([\w.+/=|!:-]{16,})",
        keywords=(r"(?i)(?:password|token|key|secret|bearer|credential)\s",),
        judge="strong",
        group=1,
        matches=("401 for key <w32> (attempt 2)",),
        non_matches=(
            "public key SHA256:abcdefghijklmnopqrstuv",
            "the key distribution-center-service",
        ),
    ),
    Rule(
        id="compared",
        pattern=r"(?i)[\"']([^\"'\n]{6,})[\"']\s{0,4}(?:={2,3}|!={1,2})\s{0,4}[\w.$>-]*(?:password|passwd|pwd|_pass\b|secret|api_?key|access_key|private_key|token|auth_?key)\b",
        keywords=("==", "!="),
        judge="opaque",
        group=1,
        matches=('if ("a1<w10>{}" == password) {',),
        non_matches=('if "application/json" == token:', "x == y"),
    ),
    Rule(
        id="xml-element",
        pattern=r"(?i)<[\w.:-]*(?:password|passwd|secret|token|api-?_?key|access-?_?key)[\w.:-]*>\s*([^<\s]{4,})\s*</",
        keywords=("</",),
        judge="opaque",
        group=1,
        spans_lines=True,
        matches=("<acmeToken>\n  <a32>\n</acmeToken>",),
        non_matches=("<tokenType>bearer</tokenType>",),
    ),
    Rule(
        id="xml-attribute",
        pattern=r"(?i)key=\"[\w.:-]*(?:password|secret|token|apikey)\"\s+value=\"([^\"]{4,})\"",
        keywords=('(?i)value="',),
        judge="any",
        group=1,
        matches=('<add key="ClearTextPassword" value="<w12>" />',),
        non_matches=('<add key="ClearTextPassword" value="%Env%" />',),
    ),
)
