"""Where agents meet secrets: shells, files, calls, connections, documents, many languages."""

# ruff: noqa: E501, RUF001 - contexts stay whole, in the marks of their language
from __future__ import annotations

import base64
import json

import pytest

from agent_client.contract.redact import redact_text
from tests.contract.redact_examples import expand

PASSWORD = expand("S3cr3t-<w8>")
TOKEN = expand("<w40>")
UUID = expand("<h8>-<h4>-<h4>-<h4>-<h12>")
PAIR = base64.b64encode(f"bob:{TOKEN}".encode()).decode()

WITH_PASSWORD = [
    "export PGPASSWORD='{}'", "setx DB_PASSWORD {}", "set -x DB_PASSWORD {}", "$env:DB_PASSWORD = \"{}\"",
    "postgresql+asyncpg://app:{}@db/shop?sslmode=require", "redis://:{}@cache:6379/0",
    "amqp://guest:{}@mq:5672/", "smtp://user%40x.de:{}@mail.x.de:587",
    "jdbc:sqlserver://h:1433;user=sa;password={};", "jdbc:oracle:thin:scott/{}@//h:1521/x",
    "Server=tcp:h,1433;User ID=u;Password={};Encrypt=True;", "host=h user=u password={} dbname=d",
    "curl -u admin:{} https://h", "curl -d 'user=bob&password={}' https://h", "wget --password={} https://h",
    "sshpass -p {} ssh u@h", "mysql -uroot -p{} shop", "mongosh mongodb://h -u a -p {}",
    "smbclient //srv/share -U bob%{}", "net use Z: \\\\srv\\s /user:bob {}", "openssl rsa -passin pass:{}",
    'echo "{}" | docker login -u bob --password-stdin', "echo '{}' | sudo -S apt update",
    "echo 'root:{}' | chpasswd", "rclone obscure {}", "unzip -P {} a.zip", "ansible_become_pass: {}",
    "machine h\n  login bob\n  password {}\n", "db.internal:5432:shop:app:{}", "[client]\npassword={}\n",
    "kind: Secret\nstringData:\n  anything: {}\n", '<property name="password" value="{}"/>',
    '<property name="hibernate.connection.password">{}</property>', "<password>{}</password>",
    '<add name="x" connectionString="Server=h;User Id=u;Password={};" />',
    'val password: String = "{}"', 'private readonly password: string = "{}";', 'os.Setenv("DB_PASSWORD", "{}")',
    "define('DB_PASSWORD', '{}');", '#define DB_PASSWORD "{}"', 'ds.setPassword("{}");',
    'DriverManager.getConnection(url, "user", "{}")', 'ConvertTo-SecureString "{}" -AsPlainText',
    "ALTER ROLE a PASSWORD '{}'", "ALTER USER 'a'@'%' IDENTIFIED BY '{}';",
    'form-data; name="password"\r\n\r\n{}\r\n--x', "The admin password is {}, keep it.",
    "My pw is {} ok?", "the password for the db is `{}`", "login: admin / {}", "user bob, password {}",
    "- **Password:** `{}`", "| Password | {} |", "Das Passwort lautet {}.", "Kennwort = {}",
    "La contraseña es {}", "Le mot de passe est {}", "mdp: {}", "A senha é {}", "Het wachtwoord is {}",
    "пароль: {}", "Пароль от базы {}", "密码：{}", "密码是{}", "パスワードは {} です", "비밀번호: {}",
    "hasło: {}", "lösenord: {}", "şifre: {}", "salasana: {}", "jelszó: {}", "كلمة المرور: {}", "סיסמה: {}",
    "κωδικός: {}", "mật khẩu: {}",
]  # fmt: skip
WITH_TOKEN = [
    "Authorization: Token token=\"{}\"", "DD-API-KEY: {}", "Cookie: sessionid={}; theme=dark", "PHPSESSID={}",
    ".example.com\tTRUE\t/\tTRUE\t1790000000\tsession\t{}", "https://x-access-token:{}@github.com/o/r.git",
    "https://h/cb#access_token={}&token_type=bearer", "https://h/x?X-Goog-Signature={}", "https://h/x?sessionid={}",
    "//registry.npmjs.org/:_authToken={}", 'npmAuthToken: "{}"', "github.com:\n    oauth_token: {}\n",
    '{{"github-oauth": {{"github.com": "{}"}}}}', '{{"name": "API_KEY", "value": "{}"}}',
    '- name: API_KEY\n  value: "{}"', "AccountKey={};EndpointSuffix=x", "InstrumentationKey={};x",
    'TOKEN: str = "{}"', 'const API_KEY: &str = "{}";', "const t = process.env.TOKEN || '{}'",
    "<key>APIKey</key>\n<string>{}</string>", '<string name="google_api_key">{}</string>',
    '<input type="hidden" name="csrf_token" value="{}">', "api key:\n{}\n", "token:\n\n```\n{}\n```",
    "**Token**: `{}`", "API key — {}", "ERROR invalid api key {}", "401 for key {} (attempt 2)",
    "MERAKI_KEY := {}", "aws configure set aws_secret_access_key {}", "npm config set //r/:_authToken {}",
    "vault login {}", "gh auth login --with-token <<< {}", "cli login -t {}", "Der API-Schlüssel ist {}",
    "la clave de API es {}", "la clé d'API est {}",
]  # fmt: skip


@pytest.mark.parametrize("context", WITH_PASSWORD)
def test_password_goes(context: str) -> None:
    assert PASSWORD not in redact_text(context.replace("{}", PASSWORD))


@pytest.mark.parametrize("value", [TOKEN, UUID], ids=["opaque", "uuid"])
@pytest.mark.parametrize("context", WITH_TOKEN)
def test_token_goes(context: str, value: str) -> None:
    assert value not in redact_text(context.format(value))


@pytest.mark.parametrize(
    "form",
    [
        'char {}[25] = "<>";', '{} ("<>")', 'if ("<>" == {}) {', "{} != '<>'", "{}: <>", "{}=<>",
        '{} := "<>"', '{} = @"<>";', 'some["{}"] = "<>"', '{} => "<>"',
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["password", "db_pass", "api_key", "client_secret"])
def test_values_full_of_marks_go(form: str, name: str) -> None:
    """A value whose brackets cross is no code, however much it looks like some."""
    value = "k{{j}a)q${r]tob(azy[keeps$#hidden}}"
    assert value not in redact_text(form.replace("{}", name).replace("<>", value))


def test_foreign_names_of_fields_decide() -> None:
    for text in (f'contraseña := "{PASSWORD}"', f"contrasena={PASSWORD}", f'"senha": "{PASSWORD}"'):
        assert PASSWORD not in redact_text(text)
    assert PASSWORD not in redact_text(json.dumps({"contraseña": PASSWORD}, ensure_ascii=False))


def test_logins_in_base64_go() -> None:
    assert PAIR not in redact_text(json.dumps({"auths": {"r": {"auth": PAIR}}}))
    assert PAIR not in redact_text(f"Proxy-Authorization: Basic {PAIR}")


def test_calls_in_calls_lose_their_secrets() -> None:
    command = json.dumps({"command": f"PGPASSWORD='{PASSWORD}' psql"})
    call = json.dumps({"name": "terminal", "arguments": command})
    for text in (call, json.dumps({"message": call}), f"sent {json.dumps(call)}"):
        assert PASSWORD not in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "Das Passwort ist falsch, bitte neu setzen.",
        "Passwort: vergessen?",
        "password: forgotten?",
        "La contraseña es obligatoria",
        "пароль должен быть длиннее восьми знаков",
        "def __init__(self, token: TokenInterface):",
        "client_key_password: Optional[str] = None,",
        "set_re_auth_token(self, token: TokenInterface):",
        "authorization = self.headers.get('authorization')",
        "password = auth[2]",
        '("auth", "0010_alter_group_name_max_length"),',
        "hatchling/builders/constants.py,sha256=P-AP8zl45hSNf3TCwcDvxt9LJQmjtLBRpKb1kJJLy3Q,905",
        '"integrity": "sha512-AP8zl45hSNf3TCwcDvxt9LJQmjtLBRpKb1kJJLy3QAP8zl45hSNf3TCwcDvx=="',
        "cache_key: 9b0c1a2e4d6f8a7b9c0d1e2f3a4b5c6d",
        "duplicate key 0b7c2f0a-1d2e-4f3a-8b9c-0d1e2f3a4b5c in table users",
        "| token | description |",
        "the access token (see section 4.2.1) is opaque",
        "--token-file path --no-auth",
    ],
)
def test_talk_and_code_about_secrets_stay(text: str) -> None:
    assert redact_text(text) == text


def test_class_names_and_digests_stay_in_strict_mode() -> None:
    for text in ("from x import RemovedInDjango2028Warning", f"ruff/a.py,sha256={TOKEN},547"):
        assert redact_text(text, strict=True) == text


@pytest.mark.parametrize(
    "form",
    [
        'variable "acme_token" {\n  type    = string\n  default = "%s"\n}',
        '- name: ACME_WRITE_KEY\n  value: "%s"\n',
        '{"name": "acme_setup_key", "value": "%s"}',
        "I set ACME_CLIENT_SECRET to %s but it still fails",
        "DEBUG using ACME_API_TOKEN %s",
        'level=warn acme_apikey_private="%s" attempt=3',
        "acme login --acme-apikey-private %s --json",
        "acme login --acme-ext-pat %s",
        "acme login --acme-master-key '%s' --json",
        "DEBUG acme: using PRIVATE_KEY 0x%s",
        'props.setProperty("acme.app.key", "%s");',
    ],
)
def test_value_apart_from_its_name_goes(form: str) -> None:
    secrets = (TOKEN, expand("<h64>"))
    assert not any(secret in redact_text(form % secret) for secret in secrets)


@pytest.mark.parametrize(
    "text",
    [
        'variable "region_token" {\n  default = "eu-central-1"\n}',
        'variable "image_digest" {\n  default = "9b0c1a2e4d6f8a7b9c0d1e2f3a4b5c6d"\n}',
        '- name: ACME_TOKEN\n  value: "$(TOKEN_FROM_VAULT_2026)"',
        '{"name": "auth", "value": "oauth2"}',
        '{"name": "cache_key", "value": "9b0c1a2e4d6f8a7b9c0d1e2f3a4b5c6d"}',
        "Set-Cookie: lang=en-GB; Path=/; SameSite=Lax",
        "Cookie: theme=dark; lang=en",
        "$password = $_POST['password'];",
        "x, PublicKeyToken=b77a5c561934e089, Culture=neutral",
    ],
)
def test_value_apart_from_a_harmless_name_stays(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize("value", ["sid=abcdefgh", f"x=dark; y={TOKEN}"])
def test_cookie_with_one_telling_pair_goes_whole(value: str) -> None:
    assert value not in redact_text(f"Cookie: {value}")


@pytest.mark.parametrize(
    "text",
    [
        f"golang.org/x/crypto v0.21.0 h1:{expand('<s43>')}=",
        f"SHA256:{expand('<s43>')} root@host (ED25519)",
        f'ETag: W/"{expand("<h8>-<w27>")}"',
        f'<script nonce="{expand("<s22>")}==">',
        f"Sec-WebSocket-Accept: {expand('<s27>')}=",
        f"user cm{expand('<a23>')}",
        f"payment pi_{expand('<w24>')}",
    ],
)
def test_public_ids_and_digests_stay_in_strict_mode(text: str) -> None:
    assert redact_text(text, strict=True) == text


def test_base64_with_slashes_is_no_path_when_padded() -> None:
    value = f"/{expand('<w12>')}/{expand('<w12>')}/{expand('<w16>')}="
    assert value not in redact_text(f"servicebus_key = {value}")
    assert redact_text(f"signing_key = {value[:-1]}") == f"signing_key = {value[:-1]}"


def test_vendor_shape_without_a_digit_goes() -> None:
    token = "glrt-AvJZR-fidGnCZQCgRkWk"
    assert token not in redact_text(f"use {token} now")
