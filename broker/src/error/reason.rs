//! The reasons of a denial, for all modules of the broker.
//!
//! Each reason is something that a caller or a person can act on. Only the service maps it to its
//! wire form; the names here are used in the audit log, in the metrics and in the log.

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal,)+) => {
        /// The reason why a caller gets no signature, or a person no sign-in.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $reason,)+
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$reason,)+];

            /// The name, which never changes.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// The kernel doesn't report who the peer is, or its certificate is no longer valid.
    PeerUnknown = "PEER_UNKNOWN",
    /// No rule matches the peer.
    PeerNotAllowed = "PEER_NOT_ALLOWED",
    /// No rule allows the profile, or it doesn't exist.
    ProfileNotAllowed = "PROFILE_NOT_ALLOWED",
    /// No rule allows the endpoint, or no endpoint has the URI.
    EndpointNotAllowed = "ENDPOINT_NOT_ALLOWED",
    /// No rule allows the method.
    MethodNotAllowed = "METHOD_NOT_ALLOWED",
    /// No rule allows the tool.
    ToolNotAllowed = "TOOL_NOT_ALLOWED",
    /// No rule allows the sign-in.
    LoginNotAllowed = "LOGIN_NOT_ALLOWED",
    /// The message is malformed, too long, or too slow.
    InvalidMessage = "INVALID_MESSAGE",
    /// The HTTP method is not a token.
    InvalidMethod = "INVALID_METHOD",
    /// The URI is not valid.
    InvalidUri = "INVALID_URI",
    /// A header is not valid.
    InvalidHeader = "INVALID_HEADER",
    /// A header is set by the signature, and reserved.
    ReservedHeader = "RESERVED_HEADER",
    /// The query is not in its canonical form.
    NonCanonicalQuery = "NON_CANONICAL_QUERY",
    /// A rule looks at the body, and it was not sent.
    BodyRequired = "BODY_REQUIRED",
    /// The hash of the body is not valid.
    InvalidBodyHash = "INVALID_BODY_HASH",
    /// Parsers may read the body differently.
    AmbiguousJson = "AMBIGUOUS_JSON",
    /// A person has to sign in.
    LoginRequired = "LOGIN_REQUIRED",
    /// A second factor is required, and can't be requested from anyone.
    MfaRequired = "MFA_REQUIRED",
    /// A person has to repair the profile.
    ProfileMisconfigured = "PROFILE_MISCONFIGURED",
    /// The profile has a setting that is not supported.
    UnsupportedProfileSetting = "UNSUPPORTED_PROFILE_SETTING",
    /// The credentials do not come from IAM Identity Center.
    NotALoginProfile = "NOT_A_LOGIN_PROFILE",
    /// The user declined.
    LoginDenied = "LOGIN_DENIED",
    /// The code expired before anyone signed in.
    LoginExpired = "LOGIN_EXPIRED",
    /// AWS refused the role.
    AccessDenied = "ACCESS_DENIED",
    /// AWS reports that the time of the request differs too much from its own.
    ClockSkew = "CLOCK_SKEW",
    /// AWS does not accept the keys that the profile starts from.
    KeysRejected = "KEYS_REJECTED",
    /// STS is not activated in the region for the account.
    RegionDisabled = "REGION_DISABLED",
    /// There are no credentials, neither in the profile nor in the default chain.
    NoCredentials = "NO_CREDENTIALS",
    /// The sign-in is valid, but has no access to the account or role.
    NoAccountAccess = "NO_ACCOUNT_ACCESS",
    /// The credentials can't be loaded at the moment.
    CredentialsUnavailable = "CREDENTIALS_UNAVAILABLE",
    /// The record cannot be written.
    AuditUnavailable = "AUDIT_UNAVAILABLE",
    /// This broker is shutting down; the next one will accept calls.
    BrokerEnding = "BROKER_ENDING",
    /// Too many requests.
    RateLimited = "RATE_LIMITED",
    /// The limit of the peer, or of all, is reached.
    TooMuchInFlight = "TOO_MUCH_IN_FLIGHT",
    /// A bug of the broker.
    Internal = "UNSPECIFIED",
}
