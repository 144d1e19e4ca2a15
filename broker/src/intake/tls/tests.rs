use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::clock;
use crate::error::Reason;
use crate::peer::Standing;

const ID: &str = "spiffe://example.org/agent";

/// A directory with TLS files.
struct Files {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, key()).expect("an authority")
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let files = Self { directory, authority: authority("one") };
        let (cert, key) = files.issue(SanType::DnsName("broker.test".try_into().expect("a name")));
        files.write("cert", &cert);
        files.write("key", &key);
        files.write("client_ca", &files.authority.pem());
        files
    }

    /// A certificate of the authority for one name, and its key.
    fn issue(&self, name: SanType) -> (String, String) {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = vec![name];
        parameters.not_after = rcgen::date_time_ymd(2090, 1, 1);
        let key = key();
        let certificate = parameters.signed_by(&key, &self.authority).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect(name);
        self.mode(name, 0o600);
    }

    fn mode(&self, name: &str, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.path(name), mode).expect(name);
    }

    fn files(&self) -> TlsFiles {
        let [cert, key, client_ca] = ["cert", "key", "client_ca"].map(|name| self.path(name));
        TlsFiles { cert, key, client_ca }
    }

    fn load(&self) -> Result<Material, Unusable> {
        load(&self.files(), 1)
    }

    fn refused(&self) -> String {
        self.load().expect_err("they can't be used").to_string()
    }
}

#[test]
fn errors_name_the_file_and_the_reason_without_its_contents() {
    let files = Files::new();
    let good = |name: &str| std::fs::read_to_string(files.path(name)).expect(name);
    let (cert, key, client_ca) = (good("cert"), good("key"), good("client_ca"));
    files.load().expect("good files");
    let secret = key.lines().nth(1).expect("a line of the key").to_owned();
    let other_key = self::key().serialize_pem();
    let half = &key[..key.len() / 2];
    for (name, text, expected) in [
        ("key", other_key.as_str(), "isn't the key of the certificate"),
        ("key", "nothing of the kind", "no private key"),
        ("key", half, "no private key"),
        ("key", &key.replace("BEGIN", "begin"), "no private key"),
        ("cert", key.as_str(), "no certificate"),
        ("cert", half, "valid PEM"),
        ("cert", &format!("-----BEGIN {secret}\n{key}"), "valid PEM"),
        ("cert", "", "no certificate"),
        ("client_ca", "", "no certificate"),
        ("client_ca", key.as_str(), "no certificate"),
        (
            "client_ca",
            "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
            "isn't an authority's",
        ),
    ] {
        files.write(name, text);
        let why = files.refused();
        assert!(why.contains(&format!("listen.tls.{name} ")) && why.contains(expected), "{why}");
        assert!(why.contains(files.path(name).to_str().expect("text")), "{why}");
        assert!(!why.contains(&secret), "{why}");
        for (name, text) in [("cert", &cert), ("key", &key), ("client_ca", &client_ca)] {
            files.write(name, text);
        }
    }
    files.load().expect("good files");
    std::fs::remove_file(files.path("client_ca")).expect("it exists");
    assert!(files.refused().contains("No such file"));
}

/// The attacks: another user reads the key, or adds an authority of their own.
#[test]
fn a_key_readable_and_files_writable_by_others_are_refused() {
    let files = Files::new();
    for (name, mode, expected) in [
        ("key", 0o644, "chmod o-r"),
        ("key", 0o602, "every user can change it"),
        ("client_ca", 0o666, "every user can change it"),
        ("cert", 0o646, "every user can change it"),
    ] {
        files.mode(name, mode);
        let why = files.refused();
        assert!(why.contains(name) && why.contains(expected), "{why}");
        files.mode(name, 0o600);
    }
    for (name, mode) in [("key", 0o440), ("cert", 0o644), ("client_ca", 0o644)] {
        files.mode(name, mode);
    }
    files.load().expect("a group may read the key, and all users the rest");
}

#[test]
fn a_pipe_in_place_of_a_file_does_not_block() {
    let files = Files::new();
    std::fs::remove_file(files.path("key")).expect("it exists");
    rustix::fs::mkfifoat(rustix::fs::CWD, files.path("key"), 0o600.into()).expect("a pipe");
    assert!(files.refused().contains("listen.tls.key"));
}

/// The certificate of a peer after its handshake.
async fn certificate(files: &Files, material: &watch::Sender<Arc<Material>>) -> Arc<Certificate> {
    let (client, server) = tokio::io::duplex(64 << 10);
    let (cert, key) = files.issue(SanType::URI(ID.try_into().expect("an id")));
    let mut roots = RootCertStore::empty();
    roots.add(files.authority.der().clone()).expect("an authority");
    let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("broker.test").expect("a name");
    let connecting = async {
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, client).await?;
        stream.write_all(b"x").await?;
        Ok::<_, io::Error>(stream)
    };
    let acceptor = TlsAcceptor::from(Arc::clone(&material.borrow().config));
    let accepting = async {
        let mut stream = acceptor.accept(server).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    let (_client, server) = tokio::try_join!(connecting, accepting).expect("a handshake");
    Arc::new(Certificate::of(server.get_ref().1, material.subscribe()).expect("a name"))
}

#[tokio::test]
async fn a_certificate_is_valid_until_its_expiry_and_while_its_authority_is_trusted() {
    let files = Files::new();
    let material = watch::Sender::new(Arc::new(files.load().expect("good files")));
    let certificate = certificate(&files, &material).await;
    assert_eq!(certificate.name().to_string(), ID);
    let now = clock::now();
    certificate.check(now).expect("it is valid");
    // The attack: a clock that goes back must not make an expired certificate valid for ever.
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(3_786_912_000);
    certificate.check(not_after).expect("its last moment");
    let late = certificate.check(not_after + Duration::from_secs(1)).expect_err("expired");
    assert_eq!(late.reason(), Reason::PeerUnknown);
    assert!(late.detail().contains("expired") && late.detail().contains(ID), "{late}");
    certificate.check(now).expect("the clock was wrong");
    let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    assert!(certificate.check(before).is_err(), "not yet valid");

    // First the file has one more authority; then the original one is removed.
    let both = format!("{}{}", files.authority.pem(), authority("two").pem());
    files.write("client_ca", &both);
    material.send_replace(Arc::new(load(&files.files(), 2).expect("good files")));
    certificate.check(now).expect("its authority is there");
    let mut ended = Box::pin(certificate.ended());
    assert!(futures_util::poll!(&mut ended).is_pending());
    files.write("client_ca", &authority("two").pem());
    material.send_replace(Arc::new(load(&files.files(), 3).expect("good files")));
    let denial = certificate.check(now).expect_err("its authority was removed");
    assert_eq!(denial.reason(), Reason::PeerUnknown);
    crate::deadline::within(ended).await;
}

#[tokio::test]
async fn changed_files_are_loaded_and_invalid_ones_rejected() {
    let files = Files::new();
    let material = watch::Sender::new(Arc::new(files.load().expect("good files")));
    let tls = Tls { files: files.files(), material };
    let metrics = Metrics::default();
    let health =
        || crate::audit::Health { head: String::new(), failures: 0, queued: 0, summed_up: 0 };
    let rejected =
        || metrics.text(&[], &[], false, &health()).contains("\nsigward_tls_files_rejected 1\n");
    let generation = || tls.material.borrow().generation;
    let scene = async {
        assert!(!rejected());
        let good = std::fs::read_to_string(files.path("client_ca")).expect("a file");
        files.write("client_ca", "half a fi");
        crate::deadline::until(rejected).await;
        assert_eq!(generation(), 1, "the valid ones stay in effect");
        files.write("client_ca", &good);
        crate::deadline::until(|| !rejected()).await;
        assert_eq!(generation(), 1, "the contents are the same");
        // As in Kubernetes: a link to a directory is replaced.
        files.write("client_ca", &format!("{good}{}", authority("two").pem()));
        crate::deadline::until(|| generation() == 2).await;
    };
    tokio::select! {
        () = tls.follow(&metrics) => unreachable!("it never ends"),
        () = scene => {}
    }
}

#[tokio::test]
async fn a_replaced_link_is_a_change() {
    let files = Files::new();
    let at = files.directory.path();
    let swap = |name: &str, to: &str| {
        std::os::unix::fs::symlink(to, at.join("new")).expect("a link");
        std::fs::rename(at.join("new"), at.join(name)).expect("an atomic swap");
    };
    let volume = |name: &str, of: &Files| {
        std::fs::create_dir(at.join(name)).expect("a directory");
        for file in ["cert", "key", "client_ca"] {
            std::fs::copy(of.path(file), at.join(name).join(file)).expect(file);
        }
    };
    volume("1", &files);
    volume("2", &Files::new());
    swap("..data", "1");
    for file in ["cert", "key", "client_ca"] {
        std::fs::remove_file(at.join(file)).expect(file);
        std::os::unix::fs::symlink(Path::new("..data").join(file), at.join(file)).expect(file);
    }
    let material = watch::Sender::new(Arc::new(files.load().expect("good files")));
    let tls = Tls { files: files.files(), material };
    let metrics = Metrics::default();
    let scene = async {
        let mut changed = tls.material.subscribe();
        swap("..data", "2");
        crate::deadline::within(changed.changed()).await.expect("a change");
        assert_eq!(changed.borrow().generation, 2);
    };
    tokio::select! {
        () = tls.follow(&metrics) => unreachable!("it never ends"),
        () = scene => {}
    }
}
