//! What the name of an AWS host says of the signatures that it takes. A broker decides what is signed;
//! this is for what the proxy tells a person about it.

use url::Url;

/// Service and region, as a host of AWS names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostScope<'a> {
    /// The signing name.
    pub service: &'a str,
    /// The region.
    pub region: &'a str,
}

impl<'a> HostScope<'a> {
    /// What the host of `url` says; `None` if it isn't a name that AWS gives MCP servers.
    #[must_use]
    pub fn of(url: &'a Url) -> Option<Self> {
        let labels: Vec<&str> = url.host_str()?.split('.').collect();
        match labels.as_slice() {
            [.., "bedrock-agentcore", region, "amazonaws", "com"] => {
                Some(Self { service: "bedrock-agentcore", region })
            }
            [service, region, "api", "aws"] => Some(Self { service, region }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_aws_name_service_and_region() {
        for (url, expected) in [
            ("https://aws-mcp.us-east-1.api.aws/mcp", Some(("aws-mcp", "us-east-1"))),
            (
                "https://gw-1.gateway.bedrock-agentcore.eu-west-1.amazonaws.com/mcp",
                Some(("bedrock-agentcore", "eu-west-1")),
            ),
            ("https://mcp.example.com/mcp", None),
            ("https://aws-mcp.us-east-1.api.aws.evil.example/mcp", None),
            ("http://127.0.0.1:1/mcp", None),
        ] {
            let url = Url::parse(url).unwrap();
            let scope = HostScope::of(&url).map(|scope| (scope.service, scope.region));
            assert_eq!(scope, expected, "{url}");
        }
    }
}
