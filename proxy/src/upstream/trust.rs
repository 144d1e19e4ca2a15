//! The certificate authorities for the endpoint, with errors that name the file and the option or
//! variable.

use std::path::Path;

use reqwest::{Certificate, ClientBuilder};

use crate::config::Authorities;

/// Why the endpoint can't be reached at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The certificate authorities can't be read.
    #[error("{origin} {path}: {why}")]
    Authorities {
        /// The option or the variable.
        origin: &'static str,
        /// The path in it.
        path: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The HTTP client can't be built.
    #[error("can't make TLS connections: {0}")]
    Client(String),
}

/// Makes the client trust `authorities`.
pub(super) fn trust(
    builder: ClientBuilder,
    authorities: &Authorities,
) -> Result<ClientBuilder, SetupError> {
    match authorities {
        Authorities::Bundle { origin, path } => {
            Ok(builder.tls_certs_only(certificates(origin, path)?))
        }
        Authorities::Machine { file, directories } => {
            // The TLS library reads them itself. It skips files that it can't read, and if there is
            // no certificate, its error doesn't name the variable.
            if let Some(file) = file {
                certificates("SSL_CERT_FILE", file)?;
            } else if let Some(directories) = directories
                && !std::env::split_paths(directories).any(|directory| directory.is_dir())
            {
                return Err(SetupError::Authorities {
                    origin: "SSL_CERT_DIR",
                    path: directories.display().to_string(),
                    why: "no such directory; name one with certificate authorities, or unset it"
                        .to_owned(),
                });
            }
            Ok(builder)
        }
    }
}

/// The certificates in a file; at least one.
fn certificates(origin: &'static str, path: &Path) -> Result<Vec<Certificate>, SetupError> {
    let wrong = |why: String| SetupError::Authorities {
        origin,
        path: path.display().to_string(),
        why: format!("{why}; name a file of certificate authorities in PEM, or leave it out"),
    };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if found.is_empty() => Err(wrong("it has no certificate".to_owned())),
        Ok(found) => Ok(found),
        Err(_) => Err(wrong("it holds an entry that isn't a certificate".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(authorities: &Authorities) -> String {
        trust(reqwest::Client::builder(), authorities).unwrap_err().to_string()
    }

    #[test]
    fn an_error_names_the_file_and_the_option_or_variable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("authorities.pem");
        let bundle = Authorities::Bundle { origin: "--ca-bundle", path: path.clone() };
        let machine = Authorities::Machine { file: Some(path.clone()), directories: None };
        let name = path.display().to_string();
        for (authorities, origin) in [(&bundle, "--ca-bundle"), (&machine, "SSL_CERT_FILE")] {
            let _ = std::fs::remove_file(&path);
            let missing = error(authorities);
            assert!(missing.contains(origin) && missing.contains(&name), "{missing}");
            assert!(missing.contains("No such file"), "{missing}");
            std::fs::write(&path, "nothing of the kind").unwrap();
            assert!(error(authorities).contains("has no certificate"));
        }
        let directories = Some("/nonexistent/a:/nonexistent/b".into());
        let machine = Authorities::Machine { file: None, directories };
        assert!(error(&machine).contains("SSL_CERT_DIR /nonexistent/a:/nonexistent/b"));
    }
}
