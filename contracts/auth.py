"""Bearer tokens: who the buyer is. JWT (RFC 7519) verified by PyJWT, once per token until it expires."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from contracts.errors import Invalid, SettingsError
from contracts.settings import Settings

BUYER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_TOKEN_CHARS_MAX = 8192
_LEEWAY_S = 5
MERCHANT = "merchant"  # the scope of who runs the shop


class _Verified(NamedTuple):
    buyer: str
    expires_at_s: float
    scope: str


class BearerVerifier:
    """Turns an Authorization header into a buyer id.

    Accepts only the algorithms that a configured key is for, so that no token can choose how it is checked
    (RFC 8725 §3.1). `exp` and `sub` are required.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys: list[tuple[str, Any]] = []
        if settings.jwt_hs256_secret:
            self._keys.append(("HS256", settings.jwt_hs256_secret))
        if settings.jwt_public_keys_file:
            self._keys.extend(_read_public_keys(Path(settings.jwt_public_keys_file)))
        self._issuer = settings.jwt_issuer or None
        self._audience = settings.jwt_audience or None
        self._cache_max = settings.jwt_cache_max
        self._cache: dict[str, _Verified] = {}  # by header

    def buyer(self, authorization: str | None, now_s: float) -> str:
        """The token's `sub`. Raises Invalid, with words fit for the client, if there is no good token."""
        return self._verified(authorization, now_s).buyer

    def has_scope(self, authorization: str | None, now_s: float, scope: str) -> bool:
        """Whether the token's `scope` (RFC 8693 §4.2) contains this one. Raises Invalid if there is no good token."""
        return scope in self._verified(authorization, now_s).scope.split()

    def _verified(self, authorization: str | None, now_s: float) -> "_Verified":
        if authorization is None:
            raise Invalid("send the header Authorization: Bearer <token>")
        known = self._cache.get(authorization)
        if known is not None:
            if now_s < known.expires_at_s:
                return known
            del self._cache[authorization]
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Invalid("the Authorization header must be: Bearer <token>")
        if len(token) > _TOKEN_CHARS_MAX:
            raise Invalid(f"the token is longer than {_TOKEN_CHARS_MAX} characters")
        claims = self._verify(token)
        buyer = claims.get("sub")
        if not isinstance(buyer, str) or not BUYER_ID.match(buyer):
            raise Invalid("the token's sub must be 1-64 characters of A-Z a-z 0-9 _ -")
        expires_at_s = float(claims["exp"]) + _LEEWAY_S
        if expires_at_s <= now_s:
            raise Invalid("the token is not valid: it has expired")
        verified = _Verified(buyer, expires_at_s, str(claims.get("scope", "")))
        # Written otherwise, one token would be kept as often as one likes.
        if authorization == f"Bearer {token}":
            if len(self._cache) >= self._cache_max:
                self._cache.pop(next(iter(self._cache)))  # the oldest
            self._cache[authorization] = verified
        return verified

    def _verify(self, token: str) -> dict[str, Any]:
        try:
            algorithm = jwt.get_unverified_header(token).get("alg")
        except jwt.PyJWTError as error:
            raise Invalid("the bearer token is not a JWT") from error
        reason: Exception | None = None
        for allowed, key in self._keys:
            if allowed != algorithm:
                continue
            try:
                return jwt.decode(
                    token,
                    key,
                    algorithms=[allowed],
                    issuer=self._issuer,
                    audience=self._audience,
                    leeway=_LEEWAY_S,
                    options={
                        "require": ["exp", "sub"],
                        "verify_aud": self._audience is not None,
                        "verify_iss": self._issuer is not None,
                    },
                )
            except jwt.PyJWTError as error:
                reason = error
        if reason is None:
            allowed_names = ", ".join(sorted({name for name, _ in self._keys}))
            raise Invalid(f"the token's algorithm is not accepted here; use {allowed_names}")
        raise Invalid(f"the token is not valid: {reason}") from reason


def _read_public_keys(path: Path) -> list[tuple[str, Any]]:
    try:
        blocks = _PEM.findall(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"SLUICEWAY_JWT_PUBLIC_KEYS_FILE: {error}") from error
    keys: list[tuple[str, Any]] = []
    for block in blocks:
        try:
            key = load_pem_public_key(block)
        except ValueError as error:
            raise SettingsError(
                f"SLUICEWAY_JWT_PUBLIC_KEYS_FILE {path}: a PEM block cannot be read: {error}"
            ) from error
        if isinstance(key, RSAPublicKey):
            keys.append(("RS256", key))
        elif isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            keys.append(("ES256", key))
        else:
            raise SettingsError(
                f"SLUICEWAY_JWT_PUBLIC_KEYS_FILE {path}: only RSA and P-256 public keys are accepted"
            )
    if not keys:
        raise SettingsError(f"SLUICEWAY_JWT_PUBLIC_KEYS_FILE {path} holds no PEM public key")
    return keys
