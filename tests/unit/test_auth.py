"""Bearer tokens: who gets in, and above all who does not."""

import time
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)

from contracts.auth import MERCHANT, BearerVerifier
from contracts.errors import Invalid, SettingsError
from contracts.settings import Settings

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
NOW_S = int(time.time()) + 3600  # tokens are also held against the real clock, however long the suite runs
SECRET = "a secret of buyers' tokens, 32 bytes or more"


def pem(key: Any) -> bytes:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.pem"
    path.write_bytes(b"# of the identity provider\n" + pem(RSA_KEY) + pem(EC_KEY))
    return path


def token(
    key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any
) -> str:
    values = {"sub": "buyer-1", "exp": NOW_S + 600} | claims
    return jwt.encode({k: v for k, v in values.items() if v is not None}, key, algorithm, headers)


def buyer(settings: Settings, text: str) -> str:
    return BearerVerifier(settings).buyer(f"Bearer {text}", NOW_S)


def refused(settings: Settings, text: str, why: str = ".") -> None:
    with pytest.raises(Invalid, match=why):
        buyer(settings, text)


def public(settings: Settings, keys_file: Path) -> Settings:
    """Only public keys, no shared secret."""
    return msgspec.structs.replace(settings, jwt_hs256_secret="", jwt_public_keys_file=str(keys_file))


def test_each_algorithm_with_its_key(offline_settings: Settings, keys_file: Path) -> None:
    settings = msgspec.structs.replace(offline_settings, jwt_public_keys_file=str(keys_file))
    assert buyer(settings, token()) == "buyer-1"
    assert buyer(settings, token(RSA_KEY, "RS256")) == "buyer-1"
    assert buyer(settings, token(EC_KEY, "ES256", sub="Z_z-9")) == "Z_z-9"


def test_keys_of_strangers(offline_settings: Settings, keys_file: Path) -> None:
    settings = msgspec.structs.replace(offline_settings, jwt_public_keys_file=str(keys_file))
    refused(settings, token("another secret of 32 bytes or even more"))
    refused(settings, token(rsa.generate_private_key(public_exponent=65537, key_size=2048), "RS256"))
    refused(settings, token(ec.generate_private_key(ec.SECP256R1()), "ES256"))


def test_keys_are_tried_one_after_the_other(offline_settings: Settings, keys_file: Path) -> None:
    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    keys_file.write_bytes(keys_file.read_bytes() + pem(new))
    settings = public(offline_settings, keys_file)
    assert buyer(settings, token(new, "RS256", sub="new")) == "new"
    assert buyer(settings, token(RSA_KEY, "RS256", sub="old")) == "old"


def test_no_signature_at_all(offline_settings: Settings, keys_file: Path) -> None:
    for settings in (offline_settings, public(offline_settings, keys_file)):
        refused(settings, token("", "none"), "algorithm")
        header, claims, _ = token().split(".")
        refused(settings, f"{header}.{claims}.")


def test_a_public_key_is_no_shared_secret(offline_settings: Settings, keys_file: Path) -> None:
    """The classic confusion: signed with HMAC and the public key, which everyone has."""
    forged = jwt.PyJWS()
    for key in (pem(RSA_KEY), pem(EC_KEY)):
        header = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT"}')
        claims = jwt.utils.base64url_encode(msgspec.json.encode({"sub": "buyer-1", "exp": NOW_S + 600}))
        signed = header + b"." + claims
        hmac = forged.get_algorithm_by_name("HS256")
        signature = jwt.utils.base64url_encode(hmac.sign(signed, key))
        text = (signed + b"." + signature).decode()
        refused(public(offline_settings, keys_file), text, "algorithm")
        refused(msgspec.structs.replace(offline_settings, jwt_public_keys_file=str(keys_file)), text)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_an_algorithm_that_no_key_is_for(offline_settings: Settings, algorithm: str) -> None:
    refused(offline_settings, token(SECRET * 2, algorithm), "algorithm")


def test_only_asymmetric_tokens_where_only_a_secret_is_configured(offline_settings: Settings) -> None:
    refused(offline_settings, token(RSA_KEY, "RS256"), "use HS256")


@pytest.mark.parametrize("exp", [NOW_S - 6, 0, -1], ids=["a moment ago", "1970", "before"])
def test_expired(offline_settings: Settings, exp: int) -> None:
    refused(offline_settings, token(exp=exp), "expired")


def test_a_few_seconds_of_leeway(offline_settings: Settings) -> None:
    verifier = BearerVerifier(offline_settings)
    assert verifier.buyer(f"Bearer {token(exp=NOW_S + 600)}", NOW_S + 604) == "buyer-1"
    with pytest.raises(Invalid, match="expired"):
        verifier.buyer(f"Bearer {token(exp=NOW_S + 600)}", NOW_S + 605)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"exp": "soon"},
        {"sub": None},
        {"sub": ""},
        {"sub": "b" * 65},
        {"sub": "buyer 1"},
        {"sub": "buyer-1\n"},
        {"sub": "buyer\u0000"},
        {"sub": "夜"},
        {"nbf": NOW_S + 600},
    ],
)
def test_claims_that_do_not_do(offline_settings: Settings, claims: dict[str, Any]) -> None:
    refused(offline_settings, token(**claims))


def test_issuer_and_audience_count_where_configured(offline_settings: Settings) -> None:
    strict = msgspec.structs.replace(
        offline_settings, jwt_issuer="https://id.example", jwt_audience="sluiceway"
    )
    good: dict[str, Any] = {"iss": "https://id.example", "aud": "sluiceway"}
    assert buyer(strict, token(**good)) == "buyer-1"
    assert buyer(offline_settings, token(**good)) == "buyer-1"
    refused(strict, token())
    refused(strict, token(**good | {"iss": "https://evil.example"}))
    refused(strict, token(**good | {"aud": "another"}))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer a.b.c",
        "Bearer ...",
        "Bearer é",
        "x" * 10_000,
        "Bearer {}",
    ],
)
def test_no_token(offline_settings: Settings, header: str | None) -> None:
    with pytest.raises(Invalid):
        BearerVerifier(offline_settings).buyer(header, NOW_S)


def test_a_token_has_a_limited_size(offline_settings: Settings) -> None:
    refused(offline_settings, token(padding="x" * 9000), "8192")


def test_the_scheme_is_read_in_any_case(offline_settings: Settings) -> None:
    assert BearerVerifier(offline_settings).buyer(f"bEARER  {token()}", NOW_S) == "buyer-1"


def test_a_known_token_is_not_verified_again(
    offline_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = BearerVerifier(offline_settings)
    header = f"Bearer {token(exp=NOW_S + 600)}"
    verifier.buyer(header, NOW_S)
    with monkeypatch.context() as patched:
        patched.setattr(verifier, "_verify", None)
        assert verifier.buyer(header, NOW_S + 604) == "buyer-1"
    with pytest.raises(Invalid, match="expired"):
        verifier.buyer(header, NOW_S + 605)
    assert header not in verifier._cache


def test_a_token_is_remembered_once_however_it_is_written(offline_settings: Settings) -> None:
    verifier, text = BearerVerifier(offline_settings), token(scope=MERCHANT)
    headers = [
        f"Bearer {text}",
        f"Bearer  {text}",
        f"Bearer {text} ",
        f"bearer {text}",
        f"BEARER{' ' * 1000}{text}",
    ]
    for header in headers:
        assert verifier.buyer(header, NOW_S) == "buyer-1"
        assert verifier.has_scope(header, NOW_S, MERCHANT)
    assert list(verifier._cache) == headers[:1]


def test_what_was_refused_is_not_remembered(offline_settings: Settings) -> None:
    verifier = BearerVerifier(offline_settings)
    for text in (token(exp=1), token(sub="no good"), token("another secret of 32 bytes or even more")):
        with pytest.raises(Invalid):
            verifier.buyer(f"Bearer {text}", NOW_S)
    assert verifier._cache == {}


def test_the_memory_is_bounded(offline_settings: Settings) -> None:
    verifier = BearerVerifier(msgspec.structs.replace(offline_settings, jwt_cache_max=3))
    headers = [f"Bearer {token(sub=f'b{n}')}" for n in range(5)]
    assert [verifier.buyer(header, NOW_S) for header in headers] == [f"b{n}" for n in range(5)]
    assert list(verifier._cache) == headers[2:]


def test_a_key_file_that_cannot_work_says_so(offline_settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "keys.pem"
    for content in (
        b"",
        b"-----BEGIN PUBLIC KEY-----\nno key\n-----END PUBLIC KEY-----\n",
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(ed25519.Ed25519PrivateKey.generate()),
    ):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match="SLUICEWAY_JWT_PUBLIC_KEYS_FILE"):
            BearerVerifier(public(offline_settings, path))
    with pytest.raises(SettingsError, match="SLUICEWAY_JWT_PUBLIC_KEYS_FILE"):
        BearerVerifier(public(offline_settings, tmp_path / "missing.pem"))


@pytest.mark.parametrize(
    ("scope", "has"),
    [
        ("merchant", True),
        ("profile merchant", True),
        (None, False),
        ("", False),
        ("merchants", False),
        ("Merchant", False),
        ("profile,merchant", False),
        (["merchant"], False),
    ],
)
def test_a_scope_is_one_of_the_words_of_the_claim(offline_settings: Settings, scope: Any, has: bool) -> None:
    verifier = BearerVerifier(offline_settings)
    header = f"Bearer {token(scope=scope)}"
    assert verifier.has_scope(header, NOW_S, MERCHANT) is has
    assert verifier.buyer(header, NOW_S) == "buyer-1"
    with pytest.raises(Invalid):
        verifier.has_scope(None, NOW_S, MERCHANT)
