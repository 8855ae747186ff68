"""What the name of a field says about its value: password, secret, key, or nothing.

Names come in every case (`DB_PASSWORD`, `secretAccessKey`, `x-api-key`, `spring.datasource.password`);
they are cut into words and judged by the last ones, so `prompt_tokens`, `token_type`,
`password_hashers` and `public_key` say nothing.
"""

# ruff: noqa: E501 - lists of words are reviewed as words, not as columns
from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

# "password": anything but a placeholder goes. "secret": goes unless it is a plain word.
# "key": goes only when strong, because a cache key or a sort key is no credential.
NameClass = Literal["password", "secret", "key"]

PASSWORD_WORDS = frozenset(
    "password passwd passphrase passcode pwd passwort pw psw userpass dbpass rootpass mypass kennwort contraseña contrasena senha wachtwoord salasana heslo haslo mdp".split()
)
SECRET_WORDS = frozenset(
    "secret secrets token apikey apitoken accesskey secretkey privatekey authtoken authkey"
    " credential credentials creds auth authorization bearer jwt cookie cookies sig signature pat"
    " sas totp mnemonic pass seed signingkey encryptionkey masterkey accountkey sharedkey"
    " clientsecret accesstoken refreshtoken idtoken sessiontoken licensekey sessionid sid dsn"
    " webhook sessionkey psk oauth phpsessid jsessionid sessid".split()
)
KEY_OWNERS = frozenset(
    "api access secret private auth encryption encrypt decryption signing sign master shared account"
    " service license integration admin deploy sdk application session security storage"
    " subscription consumer insert ingest ingestion root hmac aes rsa host hosting publish publishable"
    " functions function ssh tls ssl gpg pgp age wallet personal user org live test write read"
    " agent app setup provisioning registration enrollment preshared webhook instrumentation verification cipher des jwt cookie server".split()
)
# Services whose key is a credential: `MERAKI_KEY`, where `CACHE_KEY` and `SORT_KEY` are none.
SERVICES = frozenset(
    "cloudant softlayer bluemix ibm facebook gitea forgejo codeberg instagram linear ovh polymarket sidekiq tiktok wakatime adafruit adobe adyen agentops airbrake airtable aiven akamai algolia alchemy alpaca amplitude anthropic"
    " anyscale apify apollo appsignal asana assembly assemblyai auth0 aws axiom azure bamboohr baseten beamer"
    " binance bing bitbucket bitfinex bitly bitmex bittrex braintree braintrust braze brevo brightdata"
    " bugsnag buildkite bunny bybit calendly cartesia censys cerebras chargebee checkly circleci clearbit clerk"
    " clickhouse clickup clockify cloudflare cloudinary codacy codecov cohere coinbase coinmarketcap comet"
    " confluent contentful coveralls crowdin crunchbase customerio databricks datadog datocms deepgram deepinfra"
    " deepl deepseek descope digitalocean discogs discord docusign doppler dropbox droneci dropboxsign easypost"
    " elastic elevenlabs etherscan etsy exa fal fastly fathom figma finicity finnhub firebase firecrawl"
    " fireworks flickr flutterwave fmp formspree foursquare freshbooks freshdesk freshservice frontegg fullstory"
    " gcp gemini genius geoapify geocodio getresponse ghost giphy github gitlab gitee gitter godaddy google"
    " grafana graphhopper greenhouse groq gumroad harness helicone helius heroku hetzner honeybadger"
    " honeycomb hubspot huggingface hume hunter hyperbolic hyperbrowser imgbb imgix imgur influxdb infracost infura"
    " intercom ipgeolocation ipinfo ipstack iterable jina jira jotform kagi kaggle keen kickbox klaviyo kraken"
    " kucoin langchain langfuse langsmith lastfm launchdarkly leonardo linkedin linode lob locationiq"
    " logdna loggly logtail logz lokalise luma lusha mailchimp mailerlite mailgun mailjet mailtrap mandrill"
    " mapbox mapquest maptiler maxmind meilisearch meraki messagebird minimax mistral mixpanel mollie monday moralis"
    " mux nasa netlify newrelic relic newsapi ngrok nomic notion novita nvidia nylas nytimes ollama omdb"
    " onesignal openai openrouter opencage openweather openweathermap opsgenie optimizely owm pagerduty papertrail"
    " passbase paypal paystack pendo perplexity pexels pinata pinecone pingdom pipedrive pixabay plaid plivo"
    " portkey postman postmark pubnub pushbullet pusher quay quicknode raygun razorpay rebrandly recurly"
    " replicate resend riot rollbar roboflow runpod sambanova samsara sanity scaleway scraperapi scrapfly"
    " scrapingbee semaphore sendbird sendgrid sendinblue sentry serpapi serper shippo shodan shopify"
    " shotstack shutterstock sightengine slack smartsheet snyk sonar sourcegraph sparkpost splunk spotify square"
    " squarespace stability storyblok stripe stytch supabase svix swell tavily telegram telnyx tenor tiingo"
    " tmdb tinypng todoist together tomtom travis travisci trello twelvelabs twilio twitch twitter typeform typesense"
    " unsplash uploadcare upstash vantage vercel vimeo virustotal visualcrossing voyage vonage vultr wandb weatherapi"
    " weatherstack weaviate webflow wistia woocommerce workos xai yandex yelp youtube zapier zendesk zenrows"
    " zerobounce zhipu zilliz zoho zoom zyte".split()
)
JOINED_ENDS = (
    "password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "secretkey",
    "privatekey", "credentials", "sonarlogin",
)  # fmt: skip
# Words that may follow the telling one without changing what the value is.
TRAILERS = frozenset(
    "value raw string str env var prod production dev development staging live test testing new old"
    " current previous main primary secondary backup text plain plaintext cleartext base64 b64"
    " encoded default me here private id1 v1 v2 v3 a b local sandbox secure".split()
)
# Words before `token` or `key` that make it a matter of counting, parsing, paging or storing.
HARMLESS_BEFORE = frozenset(
    "max min num n per total input output prompt completion eos bos pad unk stop special cls sep mask"
    " first last start end text word sub next prev page continuation cursor syntax lexer parser"
    " public primary foreign sort partition group cache object idempotency dedupe dedup lookup index"
    " row column composite unique natural surrogate hash range routing registry dict map config"
    " setting settings translation i18n locale message event metric label pinned reply trigger"
    " keyboard hot arrow modifier join distinct order aggregate cancellation cancel"
    " span trace run install node tree state store ssh_public".split()
)
KEY_NAMERS = KEY_OWNERS | SERVICES
# Marks, and the two places where the case of ASCII letters cuts: "aB" and "ABc".
_WORD_ENDS = re.compile(r"[^A-Za-z0-9]+|(?<=[^A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", re.ASCII)


def words_of(name: str) -> list[str]:
    """The lower-case words of a name, cut at case changes and at everything not a letter or digit."""
    if name.isascii():
        return [word.lower() for word in _WORD_ENDS.split(name) if word]
    words: list[str] = []
    start = 0
    for i, char in enumerate(name):
        if not char.isalnum():
            words.append(name[start:i])
            start = i + 1
        elif char.isupper() and i > start:
            follows_lower = not name[i - 1].isupper()
            ends_acronym = i + 1 < len(name) and name[i + 1].islower()
            if follows_lower or ends_acronym:
                words.append(name[start:i])
                start = i
    words.append(name[start:])
    return [word.lower() for word in words if word]


@lru_cache(maxsize=4096)
def name_class(name: str) -> NameClass | None:
    """What a field of this name holds, or None when the name says nothing.

    Shape: names over 128 characters are judged by their last 128.
    """
    words = [word.rstrip("0123456789") or word for word in words_of(name[-128:])]
    while len(words) > 1 and (words[-1] in TRAILERS or words[-1].isdigit()):
        words.pop()
    if not words:
        return None
    last = words[-1]
    before = words[-2] if len(words) > 1 else ""
    if last in PASSWORD_WORDS:
        return "password"
    if before in HARMLESS_BEFORE and last in ("token", "key", "auth", "signature", "seed"):
        return None
    if "public" in words[-3:-1] and last in ("token", "key"):
        return None
    if last in SECRET_WORDS or (last == "key" and before in KEY_NAMERS):
        return "secret"
    if last == "key":
        return "key"
    joined = "".join(words[-2:])
    if joined.endswith(("password", "passwd", "passphrase")):
        return "password"
    return "secret" if joined.endswith(JOINED_ENDS) else None
