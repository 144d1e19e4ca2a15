//! How the endpoint is reached, according to options and environment.

use std::path::PathBuf;

use url::Url;

use crate::config::{Authorities, Network};
use crate::environment::Environment;

/// The network settings for `endpoint`. The HTTP client itself reads the other proxy variables.
pub(super) fn network(
    ca_bundle: Option<PathBuf>,
    endpoint: &Url,
    environment: &Environment,
) -> Result<Network, String> {
    let named = |name: &'static str| environment.path(name).map(|path| (name, path));
    let authorities = match ca_bundle.map(|path| ("--ca-bundle", path)).or(named("AWS_CA_BUNDLE")) {
        Some((origin, path)) => Authorities::Bundle { origin, path },
        None => Authorities::Machine {
            file: environment.path("SSL_CERT_FILE"),
            directories: environment.path("SSL_CERT_DIR"),
        },
    };
    // The first variable that is set counts, as in the HTTP client.
    let no_proxy = match environment.text("NO_PROXY")? {
        Some(list) => Some(list),
        None => environment.text("no_proxy")?,
    };
    // The attack: HTTP_PROXY sends requests for this machine through a proxy in clear text, which exposes the signature
    // and the session token. HTTPS_PROXY uses a tunnel.
    let is_direct =
        endpoint.scheme() == "http" || no_proxy.is_some_and(|list| names_with_port(list, endpoint));
    Ok(Network { authorities, is_direct })
}

/// Whether an entry of NO_PROXY with a port matches the endpoint, as in curl and Go: `host:port`,
/// `.domain:port`, `[::1]:port`. The HTTP client supports only entries without a port.
fn names_with_port(list: &str, endpoint: &Url) -> bool {
    let (Some(host), Some(port)) = (endpoint.host_str(), endpoint.port_or_known_default()) else {
        return false;
    };
    list.split([',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| {
        let Some((name, entry_port)) = entry.rsplit_once(':') else { return false };
        // An IPv6 address without brackets contains colons, but no port.
        let is_whole = !name.contains(':') || name.starts_with('[') && name.ends_with(']');
        let domain = name.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
        let within = host.strip_suffix(domain.as_str());
        is_whole
            && entry_port.parse() == Ok(port)
            && !domain.is_empty()
            && within.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_with_a_port_are_for_that_port() {
        for (list, url, expected) in [
            ("mcp.example.com:8443", "https://mcp.example.com:8443/mcp", true),
            ("mcp.example.com:8443", "https://mcp.example.com/mcp", false),
            ("a.example, MCP.example.com:443", "https://mcp.example.com/mcp", true),
            (".example.com:443", "https://mcp.example.com/mcp", true),
            ("*.example.com:443", "https://mcp.example.com/mcp", true),
            ("example.com:443", "https://mcp.example.com/mcp", true),
            ("ample.com:443", "https://mcp.example.com/mcp", false),
            ("[::1]:443", "https://[::1]/mcp", true),
            ("::1:443", "https://[::1]/mcp", false),
            (":443", "https://mcp.example.com/mcp", false),
            // Without a port: matched by the HTTP client.
            ("mcp.example.com", "https://mcp.example.com/mcp", false),
        ] {
            assert_eq!(names_with_port(list, &Url::parse(url).unwrap()), expected, "{list} {url}");
        }
    }

    #[test]
    fn the_option_precedes_the_variable_and_both_precede_the_machine() {
        let url = Url::parse("https://mcp.example.com/mcp").unwrap();
        let of = |option: Option<&str>, variables: &[(&str, &str)]| {
            let environment = Environment::with(variables);
            network(option.map(Into::into), &url, &environment).unwrap().authorities
        };
        let both = [("AWS_CA_BUNDLE", "/env.pem"), ("SSL_CERT_FILE", "/machine.pem")];
        let bundle = |origin, path: &str| Authorities::Bundle { origin, path: path.into() };
        assert_eq!(of(Some("/o.pem"), &both), bundle("--ca-bundle", "/o.pem"));
        assert_eq!(of(None, &both), bundle("AWS_CA_BUNDLE", "/env.pem"));
        let machine = |file: Option<&str>| Authorities::Machine {
            file: file.map(Into::into),
            directories: None,
        };
        assert_eq!(of(None, &both[1..]), machine(Some("/machine.pem")));
        assert_eq!(of(None, &[("AWS_CA_BUNDLE", "")]), machine(None));
    }
}
