//! Reads TLS files in PEM (RFC 7468), for both sides.
//!
//! Invariant: errors contain no text of a file, and the text that was read is zeroized.

use std::fs::File;
use std::io::{self, Read as _};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

/// More than any certificate chain or bundle of authorities has, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The content of an open file, which may be a private key.
///
/// # Errors
/// Errors of reading, or the file isn't a regular file of at most 1 MiB.
pub fn read(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let found = file.metadata()?;
    if !found.is_file() || found.len() > MAX_FILE {
        let why = "it isn't a file of 1 MiB at most";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    // Allocated in full at once: growing would leave copies behind.
    let length = usize::try_from(found.len()).unwrap_or(0);
    let mut text = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}

/// The certificates in a text; at least one.
///
/// # Errors
/// Describes what is wrong.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    // The library's messages contain text of the file.
    let certificates = certificates.map_err(|_| "it isn't valid PEM")?;
    if certificates.is_empty() { Err("it has no certificate in PEM") } else { Ok(certificates) }
}
