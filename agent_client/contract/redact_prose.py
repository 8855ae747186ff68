"""Credentials as people write them: prose in many languages, Markdown, name and value, shells.

Sources: the manuals of sudo, chpasswd, smbclient, setx, fish, the Vault, AWS and npm CLIs, libpq
(.pgpass), RFC 7578 (forms), the property lists of Apple and Android, the cookie file of curl.
"""

# ruff: noqa: E501, RUF001 - a pattern or an example stays whole, in the marks of its language
from __future__ import annotations

from agent_client.contract.redact_rules import Rule

_TELLING = (
    r"(?:passw(?:or)?d|passwd|passphrase|pwd|secret|token|api[ _-]?key|access[ _-]?key|private[ _-]?key"
    r"|auth[ _-]?key|credential)"
)
# Password, then key and token, in the languages whose speakers the host has most of.
_FOREIGN = (
    r"(?:passwort|kennwort|zugangsdaten|contrase(?:ñ|n)a|clave|mot de passe|\bmdp|senha|palavra-passe|wachtwoord"
    r"|(?:П|п)арол|密码|密碼|口令|パスワード|暗証番号|비밀번호|암호|has(?:ł|l)o|l(?:ö|o)senord|passord|(?:ş|Ş|s)ifre|parol(?:a|ă)"
    r"|heslo|adgangskode|salasana|jelsz(?:ó|o)|كلمة المرور|كلمة السر|סיסמה|סיסמא|(?:κ|Κ)ωδικ(?:ό|ο)ς|m(?:ậ|a)t kh(?:ẩ|a)u|kata sandi"
    r"|lozinka|geslo|लॉगिन|पासवर्ड|รหัสผ่าน"
    r"|schl(?:ü|ue)ssel|zugangstoken|cl(?:é|e) d'api|cl(?:é|e) api|jeton|llave|chave|(?:К|к)люч|(?:Т|т)окен|密钥|密鑰|令牌|秘密鍵|トークン|키는)"
)
_IS = r"(?:[:!]?={1,3}>?|[:=]|：|＝|—|–|->|=>|是|为|為|は|\bist\b|\blautet\b|\bes\b|\best\b|\bis\b|é|è|\bto\b|\bjest\b|\bär\b|\ber\b|\bon\b)"
_VALUE = r"([^\s\"'`<>«»„“”]{6,})"

PROSE_RULES: tuple[Rule, ...] = (
    Rule(
        id="prose-foreign",
        pattern=r"(?i)"
        + _FOREIGN
        + r"[^\n:=\"'`.,;!?]*?[\"'`]?\s*"
        + _IS
        + r"\s*@?[\"'`*«„“]*"
        + _VALUE,
        keywords=("(?i)" + _FOREIGN,),
        judge="opaque",
        group=1,
        matches=("Das Passwort lautet S3cr3t-<w6>.", "密码：<w12>", "contraseña: <w12>"),
        non_matches=("Das Passwort ist falsch, bitte neu setzen.", "Passwort: vergessen?"),
    ),
    Rule(
        id="prose-foreign-next",
        pattern=r"(?:(?:П|п)арол|密码|パスワード|비밀번호)[\x80-\xff \t]*[\"'`(]*([!#-&*-9?-_a-~]{6,})",
        keywords=("(?:П|п)арол", "密码", "パスワード", "비밀번호"),
        judge="password",
        group=1,
        matches=("Пароль от базы S3cr3t-<w6>",),
        non_matches=("пароль должен быть длиннее",),
    ),
    Rule(
        id="prose-of",
        pattern=r"(?i)\b(?:passwords?|passphrase|passcode|secret|token|key|pw)\s+(?:for|of|on|at)\s+(?:[\w.'-]{1,32}\s+){1,5}?(?:is|was|:|=)\s*[\"'`*]*([^\s\"'`<>$(){}\[\]]{6,})",
        keywords=("(?i)pass", "(?i)secret", "(?i)token", "(?i)key", "(?i)pw"),
        judge="opaque",
        group=1,
        matches=("the password for the db is `S3cr3t-<w6>`",),
        non_matches=("the key of the map is whatever came first", "token of kind: NAME"),
    ),
    Rule(
        id="prose-password",
        pattern=r"(?i)\b(?:passwords?|passphrase|pwd|pw|psw|pass)(?:[ \t]+is)?[ \t]+[\"'`(]?([^\s\"'`<>(){}\[\]]{8,})",
        keywords=("(?i)pass", "(?i)pwd", "(?i)psw", r"(?i)\bpw"),
        judge="password",
        group=1,
        matches=("Use user admin and password Summer2024!99 to log in.", "pw is Zx9!kLm2Qw ok?"),
        non_matches=("the password PBKDF2-hashed", "passing test_42 of suite_9A"),
    ),
    Rule(
        id="prose-access",
        pattern=r"(?i)\b(?:api|access|secret|auth|refresh|bearer|deploy|personal)[ _-](?:key|token)s?(?:\s+|\s*(?:—|–|->)\s*)(?:is\s+|was\s+)?[\"'`(]?([\w.+/=|!:-]{16,})",
        keywords=(
            r"(?i)(?:api|access|secret|auth|refresh|bearer|deploy|personal)[ _-](?:key|token)",
        ),
        judge="opaque",
        group=1,
        matches=("ERROR invalid api key <h32>", 'got refresh token "<h40>"', "API key — <w32>"),
        non_matches=("the access token authentication-scheme", "an api key (see section 4.2.1)"),
    ),
    Rule(
        id="prose-variable",
        pattern=r"\b(?:[A-Z][A-Z0-9_]*(?:PASSWORD|PASSWD|SECRET|TOKEN)|[A-Z0-9_]*(?:API|APP|ACCESS|SECRET|PRIVATE|AUTH|SERVICE|ENCRYPTION|SIGNING|LICENSE|MASTER|ADMIN)_?KEY)[\"'`]? (?:(?:is|was|to|as|with|value) )?[\"'`]?([^\s\"'`<>$(){}\[\]=][^\s\"'`<>(){}\[\]]{11,})",
        keywords=tuple(
            name + end
            for name in ("PASSWORD", "PASSWD", "SECRET", "TOKEN", "KEY")
            for end in (" ", '" ', "' ", "` ")
        ),
        judge="opaque",
        group=1,
        matches=("I set DB_PASSWORD to S3cr3t!<w8>", "using ACME_API_TOKEN <h64>"),
        non_matches=(
            "ACCESS_TOKEN authentication-failed",
            "CSRF_TOKEN is missing-or-incorrect",
            "CACHE_KEY <h40>",
        ),
    ),
    Rule(
        id="prose-app-password",
        # Four groups of four letters, one of them without a vowel, as Google and Apple make them.
        pattern=r"(?i:passw(?:or)?[dt]|passwd|_pass|pwd|schl(?:ü|ue)ssel|contrase(?:ñ|n)a|mot de passe|senha)[^\n=:(]{0,32}?(?:[=:(,]|\b(?:is|ist|es|est)\b)\s*\\*[\"'`]?("
        + "|".join(
            "[ -]".join("[b-df-hj-np-tv-xz]{4}" if n == at else "[a-z]{4}" for n in range(4))
            for at in range(4)
        )
        + r")(?:[^\w-]|$)",
        keywords=("(?i)pass", "(?i)pwd", "(?i)schl(?:ü|ue)ssel", "(?i)contrase", "(?i)senha"),
        judge="any",
        group=1,
        matches=("GMAIL_APP_PASSWORD=ybap kazb pwwd tphb", 'appPassword("fava-ctnk-vvzv-zzys")'),
        non_matches=("password: must have more char", "the password is make-sure-this-work"),
    ),
    Rule(
        id="wallet-key",
        # The wallet import format of Bitcoin: 52 characters of base58, or 51.
        pattern=r"(?i:\bwif|_wif|bitcoin|btc|priv)[^\n]{0,48}?\b([KL][1-9A-HJ-NP-Za-km-z]{51}|5[HJK][1-9A-HJ-NP-Za-km-z]{49})\b",
        keywords=("(?i)wif", "(?i)bitcoin", "(?i)btc", "(?i)priv"),
        group=1,
        matches=("BITCOIN_WIF=L" + "abcd3fgh" * 6 + "abc",),
        non_matches=("btc address bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",),
    ),
    Rule(
        id="django-secret-key",
        # Fifty characters of the alphabet of `startproject`; unquoted, its brackets look like code.
        pattern=r"(?i)\bsecret_?key\s{0,4}[=:]\s{0,4}([a-z0-9!@#$%^&*(_=+)-]{50})(?:\s|$)",
        keywords=("(?i)secret_?key",),
        judge="opaque",
        group=1,
        matches=("secret_key = <a12>(<a12>=+@<a20>*@",),
        non_matches=("secret_key = make_key(settings)",),
    ),
    Rule(
        id="prose-refused",
        pattern=r"(?i)\b(?:401|403|unauthori[sz]ed|forbidden|incorrect|revoked?|rotated?|leaked|using|with)\b[^\n]{0,24}?\b(?:key|token|secret)\s+[\"'`(]?([\w.+/=|!:-]{20,})",
        keywords=("(?i)key", "(?i)token", "(?i)secret"),
        judge="opaque",
        group=1,
        matches=("ERROR client failed: 401 for key <h8>-<h4>-<h4>-<h4>-<h12> (attempt 2)",),
        non_matches=("duplicate key <h8>-<h4>-<h4>-<h4>-<h12>",),
    ),
    Rule(
        id="prose-next-line",
        pattern=r"(?i)\b(?:token|password|secret|api[ _-]?key|passphrase)\s*:\s*\n\s{0,8}(?:```\w*\s*\n\s{0,8})?([\w.+/=!@#%^*-]{12,})[ \t]*(?:\n|$)",
        keywords=("(?i)pass", "(?i)secret", "(?i)token", "(?i)key"),
        judge="opaque",
        group=1,
        spans_lines=True,
        matches=("api key:\n<h32>\n", "token:\n\n```\n<w40>\n```"),
        non_matches=("token:\nsee the next chapter", "password:\nauthentication-failed\n"),
    ),
    Rule(
        id="markdown",
        pattern=r"(?i)(?:\*\*|__)[\w -]{0,40}"
        + _TELLING
        + r"\w{0,8}:?(?:\*\*|__):?\s*[\"'`]?"
        + _VALUE,
        keywords=(r"\*\*", "__"),
        judge="opaque",
        group=1,
        matches=("- **Password:** `S3cr3t-<w6>`", "**API key**: <h32>"),
        non_matches=("**Token**: required", "**password** is never stored"),
    ),
    Rule(
        id="markdown-table",
        pattern=r"(?i)\|\s*[*`]*[\w ./-]{0,40}"
        + _TELLING
        + r"[*`]*\s*\|\s*[\"'`]*([^\s|`\"']{6,})",
        keywords=(r"\|",),
        judge="opaque",
        group=1,
        matches=("| Password | S3cr3t-<w6> |",),
        non_matches=("| Password | string | required |", "| token | description |"),
    ),
    Rule(
        id="login-pair",
        pattern=r"(?i)\b(?:login|logins?|credentials?|creds|user/pass(?:word)?)\s*[:=]\s*[\w.@-]{1,64}\s*/\s*([^\s/]{6,})",
        keywords=("(?i)login", "(?i)cred", "(?i)user/pass"),
        judge="opaque",
        group=1,
        matches=("login: admin / S3cr3t-<w6>",),
        non_matches=("login: admin/settings", "credentials: a/b"),
    ),
    Rule(
        id="name-value",
        pattern=r"(?i)\b(?:name|key|id|variable)\\*[\"']?\s*[:=]\s*\\*[\"']?[\w.:-]{0,64}"
        + _TELLING
        + r"[\w.-]{0,32}\\*[\"']?[\s,]{1,32}\\*[\"']?(?:[\w:]{0,24}value|content|default)\\*[\"']?\s*[:=]\s*\\*[\"']?([^\"'\\<>\s]{6,})",
        keywords=("(?i)value", "(?i)content", "(?i)default"),
        judge="opaque",
        group=1,
        spans_lines=True,
        matches=(
            '<property name="password" value="S3cr3t-<w6>"/>',
            '- name: API_KEY\n  value: "<w40>"',
            '{"key":"token","value":"<h40>"}',
        ),
        non_matches=('name: "token", value: "string"', "name=password value=${PW}"),
    ),
    Rule(
        id="xml-named",
        pattern=r"(?i)(?:\bname\s*=\s*\"[\w.:-]{0,64}"
        + _TELLING
        + r"[\w.-]{0,32}\"\s*>|<key>[\w.:-]{0,64}"
        + _TELLING
        + r"[\w.-]{0,32}</key>\s{0,16}<string>)\s*([^<\s]{6,})\s*</",
        keywords=("</",),
        judge="opaque",
        group=1,
        spans_lines=True,
        matches=(
            '<string name="google_api_key"><w39></string>',
            "<key>APIKey</key>\n<string><h32></string>",
        ),
        non_matches=('<option name="token">bearer</option>',),
    ),
    Rule(
        id="form-part",
        pattern=r"(?i)name=\\*\"[\w.-]{0,64}"
        + _TELLING
        + r"[\w.-]{0,32}\\*\"(?:\r?\n|\\r\\n|\\n){2}([^\r\n\\]{4,})",
        keywords=("(?i)name=",),
        judge="any",
        group=1,
        spans_lines=True,
        matches=('Content-Disposition: form-data; name="password"\r\n\r\nS3cr3t<w6>\r\n--x',),
        non_matches=('form-data; name="page"\r\n\r\n12345',),
    ),
    Rule(
        id="shell-set",
        pattern=r"(?i)(?:\bsetx?\s+(?:-\w+\s+)?|#define\s+|\bconfig(?:ure)?\s+set\s+)[^\s=]{0,64}?"
        + _TELLING
        + r"\w{0,16}\s+\\*[\"']?([^\s\"'\\=$-][^\s\"'\\]{5,})",
        keywords=(r"(?i)\bsetx?\s", "#define", "(?i)config"),
        judge="opaque",
        group=1,
        matches=(
            "setx DB_PASSWORD S3cr3t-<w6>",
            '#define API_KEY "<w32>"',
            "aws configure set aws_secret_access_key <s40>",
            "npm config set //r/:_authToken <w36>",
        ),
        non_matches=("#define TOKEN_COUNT sizeof(x)", "set password policy"),
    ),
    Rule(
        id="shell-pipe",
        pattern=r"\b(?:echo|printf)\s+(?:-\w+\s+)?(?:'%s(?:\\n)?'\s+)?[\"']?(?:[\w-]{1,32}:)?([^\s\"'|$]{4,})[\"']?\s*\|\s*(?:sudo\s+(?:chpasswd|-\S*S)|chpasswd|[\w./ -]{0,80}(?:--password-stdin|--with-token|--passphrase-fd|passwd --stdin|login))",
        keywords=("echo", "printf"),
        judge="any",
        group=1,
        matches=(
            "echo 'S3cr3t<w6>' | sudo -S apt update",
            "echo 'root:S3cr3t<w6>' | chpasswd",
            'echo "<w20>" | docker login -u bob --password-stdin',
        ),
        non_matches=('echo "$PW" | docker login --password-stdin', "echo hello | sudo tee /etc/x"),
    ),
    Rule(
        id="here-string",
        pattern=r"(?i)" + _TELLING + r"[^\n|;]{0,48}<<<\s*[\"']?([^\s\"'$]{8,})",
        keywords=("<<<",),
        judge="opaque",
        group=1,
        matches=("gh auth login --with-token <<< <w40>",),
        non_matches=("read token <<< word-after-word",),
    ),
    Rule(
        id="login-argument",
        pattern=r"\b(?:vault login|login(?:\s+-\w+\s+\S+)?\s+-t|auth login|rclone obscure|authtoken|add-authtoken)\s+[\"']?([^\s\"'$<-][^\s\"']{7,})",
        keywords=("vault login", r"\slogin\s", "rclone obscure", "authtoken"),
        judge="opaque",
        group=1,
        matches=("vault login <h8>-<h4>-<h4>-<h4>-<h12>", "rclone obscure S3cr3t-<w6>"),
        non_matches=("vault login -method=userpass", "gh auth login --hostname x"),
    ),
    Rule(
        id="user-percent",
        pattern=r"\b(?:smbclient|rpcclient|net|smbmap|winexe|mount\S*)\b[^\n|;]*?\s(?:-U\s?|--user=|/user:)[\"']?[\w.\\/@-]{1,64}[% ]([^\s\"']{4,})",
        keywords=(r"\s-U", "/user:", "--user="),
        judge="opaque",
        group=1,
        matches=(
            "smbclient //srv/share -U bob%S3cr3t-<w6>",
            "net use Z: \\\\srv\\s /user:bob S3cr3t-<w6>",
        ),
        non_matches=("smbclient -L host -U guest list",),
    ),
    Rule(
        id="pgpass",
        pattern=r"(?m)^[\w.*-]{1,255}:(?:5432|5433|6432|\*):[\w*-]{1,64}:[\w.*-]{1,64}:(\S{4,})\s*$",
        keywords=(r":(?:5432|5433|6432|\*):",),
        judge="any",
        group=1,
        matches=("db.internal:5432:shop:app:S3cr3t<w6>",),
        non_matches=("db.internal:5432:shop",),
    ),
    Rule(
        id="cookie-file",
        pattern=r"\t(?:TRUE|FALSE)\t/\S*\t(?:TRUE|FALSE)\t\d+\t\S+\t(\S{6,})",
        keywords=("\t(?:TRUE|FALSE)\t",),
        judge="opaque",
        group=1,
        matches=(".example.com\tTRUE\t/\tTRUE\t1790000000\tsession\t<h32>",),
        non_matches=(".example.com\tTRUE\t/\tTRUE\t1790000000\ttheme\tdark-mode",),
    ),
    Rule(
        id="connect-call",
        pattern=r"\bgetConnection\([^)\n]{0,200}?,\s*\"[^\"\n]{0,64}\",\s*\"([^\"\n]{3,})\"",
        keywords=(r"getConnection\(",),
        judge="any",
        group=1,
        matches=('DriverManager.getConnection(url, "user", "S3cr3t<w6>")',),
        non_matches=("DriverManager.getConnection(url, user, password)",),
    ),
    Rule(
        id="secure-string",
        pattern=r"ConvertTo-SecureString\s+(?:-String\s+)?[\"']([^\"'$\n]{4,})[\"']",
        keywords=("ConvertTo-SecureString",),
        judge="any",
        group=1,
        matches=('ConvertTo-SecureString "S3cr3t<w6>" -AsPlainText -Force',),
        non_matches=('ConvertTo-SecureString "$pw" -AsPlainText',),
    ),
    Rule(
        id="oracle-thin",
        pattern=r"jdbc:oracle:\w+:[\w$.-]{1,64}/([^@\s\"']{3,})@",
        keywords=("jdbc:oracle",),
        judge="any",
        group=1,
        matches=("jdbc:oracle:thin:scott/S3cr3t<w6>@//h:1521/x",),
        non_matches=("jdbc:oracle:thin:@//h:1521/x",),
    ),
    Rule(
        id="url-id",
        pattern=r"[?&#](?:key|code|appid|app_key|ticket|invite|apikey|sid)=([0-9a-f]{32,64}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})\b",
        keywords=(r"[?&#](?:key|code|appid|app_key|ticket|invite|apikey|sid)=",),
        judge="opaque",
        group=1,
        matches=("https://h/x?appid=<h32>",),
        non_matches=("https://h/x?code=404", "https://h/x?id=<h32>"),
    ),
)
