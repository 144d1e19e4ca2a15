//! Tests which servers a profile trusts: an STS over TLS, with a certificate of an authority that
//! only the bundle has.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::*;

/// An STS, and its authority's certificate.
async fn sts() -> (String, String) {
    let key = || KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
    let own = key();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = certificate.signed_by(&own, &authority).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(own.serialize_der()).expect("a key"),
        )
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that doesn't trust the server hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let (mut request, mut piece) = (Vec::new(), [0; 4096]);
            while !request.windows(10).any(|it| it == b"Action=Ass") {
                let read = stream.read(&mut piece).await.expect("a call");
                request.extend_from_slice(&piece[..read]);
            }
            let body = assumed("T");
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes()).await.expect("an answer");
            stream.shutdown().await.ok();
        }
    });
    (url, authority.pem())
}

/// The same, with `AWS_CA_BUNDLE`.
fn source_with(at: &Path, ca_bundle: Option<PathBuf>) -> Arc<Source> {
    let source = source(at, "dev", "dev");
    let source = Arc::into_inner(source).expect("the only reference");
    Arc::new(Source { ca_bundle, ..source })
}

#[tokio::test]
async fn a_ca_bundle_decides_whom_a_profile_trusts() {
    let (url, authority) = sts().await;
    let (_, stranger) = sts().await;
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    write(at, "credentials", "[keys]\naws_access_key_id = A\naws_secret_access_key = s\n");
    write(at, "ours.pem", &authority);
    write(at, "theirs.pem", &stranger);
    write(at, "both.pem", &format!("{stranger}{authority}"));
    for (own, environment, trusted) in [
        (None, None, false),
        (Some("ours.pem"), None, true),
        (Some("theirs.pem"), None, false),
        (Some("both.pem"), None, true),
        (None, Some("ours.pem"), true),
        (None, Some("theirs.pem"), false),
        // The profile's own bundle has priority.
        (Some("ours.pem"), Some("theirs.pem"), true),
        (Some("theirs.pem"), Some("ours.pem"), false),
    ] {
        let bundle = own.map(|name| format!("ca_bundle = {}\n", at.join(name).display()));
        let role = "role_arn = arn:aws:iam::1:role/X\nsource_profile = keys\n";
        let bundle = bundle.unwrap_or_default();
        write(at, "config", &format!("[profile dev]\n{role}endpoint_url = {url}\n{bundle}"));
        let source = source_with(at, environment.map(|name| at.join(name)));
        let loaded = source.load(None, Effort::Background, now(), Box::new(drop)).await;
        let reason = loaded.map(|keys| keys.access_key_id().to_owned()).map_err(|it| it.reason());
        let expected =
            if trusted { Ok("T".to_owned()) } else { Err(Reason::CredentialsUnavailable) };
        assert_eq!(reason, expected, "own {own:?}, environment {environment:?}");
    }
}
