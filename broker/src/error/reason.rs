//! The reasons of a denial, as all modules of the broker name them.
//!
//! Each is something that a caller or a person can act on. What it is on the wire is decided by the service alone; here
//! it has the name that stands in the audit log, in the metrics and in the log.

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal,)+) => {
        /// Why a caller gets no signature, or a person no sign-in.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $reason,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$reason,)+];

            /// Its name, which never changes.
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
    /// The kernel does not say who the peer is.
    PeerUnknown = "PEER_UNKNOWN",
    /// No rule matches the peer.
    PeerNotAllowed = "PEER_NOT_ALLOWED",
    /// No rule allows the profile, or there is none of that name.
    ProfileNotAllowed = "PROFILE_NOT_ALLOWED",
    /// No rule allows the endpoint, or none has the URI.
    EndpointNotAllowed = "ENDPOINT_NOT_ALLOWED",
    /// No rule allows the method.
    MethodNotAllowed = "METHOD_NOT_ALLOWED",
    /// No rule allows the tool.
    ToolNotAllowed = "TOOL_NOT_ALLOWED",
    /// No rule allows the sign-in.
    LoginNotAllowed = "LOGIN_NOT_ALLOWED",
    /// The message is malformed, too long, or too slow.
    InvalidMessage = "INVALID_MESSAGE",
    /// The HTTP method is no token.
    InvalidMethod = "INVALID_METHOD",
    /// The URI is not valid.
    InvalidUri = "INVALID_URI",
    /// A header is not valid.
    InvalidHeader = "INVALID_HEADER",
    /// A header is one that the signature makes.
    ReservedHeader = "RESERVED_HEADER",
    /// The query is not in its canonical form.
    NonCanonicalQuery = "NON_CANONICAL_QUERY",
    /// A rule has to read the body, and it was not sent.
    BodyRequired = "BODY_REQUIRED",
    /// The hash of the body is not valid.
    InvalidBodyHash = "INVALID_BODY_HASH",
    /// Two readers may read the body differently.
    AmbiguousJson = "AMBIGUOUS_JSON",
    /// A person has to sign in.
    LoginRequired = "LOGIN_REQUIRED",
    /// A second factor is asked for, and nobody can be asked.
    MfaRequired = "MFA_REQUIRED",
    /// A person has to repair the profile.
    ProfileMisconfigured = "PROFILE_MISCONFIGURED",
    /// The profile has a setting that is not supported.
    UnsupportedProfileSetting = "UNSUPPORTED_PROFILE_SETTING",
    /// The credentials do not come from IAM Identity Center.
    NotALoginProfile = "NOT_A_LOGIN_PROFILE",
    /// The user declined.
    LoginDenied = "LOGIN_DENIED",
    /// Nobody finished the sign-in in time.
    LoginExpired = "LOGIN_EXPIRED",
    /// AWS refused the role.
    AccessDenied = "ACCESS_DENIED",
    /// AWS finds the time of the request too far from its own.
    ClockSkew = "CLOCK_SKEW",
    /// AWS does not accept the keys that the profile starts from.
    KeysRejected = "KEYS_REJECTED",
    /// STS is not activated in the region for the account.
    RegionDisabled = "REGION_DISABLED",
    /// There are none, neither in the profile nor where the default chain looks.
    NoCredentials = "NO_CREDENTIALS",
    /// The sign-in is valid, and has no such account or role.
    NoAccountAccess = "NO_ACCOUNT_ACCESS",
    /// It may pass by itself.
    CredentialsUnavailable = "CREDENTIALS_UNAVAILABLE",
    /// The record cannot be written.
    AuditUnavailable = "AUDIT_UNAVAILABLE",
    /// This broker takes no more calls; the next one will.
    BrokerEnding = "BROKER_ENDING",
    /// Too many requests.
    RateLimited = "RATE_LIMITED",
    /// Too much at once, of the user or of all.
    TooMuchInFlight = "TOO_MUCH_IN_FLIGHT",
    /// A bug of the broker.
    Internal = "UNSPECIFIED",
}
