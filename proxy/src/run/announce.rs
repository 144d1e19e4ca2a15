//! Logs the resolved options, and warnings about options without effect.

use sigward_proto::host::HostScope;

use crate::broker::Route;
use crate::config::{BrokerAddress, Config, ProfileName};

/// Logs the configuration once at the start. Values of `--header` and `--metadata` may be secret,
/// so only their names are logged.
pub(super) fn announce(config: &Config, route: &Route) {
    let host = config.endpoint.host_str().and_then(HostScope::of);
    let broker = route.address().shared().unwrap_or_else(|| "a private one".to_owned());
    let profiles: Vec<&str> = config.named_profiles().map(ProfileName::as_str).collect();
    let metadata: Vec<&str> = config.metadata.iter().map(|(key, _)| key.as_str()).collect();
    let headers: Vec<&str> = config.headers.iter().map(|(name, _)| name.as_str()).collect();
    tracing::info!(
        endpoint = %config.endpoint,
        service = config.service.as_deref().or(host.map(|it| it.service)).unwrap_or("the broker's"),
        signing_region =
            config.region.as_deref().or(host.map(|it| it.regions)).unwrap_or("the broker's"),
        ?profiles,
        %broker,
        ?metadata,
        ?headers,
        "starting"
    );
    for warning in warnings(config, route, host) {
        tracing::warn!("{warning}");
    }
}

fn warnings(config: &Config, route: &Route, host: Option<HostScope<'_>>) -> Vec<String> {
    let mut warnings = Vec::new();
    let given = [
        ("--service", config.service.as_deref(), host.map(|host| host.service)),
        ("--region", config.region.as_deref(), host.map(|host| host.regions)),
    ];
    for (option, value, of_host) in given {
        let Some(value) = value else { continue };
        let broker = route.address();
        if broker != BrokerAddress::Private {
            warnings.push(format!(
                "{option} {value} has no effect: {broker} signs as configured in its [[endpoint]] \
                 (--broker private uses {option})"
            ));
        } else if let Some(of_host) = of_host
            && of_host != value
        {
            warnings.push(format!(
                "{option} {value} contradicts the endpoint, whose host is for {of_host}: AWS will \
                 probably refuse the signatures; leave {option} out"
            ));
        }
    }
    for (name, _) in &config.headers_without_effect {
        warnings.push(format!(
            "--header {name}=… has no effect, as in mcp-proxy-for-aws: each request has its own"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;
    use crate::environment::Environment;

    fn warnings_of(arguments: &[&str], route: &Route) -> Vec<String> {
        let program = ["sigward-proxy", "https://aws-mcp.us-east-1.api.aws/mcp"];
        let arguments = program.iter().chain(arguments).map(Into::into);
        let config = cli::parse(arguments, &Environment::with(&[])).unwrap().config;
        warnings(&config, route, config.endpoint.host_str().and_then(HostScope::of))
    }

    #[test]
    fn options_without_effect_are_reported() {
        let shared = Route::Unix("/run/sigward/broker.sock".into());
        let both = warnings_of(&["--service", "aws-mcp", "--region", "us-east-1"], &shared);
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both[0].contains("--service aws-mcp has no effect"), "{both:?}");
        assert!(both[1].contains("unix:/run/sigward/broker.sock"), "{both:?}");
        assert!(warnings_of(&[], &shared).is_empty());
        let header = warnings_of(&["--header", "User-Agent=secret"], &shared);
        assert!(header[0].contains("user-agent") && !header[0].contains("secret"), "{header:?}");
    }
}
